"""Reads the files that sentence-transformers puts beside a checkpoint, in their old and new forms.

All of them are optional: a plain checkpoint has none. What cannot be expressed by the graph (token
pooling, Dense layers, L2 normalisation) is refused instead of being left out silently.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_models.errors import CheckpointError
from embed_models.head import Activation, Dense
from embed_models.json_files import read_json, read_object_if_present
from embed_models.metadata import Pooling
from embed_models.weights import Weights

# Before version 6 each mode had a flag.
_MODE_OF_FLAG = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLING_OF_MODE: dict[str, Pooling] = {
    "mean": "mean",
    "cls": "cls",
    "max": "max",
    "weightedmean": "weightedmean",
    "lasttoken": "last",
}
# A mean that is multiplied by the root of the length: the same once it is normalised.
_SCALED_MEAN = "mean_sqrt_len_tokens"
# The modules that can be imported, in the only order in which they mean what the graph does.
_MODULES = ("Transformer", "Pooling", "Dense", "Normalize")
_ACTIVATIONS: dict[str, Activation] = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "Sigmoid": "sigmoid",
}
# A tokenizer that knows no limit says a number of this kind.
_NO_LIMIT = 1_000_000


@dataclass(frozen=True)
class SentenceConfig:
    """What a checkpoint says about its use as a sentence encoder."""

    pooling: Pooling | None
    max_seq_length: int | None
    do_lower_case: bool
    prompts: dict[str, str]
    normalizes: bool
    dense: tuple[Dense, ...] = ()
    # Whether there is a list of modules at all: without one nothing says what is to be normalised.
    has_modules: bool = True
    # Name of the prompt for texts that come with none.
    default_prompt: str | None = None


def read_sentence_config(
    directory: Path, pooling: Pooling | None, *, dense: bool = True
) -> SentenceConfig:
    """Read the files; a `pooling` that is given replaces what they say about it.

    Without `dense` the weights of Dense modules are left out.
    """
    modules = _read_modules(directory)
    names = [name for name, _ in modules]
    settings_path = directory / "sentence_bert_config.json"
    settings = read_object_if_present(settings_path)
    max_seq_length = settings.get("max_seq_length")
    if max_seq_length is not None and not isinstance(max_seq_length, int):
        raise CheckpointError(f"{settings_path}: max_seq_length {max_seq_length!r} is no integer")
    prompts, default = _read_prompts(directory / "config_sentence_transformers.json")
    pooling_path = directory / dict(modules).get("Pooling", "1_Pooling") / "config.json"
    pooling_config = read_object_if_present(pooling_path)
    if any(prompts.values()) and pooling_config.get("include_prompt") is False:
        raise CheckpointError(
            f"{pooling_path}: include_prompt false is not supported; "
            "the graph pools over all tokens, those of the prompt too"
        )
    normalizes = "Normalize" in names
    plain = normalizes and "Dense" not in names
    return SentenceConfig(
        pooling=pooling or _pooling_of(pooling_config, pooling_path, scaled=plain),
        max_seq_length=max_seq_length,
        do_lower_case=bool(settings.get("do_lower_case", False)),
        prompts=prompts,
        normalizes=normalizes,
        dense=tuple(
            _read_dense(directory / path) for name, path in modules if dense and name == "Dense"
        ),
        has_modules=bool(modules),
        default_prompt=default,
    )


def sequence_limit(directory: Path) -> tuple[int, str] | None:
    """Return the most tokens that the files beside a model name, and the file that says so.

    As in sentence-transformers: `max_seq_length` of sentence_bert_config.json, else
    `model_max_length` of tokenizer_config.json. None: neither says anything.
    """
    for name, key in (
        ("sentence_bert_config.json", "max_seq_length"),
        ("tokenizer_config.json", "model_max_length"),
    ):
        value = read_object_if_present(directory / name).get(key)
        # Written as a floating-point number where it is "none".
        if isinstance(value, int | float) and 0 < value < _NO_LIMIT:
            return int(value), name
    return None


def _read_modules(directory: Path) -> list[tuple[str, str]]:
    """Return the short type names in modules.json with the folder of each, in their order."""
    path = directory / "modules.json"
    if not path.is_file():
        return []
    entries = read_json(path)
    well_formed = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not well_formed or not entries:
        raise CheckpointError(f"{path} holds no list of modules; download the checkpoint again")
    modules = []
    for entry in entries:
        name = str(entry.get("type", "")).rsplit(".", 1)[-1]
        if name not in _MODULES:
            raise CheckpointError(
                f"{path}: the module {entry.get('type')} is not supported; "
                f"only {', '.join(_MODULES)} can be imported"
            )
        modules.append((name, str(entry.get("path", ""))))
    places = [_MODULES.index(name) for name, _ in modules]
    once = [name for name, _ in modules if name != "Dense"]
    in_order = places == sorted(places) and len(set(once)) == len(once)
    if not in_order or modules[0] != ("Transformer", ""):
        raise CheckpointError(
            f"{path}: the modules {', '.join(name for name, _ in modules)} are not supported in "
            f"this order; it has to be {', '.join(_MODULES)}, with the Transformer in the "
            "directory itself"
        )
    return modules


def _pooling_of(config: dict[str, Any], path: Path, *, scaled: bool) -> Pooling | None:
    """Return the mode; `scaled` says that a factor of the vector makes no difference."""
    if not config:
        return None
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for flag, mode in _MODE_OF_FLAG.items() if config.get(flag)]
    if isinstance(modes, str):
        modes = [modes]
    known = _POOLING_OF_MODE | ({_SCALED_MEAN: "mean"} if scaled else {})
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in known:
        found = " + ".join(map(str, modes)) if isinstance(modes, list) and modes else "no mode"
        raise CheckpointError(
            f"{path}: the pooling {found} is not supported; only one of "
            f"{', '.join(known)} alone is (--pooling MODE overrides the file)"
        )
    mode: Pooling = known[modes[0]]
    return mode


def _read_dense(folder: Path) -> Dense:
    path = folder / "config.json"
    config = read_object_if_present(path)
    sizes = [config.get(f"{end}_features") for end in ("in", "out")]
    if not all(isinstance(size, int) and size > 0 for size in sizes):
        raise CheckpointError(f"{path}: in_features and out_features have to be positive integers")
    activation = str(config.get("activation_function", "")).rsplit(".", 1)[-1]
    if activation not in _ACTIVATIONS:
        raise CheckpointError(
            f"{path}: activation_function {config.get('activation_function')!r} is not supported; "
            f"only {', '.join(_ACTIVATIONS)} are"
        )
    for key in ("module_input_name", "module_output_name"):
        if config.get(key, "sentence_embedding") != "sentence_embedding":
            raise CheckpointError(
                f"{path}: {key} {config[key]!r} is not supported; only sentence_embedding is"
            )
    inner, outer = (int(size) for size in sizes if size)
    shapes: dict[str, tuple[int, ...]] = {"linear.weight": (outer, inner)}
    if config.get("bias", True):
        shapes["linear.bias"] = (outer,)
    tensors = Weights(folder / "model.safetensors").read(shapes)
    return Dense(tensors["linear.weight"], tensors.get("linear.bias"), _ACTIVATIONS[activation])


def _read_prompts(path: Path) -> tuple[dict[str, str], str | None]:
    """Return the prompts by name, and the name of the one for texts that come with none."""
    config = read_object_if_present(path)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise CheckpointError(f"{path}: prompts has to map names to texts")
    default = config.get("default_prompt_name")
    if default is not None and default not in prompts:
        raise CheckpointError(
            f"{path}: default_prompt_name {default!r} is none of its prompts "
            f"({', '.join(prompts) or 'there are none'})"
        )
    return prompts, default
