"""Checkpoints of each architecture give the vectors that the library gives.

`make_references.py` made the checkpoints, with the vectors of sentence-transformers for them.
"""

import json
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from exported_onnx import ExportedAttention
from numpy.typing import NDArray
from onnx import TensorProto, helper
from safetensors.numpy import load_file, save_file

from embed_models.arithmetic import Arithmetic
from embed_models.checkpoint import read_checkpoint
from embed_models.errors import CheckpointError
from embed_models.graph import build_graph
from embed_models.inference import TextEncoder, cpu_session, run_batch
from embed_models.metadata import Metadata, Pooling
from embed_models.model import Model, from_checkpoint
from embed_models.onnx_import import from_onnx
from embed_models.registry import METADATA
from embed_models.rotary import _frequencies
from embed_models.sources import resolve_source
from embed_models.tokenizer import load_tokenizer

CHECKPOINTS = Path(__file__).parent / "checkpoints"
REFERENCES: dict[str, Any] = json.loads((CHECKPOINTS / "references.json").read_text("utf-8"))
MODELS: dict[str, Any] = REFERENCES["models"]
TEXTS: list[str] = REFERENCES["texts"]
# Of components; those of vectors that keep their length are a few times as large as of unit ones.
CLOSE = 1e-5


def silent(_line: str) -> None:
    """Take a line of a report."""


def imported(name: str, directory: Path, **options: Any) -> tuple[Path, Metadata]:
    source = resolve_source(str(CHECKPOINTS / name), model_name=None, model_id=None)
    return written(from_checkpoint(source, silent, **options), directory / Path(name).name)


def written(model: Model, place: Path) -> tuple[Path, Metadata]:
    place.mkdir(parents=True)
    metadata = model.write(place, version="v1", now="2026-01-01T00:00:00Z", report=silent)
    (place / METADATA).write_text(metadata.to_json(), encoding="utf-8")
    return place, metadata


def embedded(place: Path, metadata: Metadata, prompt: str = "") -> NDArray[np.float32]:
    encoder = TextEncoder(place / "fp32.onnx", place / "tokenizer.json", metadata.max_seq_length)
    return np.stack([encoder.embed(prompt + text).vector for text in TEXTS])


@pytest.mark.parametrize("name", MODELS)
def test_vectors_are_those_of_the_library(tmp_path: Path, name: str) -> None:
    place, metadata = imported(name, tmp_path)
    wanted = MODELS[name]
    default = metadata.prompts.get(metadata.default_prompt or "", "")
    np.testing.assert_allclose(
        embedded(place, metadata, default), wanted["vectors"], rtol=0, atol=CLOSE
    )
    for prompt, vectors in wanted["prompts"].items():
        found = embedded(place, metadata, metadata.prompts[prompt])
        np.testing.assert_allclose(found, vectors, rtol=0, atol=CLOSE)
    norms = np.linalg.norm(wanted["vectors"], axis=1)
    assert metadata.normalized == np.allclose(norms, 1, atol=1e-4)
    assert metadata.dimension == len(wanted["vectors"][0])


