"""Reads the files that sentence-transformers puts beside a BERT checkpoint.

All of them are optional: a plain `BertModel` checkpoint has none. What cannot be expressed by the
graph (token pooling, then L2 normalisation) is refused instead of being left out silently.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_models.errors import CheckpointError
from embed_models.json_files import read_json, read_object_if_present
from embed_models.metadata import Pooling

_POOLING_FLAG = "pooling_mode_"
_POOLING_OF_FLAG: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
}
_SUPPORTED_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class SentenceConfig:
    """What a checkpoint says about its use as a sentence encoder."""

    pooling: Pooling | None
    max_seq_length: int | None
    do_lower_case: bool
    prompts: dict[str, str]
    normalizes: bool


def read_sentence_config(directory: Path, pooling: Pooling | None) -> SentenceConfig:
    """Read the files; a `pooling` that is given replaces what they say about it."""
    modules = _read_modules(directory)
    settings_path = directory / "sentence_bert_config.json"
    settings = read_object_if_present(settings_path)
    max_seq_length = settings.get("max_seq_length")
    if max_seq_length is not None and not isinstance(max_seq_length, int):
        raise CheckpointError(f"{settings_path}: max_seq_length {max_seq_length!r} is no integer")
    prompts = _read_prompts(directory / "config_sentence_transformers.json")
    pooling_path = directory / modules.get("Pooling", "1_Pooling") / "config.json"
    pooling_config = read_object_if_present(pooling_path)
    if prompts and pooling_config.get("include_prompt") is False:
        raise CheckpointError(
            f"{pooling_path}: include_prompt false is not supported; "
            "the graph pools over all tokens, those of the prompt too"
        )
    return SentenceConfig(
        pooling=pooling or _pooling_of(pooling_config, pooling_path),
        max_seq_length=max_seq_length,
        do_lower_case=bool(settings.get("do_lower_case", False)),
        prompts=prompts,
        normalizes="Normalize" in modules,
    )


def _read_modules(directory: Path) -> dict[str, str]:
    """Return the short type names in modules.json with the folder of each."""
    path = directory / "modules.json"
    if not path.is_file():
        return {}
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise CheckpointError(f"{path} holds no list of modules; download the checkpoint again")
    modules: dict[str, str] = {}
    for entry in entries:
        name = str(entry.get("type", "")).rsplit(".", 1)[-1]
        if name not in _SUPPORTED_MODULES:
            raise CheckpointError(
                f"{path}: the module {entry.get('type')} is not supported; "
                f"only {', '.join(_SUPPORTED_MODULES)} can be imported"
            )
        modules[name] = str(entry.get("path", ""))
    return modules


def _pooling_of(config: dict[str, Any], path: Path) -> Pooling | None:
    if not config:
        return None
    flags = [key for key, value in config.items() if key.startswith(_POOLING_FLAG) and value]
    if len(flags) != 1 or flags[0] not in _POOLING_OF_FLAG:
        raise CheckpointError(
            f"{path}: {' + '.join(flags) or 'no pooling mode'} is not supported; "
            "only pooling_mode_mean_tokens or pooling_mode_cls_token alone is "
            "(--pooling mean or --pooling cls overrides the file)"
        )
    return _POOLING_OF_FLAG[flags[0]]


def _read_prompts(path: Path) -> dict[str, str]:
    prompts = read_object_if_present(path).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise CheckpointError(f"{path}: prompts has to map names to texts")
    return prompts
