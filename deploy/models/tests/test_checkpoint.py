"""Reading checkpoints: what is understood, and what is refused with which words."""

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file
from tiny_bert import CONFIG, random_tensors, write_checkpoint, write_json

from embed_models.checkpoint import read_checkpoint, read_license
from embed_models.errors import CheckpointError
from embed_models.sources import package_model_directory, resolve_source


def test_reads_everything(checkpoint_dir: Path) -> None:
    write_json(
        checkpoint_dir / "config_sentence_transformers.json", {"prompts": {"query": "query: "}}
    )
    checkpoint = read_checkpoint(checkpoint_dir)
    assert checkpoint.config.num_attention_heads == 4
    assert checkpoint.pooling == "mean"
    assert checkpoint.max_seq_length == 24
    assert checkpoint.sentence.prompts == {"query": "query: "}
    assert checkpoint.sentence.normalizes
    assert checkpoint.license == "mit"
    for name, tensor in random_tensors().items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)


def test_arguments_replace_the_files(checkpoint_dir: Path) -> None:
    checkpoint = read_checkpoint(checkpoint_dir, pooling="cls", max_seq_length=16)
    assert (checkpoint.pooling, checkpoint.max_seq_length) == ("cls", 16)


def test_plain_checkpoint_needs_only_the_pooling(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, prefix="bert.")
    for name in ("sentence_bert_config.json", "modules.json", "README.md", "1_Pooling/config.json"):
        (tmp_path / name).unlink()
    with pytest.raises(CheckpointError, match="--pooling mean or --pooling cls"):
        read_checkpoint(tmp_path)
    checkpoint = read_checkpoint(tmp_path, pooling="cls")
    assert checkpoint.max_seq_length == CONFIG["max_position_embeddings"]
    assert checkpoint.license is None
    assert not checkpoint.sentence.normalizes


def test_names_of_tensorflow_checkpoints(tmp_path: Path) -> None:
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): tensor
        for name, tensor in random_tensors().items()
    }
    write_checkpoint(tmp_path, prefix="bert.", tensors=tensors)
    checkpoint = read_checkpoint(tmp_path)
    for name, tensor in random_tensors().items():
        np.testing.assert_array_equal(checkpoint.tensors[name], tensor)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_becomes_float32(checkpoint_dir: Path, dtype: Any) -> None:
    half = {name: tensor.astype(dtype) for name, tensor in random_tensors().items()}
    save_file(half, checkpoint_dir / "model.safetensors")
    tensors = read_checkpoint(checkpoint_dir).tensors
    for name, tensor in half.items():
        assert tensors[name].dtype == np.float32
        np.testing.assert_array_equal(tensors[name], tensor.astype(np.float32))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "t5"}, "model_type 't5'"),
        ({"hidden_act": "relu"}, "hidden_act 'relu'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"is_decoder": True}, "is_decoder True"),
        ({"num_attention_heads": 5}, "no multiple of num_attention_heads 5"),
        ({"hidden_size": None}, "hidden_size is None"),
        ({"layer_norm_eps": "small"}, "layer_norm_eps is 'small'"),
        ({"model_type": ["bert"]}, r"model_type \['bert'\]"),
        ({"model_type": "roberta", "pad_token_id": None}, "pad_token_id is None"),
        ({"model_type": "roberta", "pad_token_id": "x"}, "pad_token_id is 'x'"),
        ({"model_type": "roberta", "pad_token_id": -1}, "pad_token_id is -1"),
        ({"model_type": "roberta", "pad_token_id": 47}, "pad_token_id is 47"),
    ],
)
def test_unsupported_config(checkpoint_dir: Path, change: dict[str, Any], words: str) -> None:
    write_json(checkpoint_dir / "config.json", CONFIG | change)
    with pytest.raises(CheckpointError, match=words) as error:
        read_checkpoint(checkpoint_dir)
    assert "config.json" in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_missing_file(checkpoint_dir: Path, name: str) -> None:
    (checkpoint_dir / name).unlink()
    with pytest.raises(CheckpointError, match=f"has no {name}"):
        read_checkpoint(checkpoint_dir)