@pytest.mark.parametrize("name", MODELS)
def test_a_text_among_others_has_the_same_vector(tmp_path: Path, name: str) -> None:
    """Padding is not seen, and neither does it move a window or a distance."""
    place, metadata = imported(name, tmp_path)
    tokenizer = load_tokenizer((place / "tokenizer.json").read_text("utf-8"))
    tokenizer.enable_truncation(metadata.max_seq_length)
    session = cpu_session(place / "fp32.onnx", threads=1)
    default = metadata.prompts.get(metadata.default_prompt or "", "")
    sequences = [tokenizer.encode(default + text).ids for text in TEXTS]
    found = run_batch(session, sequences)
    np.testing.assert_allclose(found, MODELS[name]["vectors"], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_poolings_are_those_of_the_library(tmp_path: Path, pooling: Pooling) -> None:
    place, metadata = imported("bert", tmp_path, pooling=pooling)
    mode = "lasttoken" if pooling == "last" else pooling
    wanted = MODELS["bert"]["poolings"][mode]
    np.testing.assert_allclose(embedded(place, metadata), wanted, rtol=0, atol=CLOSE)


# As the hub's own files have it, which transformers translates when it loads them.
HUB_NOMIC: dict[str, Any] = {
    "n_embd": 32, "n_inner": 48, "n_head": 4, "n_layer": 2, "n_positions": 8192,
    "layer_norm_epsilon": 1e-12, "max_trained_positions": 64, "rotary_emb_base": 1000,
    "activation_function": "swiglu", "rotary_scaling_factor": 2.0,
    "hidden_size": None, "intermediate_size": None, "num_attention_heads": None,
    "num_hidden_layers": None, "max_position_embeddings": None, "hidden_act": None,
    "layer_norm_eps": None, "rope_parameters": None, "head_dim": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "change", "prefix"),
    [
        ("roberta", {"model_type": "camembert"}, "roberta."),
        (
            "nomic-bert",
            HUB_NOMIC,
            "",
        ),
        (
            "gte",
            {
                "model_type": "new", "rope_theta": 160000, "rope_parameters": None,
                "rope_scaling": None, "pack_qkv": True, "layer_norm_type": "layer_norm",
            },
            "new.",
        ),
    ],
)  # fmt: skip
def test_names_that_the_hub_has(
    tmp_path: Path, name: str, change: dict[str, Any], prefix: str
) -> None:
    directory = tmp_path / name
    shutil.copytree(CHECKPOINTS / name, directory)
    config = json.loads((directory / "config.json").read_text()) | change
    content = {key: value for key, value in config.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(content))
    weights = load_file(directory / "model.safetensors")
    save_file(
        {prefix + key: value for key, value in weights.items()}, directory / "model.safetensors"
    )
    place, metadata = imported(str(directory), tmp_path / "out")
    default = metadata.prompts.get(metadata.default_prompt or "", "")
    found = embedded(place, metadata, default)
    np.testing.assert_allclose(found, MODELS[name]["vectors"], rtol=0, atol=CLOSE)


@pytest.mark.parametrize("scaling", [2.0, None])
def test_length_of_the_hubs_nomic(tmp_path: Path, scaling: float | None) -> None:
    """Files of v1 (2.0) and v1.5 (null) say 8192, and were trained with 2048."""
    directory = tmp_path / "nomic"
    shutil.copytree(CHECKPOINTS / "nomic-bert", directory)
    config = json.loads((directory / "config.json").read_text()) | HUB_NOMIC
    content = {key: value for key, value in config.items() if value is not None}
    content |= {"max_trained_positions": 2048, "rotary_scaling_factor": scaling}
    (directory / "config.json").write_text(json.dumps(content))
    (directory / "sentence_bert_config.json").write_text('{"max_seq_length": 8192}')
    source = resolve_source(str(directory), model_name=None, model_id=None)
    lines: list[str] = []
    assert from_checkpoint(source, lines.append).max_seq_length == 2048
    assert (
        "texts have at most 2048 tokens, by config.json (sentence_bert_config.json says 8192)"
        in lines
    )
    # Who asks for more is told.
    with pytest.raises(CheckpointError, match="from 3 to 2048"):
        from_checkpoint(source, silent, max_seq_length=4096)


def test_angles_of_ntk() -> None:
    """As NTKScalingRotaryEmbedding of GTE's own code has them for longer texts, without `mixed_b`.

    There: base' = base * factor, and angle i = base'^(-2i / dim) / factor^(2 / dim). By hand, with
    the base 20000, the factor 8 and 64 components: base' = 160000, whose roots are 160000^(-1/4) =
    1/20, 160000^(-1/2) = 1/400 and 160000^(-3/4) = 1/8000, at i = 8, 16 and 24; and all is divided
    by 8^(2/64) = 2^(3/32) = e^(0.0649826) = 1.0671404. So angle 0 is 1 / 1.0671404 = 0.9370838.
    """
    settings = {"type": "ntk", "factor": 8.0}
    angles = _frequencies(settings, 20_000, 64, Path("config.json"))
    assert len(angles) == 32
    found = [angles[index] for index in (0, 8, 16, 24)]
    wanted = [0.9370838, 0.04685419, 0.002342710, 0.0001171355]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # Without a type: 1 / 20000^(16 / 64), which is 1 / 11.892071.
    assert _frequencies({}, 20_000, 64, Path("config.json"))[8] == pytest.approx(0.08408964)


# Of which there are graphs of standard operators here; of the others there are those alone that
# the import of the checkpoint makes, with operators of ONNX Runtime.
STANDARD = ("bert", "roberta", "xlm-roberta", "distilbert")
NOTHING: dict[str, Any] = dict.fromkeys(
    ("model_name", "model_id", "pooling", "max_seq_length", "license_name", "output")
)
BEHIND = ("pool/", "dense", "normalise/", "vector")


def as_exported(name: str) -> onnx.ModelProto:
    """Return a graph as exporters write it: nothing stands behind the states of the tokens."""
    directory = CHECKPOINTS / name
    if name in STANDARD:
        checkpoint = read_checkpoint(directory)
        arithmetic = Arithmetic(checkpoint.tensors)
        model = build_graph(checkpoint.config, arithmetic, checkpoint.head, ExportedAttention)
        assert {node.domain for node in model.graph.node} == {""}
    else:
        source = resolve_source(str(directory), model_name=None, model_id=None)
        model = onnx.load_from_string(from_checkpoint(source, silent).graph)
    graph = model.graph
    behind = [node for node in graph.node if node.name.startswith(BEHIND)]
    encoder = [node for node in graph.node if not node.name.startswith(BEHIND)]
    made = {value for node in encoder for value in node.output}
    (states,) = {value for node in behind for value in node.input} & made
    read = {value for node in encoder for value in node.input}
    tensors = [tensor for tensor in graph.initializer if tensor.name in read]
    for field, content in (
        (graph.node, [*encoder, helper.make_node("Identity", [states], ["last_hidden_state"])]),
        (graph.initializer, tensors),
        (
            graph.output,
            [helper.make_tensor_value_info("last_hidden_state", TensorProto.FLOAT, ["b", "s", 32])],
        ),
    ):
        del field[:]
        field.extend(content)
    return model


@pytest.mark.parametrize("exported", [False, True])
def test_the_default_prompt_is_part_of_the_space(tmp_path: Path, *, exported: bool) -> None:
    """By its text, of a checkpoint and of an ONNX file; one that callers name is none."""
    directory = tmp_path / "bert"
    shutil.copytree(CHECKPOINTS / "bert", directory)
    if exported:
        onnx.save(as_exported("bert"), directory / "model.onnx")
    prompts = {"query": "search: ", "question": "search: ", "document": "passage: ", "none": ""}

    def space(default: str | None, prompts: dict[str, str] = prompts) -> str:
        settings = {"prompts": prompts, "default_prompt_name": default}
        path = directory / "config_sentence_transformers.json"
        path.write_text(json.dumps(settings))
        if exported:
            return from_onnx(directory / "model.onnx", None, silent, **NOTHING).space
        source = resolve_source(str(directory), model_name=None, model_id=None)
        return from_checkpoint(source, silent).space

    plain = space(None, {})
    assert space(None) == space("none") == plain
    assert space("query") == space("question")
    assert len({plain, space("query"), space("document")}) == 3


@pytest.mark.parametrize("name", MODELS)
def test_vectors_of_an_onnx_file_are_those_of_the_library(tmp_path: Path, name: str) -> None:
    """Of the states of the tokens alone, with the files that stand beside them on the hub."""
    source = tmp_path / name
    shutil.copytree(CHECKPOINTS / name, source, ignore=lambda at, names: [
        file for file in names if file.startswith("model") and at == str(CHECKPOINTS / name)
        and "safetensors" in file
    ])  # fmt: skip
    (source / "onnx").mkdir()
    path = source / "onnx" / "model.onnx"
    onnx.save(as_exported(name), path)
    model = from_onnx(path, None, silent, **NOTHING)
    place, metadata = written(model, tmp_path / "version")
    wanted = MODELS[name]
    default = metadata.prompts.get(metadata.default_prompt or "", "")
    found = embedded(place, metadata, default)
    np.testing.assert_allclose(found, wanted["vectors"], rtol=0, atol=CLOSE)
    for prompt, vectors in wanted["prompts"].items():
        found = embedded(place, metadata, metadata.prompts[prompt])
        np.testing.assert_allclose(found, vectors, rtol=0, atol=CLOSE)
    _, other = imported(name, tmp_path / "checkpoint")
    for field in (
        "dimension", "dimensions", "max_seq_length", "pooling", "normalized", "prompts",
        "default_prompt",
    ):  # fmt: skip
        assert getattr(metadata, field) == getattr(other, field), field