@pytest.mark.parametrize(
    ("missing", "instead", "words"),
    [
        ("model.safetensors", "pytorch_model.bin", "save the checkpoint in the safetensors format"),
        ("tokenizer.json", "vocab.txt", "save the fast tokenizer"),
    ],
)
def test_file_in_another_format(
    checkpoint_dir: Path, missing: str, instead: str, words: str
) -> None:
    (checkpoint_dir / missing).rename(checkpoint_dir / instead)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(checkpoint_dir)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "modules.json"])
def test_damaged_file(checkpoint_dir: Path, name: str) -> None:
    (checkpoint_dir / name).write_text("{")
    with pytest.raises(CheckpointError, match=f"{name}.*download the checkpoint again"):
        read_checkpoint(checkpoint_dir)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("modules.json", [{"type": "sentence_transformers.models.CNN"}], "module .*CNN"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": False}, "the pooling no mode is"),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "alone",
        ),
        ("sentence_bert_config.json", {"max_seq_length": "long"}, "is no integer"),
        ("sentence_bert_config.json", {"max_seq_length": 49}, "from 3 to 48"),
        ("config_sentence_transformers.json", {"prompts": ["query"]}, "map names to texts"),
    ],
)
def test_unsupported_sentence_config(
    checkpoint_dir: Path, name: str, value: object, words: str
) -> None:
    write_json(checkpoint_dir / name, value)
    with pytest.raises(CheckpointError, match=words):
        read_checkpoint(checkpoint_dir)


def test_pooling_that_leaves_out_the_prompt(checkpoint_dir: Path) -> None:
    write_json(
        checkpoint_dir / "1_Pooling" / "config.json",
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
    )
    read_checkpoint(checkpoint_dir)
    write_json(checkpoint_dir / "config_sentence_transformers.json", {"prompts": {"query": "q: "}})
    with pytest.raises(CheckpointError, match="include_prompt false"):
        read_checkpoint(checkpoint_dir)


def test_tensors_of_another_checkpoint(checkpoint_dir: Path) -> None:
    write_json(checkpoint_dir / "config.json", CONFIG | {"num_hidden_layers": 3})
    with pytest.raises(CheckpointError, match=r"lacks the tensor encoder\.layer\.2"):
        read_checkpoint(checkpoint_dir)
    write_json(checkpoint_dir / "config.json", CONFIG | {"intermediate_size": 65})
    with pytest.raises(CheckpointError, match=r"has the shape \(64, 32\).* \(65, 32\)"):
        read_checkpoint(checkpoint_dir)


def test_quantized_tensors(checkpoint_dir: Path) -> None:
    quantized = {name: tensor.astype(np.int8) for name, tensor in random_tensors().items()}
    save_file(quantized, checkpoint_dir / "model.safetensors")
    with pytest.raises(CheckpointError, match="stored as I8; import the unquantized checkpoint"):
        read_checkpoint(checkpoint_dir)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: apache-2.0\ntags:\n- x\n---\n", "apache-2.0"),
        ("---\nlicense: 'mit'  # comment\n---\n", "mit"),
        ("---\nlanguage: en\n---\n\nlicense: mit\n", None),
        ("# Title\n\nlicense: mit\n", None),
        ("---\nlicense: other\nlicense_name: our-own\n---\n", "our-own"),
        ("---\nlicense: other\n---\n", "other"),
    ],
)
def test_license_in_the_front_matter(tmp_path: Path, text: str, expected: str | None) -> None:
    path = tmp_path / "README.md"
    path.write_text(text)
    assert read_license(path) == expected


def test_names_of_a_directory_source(tmp_path: Path) -> None:
    directory = tmp_path / "My-Model"
    directory.mkdir()
    source = resolve_source(str(directory), model_name=None, model_id=None)
    assert (source.model_name, source.model_id) == ("My-Model", "My-Model")
    source = resolve_source(str(directory), model_name=None, model_id="org/Other")
    assert (source.model_name, source.model_id) == ("Other", "org/Other")
    source = resolve_source(str(directory), model_name="Mine", model_id="org/Other")
    assert (source.model_name, source.model_id) == ("Mine", "org/Other")


def test_package_without_a_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="numpy holds 0 checkpoints"):
        package_model_directory("numpy")
    with pytest.raises(CheckpointError, match="no-such-model is not installed"):
        package_model_directory("no-such-model")
