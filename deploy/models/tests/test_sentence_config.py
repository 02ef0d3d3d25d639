"""The files that people have beside their weights: what is understood, and what is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.numpy import save_file
from test_references import CHECKPOINTS, imported, silent
from tiny_bert import random_tensors, tokenizer_json, write_checkpoint, write_json

from embed_models import sources
from embed_models.checkpoint import read_checkpoint
from embed_models.errors import CheckpointError
from embed_models.importer import ImportRequest, import_model
from embed_models.metadata import Metadata, Pooling
from embed_models.model import from_checkpoint, from_recipe
from embed_models.recipe import load_recipe, recipe_names
from embed_models.registry import Registry
from embed_models.sentence_config import sequence_limit
from embed_models.sources import Source, resolve_source
from embed_models.tokenizer import check_ends

MODULES = "modules.json"
POOLING = "1_Pooling/config.json"


def modules(*names: str) -> list[dict[str, str]]:
    paths = ("" if name == "Transformer" else f"{n}_{name}" for n, name in enumerate(names))
    kind = "sentence_transformers.models"
    return [{"path": p, "type": f"{kind}.{n}"} for p, n in zip(paths, names, strict=True)]


def source(directory: Path) -> Source:
    return Source(directory, "tiny", "tiny")


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode": "mean", "embedding_dimension": 32}, "mean"),
        ({"pooling_mode": ["lasttoken"]}, "last"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "last"),
        # Divided by its norm it is the mean.
        ({"pooling_mode_mean_sqrt_len_tokens": True}, "mean"),
        # What a file of version 6 says counts, as there.
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),
    ],
)
def test_pooling_in_both_forms(checkpoint_dir: Path, config: dict[str, Any], pooling: str) -> None:
    write_json(checkpoint_dir / POOLING, config)
    assert read_checkpoint(checkpoint_dir).pooling == pooling


@pytest.mark.parametrize("config", [{"pooling_mode": ["mean", "cls"]}, {"pooling_mode": "median"}])
def test_pooling_that_is_none_of_them(checkpoint_dir: Path, config: dict[str, Any]) -> None:
    write_json(checkpoint_dir / POOLING, config)
    with pytest.raises(CheckpointError, match=r"the pooling .* is not supported.*--pooling MODE"):
        read_checkpoint(checkpoint_dir)


def test_scaled_mean_that_is_not_normalised(checkpoint_dir: Path) -> None:
    write_json(checkpoint_dir / POOLING, {"pooling_mode": "mean_sqrt_len_tokens"})
    write_json(checkpoint_dir / MODULES, modules("Transformer", "Pooling"))
    with pytest.raises(CheckpointError, match="mean_sqrt_len_tokens is not supported"):
        read_checkpoint(checkpoint_dir)


def test_vectors_keep_their_length_without_normalize(checkpoint_dir: Path) -> None:
    lines: list[str] = []
    assert from_checkpoint(source(checkpoint_dir), lines.append).normalized
    write_json(checkpoint_dir / MODULES, modules("Transformer", "Pooling"))
    model = from_checkpoint(source(checkpoint_dir), lines.append)
    assert not model.normalized
    assert any("--normalize divides by it" in line for line in lines)
    assert from_checkpoint(source(checkpoint_dir), silent, normalize=True).normalized
    # Of a plain encoder nothing says anything.
    (checkpoint_dir / MODULES).unlink()
    assert from_checkpoint(source(checkpoint_dir), silent).normalized


@pytest.mark.parametrize(
    "names",
    [
        ("Transformer", "Normalize", "Pooling"),
        ("Pooling", "Normalize"),
        ("Transformer", "Pooling", "Normalize", "Normalize"),
    ],
)
def test_modules_in_another_order(checkpoint_dir: Path, names: tuple[str, ...]) -> None:
    write_json(checkpoint_dir / MODULES, modules(*names))
    with pytest.raises(CheckpointError, match=r"modules.json: the modules .* in this order"):
        read_checkpoint(checkpoint_dir)


def test_dense_modules_change_vectors_and_space(checkpoint_dir: Path) -> None:
    plain = from_checkpoint(source(checkpoint_dir), silent)
    write_json(checkpoint_dir / MODULES, modules("Transformer", "Pooling", "Dense", "Normalize"))
    config = {
        "in_features": 32,
        "out_features": 8,
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    }
    write_json(checkpoint_dir / "2_Dense" / "config.json", config)
    with pytest.raises(CheckpointError, match=r"2_Dense has no model\.safetensors"):
        read_checkpoint(checkpoint_dir)
    weight = np.random.default_rng(0).normal(size=(8, 32)).astype(np.float32)
    save_file({"linear.weight": weight}, checkpoint_dir / "2_Dense" / "model.safetensors")
    dense = from_checkpoint(source(checkpoint_dir), silent)
    assert (plain.dimension, dense.dimension) == (32, 8)
    assert plain.space != dense.space
    relu = config | {"activation_function": "torch.nn.modules.activation.ReLU"}
    write_json(checkpoint_dir / "2_Dense" / "config.json", relu)
    assert from_checkpoint(source(checkpoint_dir), silent).space != dense.space
    gelu = config | {"activation_function": "torch.nn.modules.activation.GELU"}
    write_json(checkpoint_dir / "2_Dense" / "config.json", gelu)
    with pytest.raises(CheckpointError, match=r"activation_function .*GELU.* is not supported"):
        read_checkpoint(checkpoint_dir)


def test_length_is_what_the_files_say_in_turn(checkpoint_dir: Path) -> None:
    lines: list[str] = []
    write_json(checkpoint_dir / "tokenizer_config.json", {"model_max_length": 30})
    assert from_checkpoint(source(checkpoint_dir), lines.append).max_seq_length == 24
    assert "texts have at most 24 tokens, by sentence_bert_config.json" in lines
    (checkpoint_dir / "sentence_bert_config.json").unlink()
    assert from_checkpoint(source(checkpoint_dir), lines.append).max_seq_length == 30
    assert "texts have at most 30 tokens, by tokenizer_config.json" in lines
    # A tokenizer without a limit has a number of thirty digits.
    write_json(checkpoint_dir / "tokenizer_config.json", {"model_max_length": 1e30})
    assert sequence_limit(checkpoint_dir) is None
    assert from_checkpoint(source(checkpoint_dir), lines.append).max_seq_length == 48
    assert "texts have at most 48 tokens, by config.json" in lines
    from_checkpoint(source(checkpoint_dir), lines.append, max_seq_length=16)
    assert "texts have at most 16 tokens, by --max-seq-length" in lines


def test_default_prompt(checkpoint_dir: Path) -> None:
    path = checkpoint_dir / "config_sentence_transformers.json"
    write_json(path, {"prompts": {"query": "q: "}, "default_prompt_name": "query"})
    lines: list[str] = []
    assert from_checkpoint(source(checkpoint_dir), lines.append).default_prompt == "query"
    assert "texts without a prompt get that of the name 'query'" in lines
    write_json(path, {"prompts": {"query": "q: "}, "default_prompt_name": "passage"})
    with pytest.raises(CheckpointError, match=r"default_prompt_name 'passage' is none of .*query"):
        read_checkpoint(checkpoint_dir)


def test_metadata_has_prompt_and_origin(tmp_path: Path) -> None:
    place, metadata = imported("nomic-bert", tmp_path)
    written = json.loads((place / "metadata.json").read_text())
    assert written["default_prompt"] == "search_query"
    weights = written["weights"]
    assert weights["source"] == "directory"
    assert list(weights["sha256"]) == ["model.safetensors"]
    assert Metadata.read(place / "metadata.json") == metadata
    _, sharded = imported("xlm-roberta", tmp_path)
    assert sharded.weights is not None
    assert len(sharded.weights["sha256"]) == 3


def test_shards_that_are_missing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path)
    tensors = random_tensors()
    names = sorted(tensors)
    (tmp_path / "model.safetensors").unlink()
    files = {"model-00001-of-00002.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, tmp_path / file)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    write_json(tmp_path / "model.safetensors.index.json", index)
    for name, tensor in read_checkpoint(tmp_path).tensors.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names model-2\.safetensors, which is not there"):
        read_checkpoint(tmp_path)
    outside = {"weight_map": dict.fromkeys(names, "../model-00001-of-00002.safetensors")}
    write_json(tmp_path / "model.safetensors.index.json", outside)
    with pytest.raises(CheckpointError, match="which is not there"):
        read_checkpoint(tmp_path)


def test_weights_that_are_not_finite(checkpoint_dir: Path) -> None:
    tensors = random_tensors()
    tensors["embeddings.LayerNorm.bias"][3] = np.nan
    save_file(tensors, checkpoint_dir / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"embeddings\.LayerNorm\.bias has values .* finite"):
        read_checkpoint(checkpoint_dir)


@pytest.mark.parametrize(
    ("processor", "found"),
    [
        (None, "makes a of the text"),
        (
            {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[SEP]", 3]},
            r"\[SEP\] a \[SEP\]",
        ),
    ],
)
def test_tokenizer_that_ends_texts_otherwise(
    checkpoint_dir: Path, processor: object, found: str
) -> None:
    from_checkpoint(source(checkpoint_dir), silent)
    changed = tokenizer_json() | {"post_processor": processor}
    write_json(checkpoint_dir / "tokenizer.json", changed)
    with pytest.raises(CheckpointError, match=f"{found}.*BertTokenizer of transformers begins it"):
        from_checkpoint(source(checkpoint_dir), silent)
    # Of this class the library takes what the file says.
    write_json(
        checkpoint_dir / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}
    )
    from_checkpoint(source(checkpoint_dir), silent)


def test_tokens_that_the_settings_name(checkpoint_dir: Path) -> None:
    settings: dict[str, Any] = {"tokenizer_class": "BertTokenizerFast", "sep_token": "<end>"}
    write_json(checkpoint_dir / "tokenizer_config.json", settings)
    text = json.dumps(tokenizer_json())
    with pytest.raises(CheckpointError, match="does not have <end>"):
        check_ends(checkpoint_dir, text)
    settings["sep_token"] = {"content": "[UNK]"}
    write_json(checkpoint_dir / "tokenizer_config.json", settings)
    with pytest.raises(CheckpointError, match=r"ends it with \[UNK\]"):
        check_ends(checkpoint_dir, text)


def test_lowercasing_that_the_library_would_not_do(checkpoint_dir: Path) -> None:
    path = checkpoint_dir / "tokenizer_config.json"
    write_json(path, {"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    from_checkpoint(source(checkpoint_dir), silent)
    write_json(path, {"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    with pytest.raises(CheckpointError, match=r"do_lower_case False.*lowercases; save"):
        from_checkpoint(source(checkpoint_dir), silent)
    path.unlink()
    from_checkpoint(source(checkpoint_dir), silent)
    cased = tokenizer_json()
    cased["normalizer"]["lowercase"] = False
    write_json(checkpoint_dir / "tokenizer.json", cased)
    with pytest.raises(CheckpointError, match=r"unless told otherwise.*does not lowercase; save"):
        from_checkpoint(source(checkpoint_dir), silent)


def unigram_json() -> dict[str, Any]:
    """Return a tokenizer as XLM-R has it, for the tiny checkpoint."""
    pieces = ("<s>", "<pad>", "</s>", "<unk>", "\u2581", "a", "A")
    special = tokenizer_json()["added_tokens"]
    return tokenizer_json() | {
        "added_tokens": [
            token | {"content": piece} for token, piece in zip(special, pieces, strict=False)
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"},
        "post_processor": {"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]},
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [[piece, -1.0] for piece in pieces]},
    }


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({}, {"tokenizer_class": "XLMRobertaTokenizer"}),
        ({"tokenizer_class": "XLMRobertaTokenizer"}, {}),
        # The class is not named, but its tokens are.
        ({}, {"cls_token": "<s>", "sep_token": "</s>"}),
    ],
)
def test_bert_with_the_tokenizer_of_xlm_roberta(
    checkpoint_dir: Path, config: dict[str, Any], settings: dict[str, Any]
) -> None:
    """As paraphrase-multilingual-MiniLM-L12-v2 is."""
    write_json(checkpoint_dir / "tokenizer.json", unigram_json())
    write_json(checkpoint_dir / "tokenizer_config.json", {"do_lower_case": True} | settings)
    stored = json.loads((checkpoint_dir / "config.json").read_text())
    write_json(checkpoint_dir / "config.json", stored | config)
    from_checkpoint(source(checkpoint_dir), silent)


def test_matryoshka_dimensions(checkpoint_dir: Path) -> None:
    config = json.loads((checkpoint_dir / "config.json").read_text())
    write_json(checkpoint_dir / "config.json", config | {"matryoshka_dimensions": [8, 32, 16]})
    model = from_checkpoint(source(checkpoint_dir), silent, dimensions=[4])
    assert model.dimensions == (16, 8, 4)
    with pytest.raises(CheckpointError, match="cannot be cut to 33"):
        from_checkpoint(source(checkpoint_dir), silent, dimensions=[33])


def test_a_revision_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    asked: list[tuple[str, str | None]] = []

    def directory(model_id: str, revision: str | None = None) -> Path:
        asked.append((model_id, revision))
        return tmp_path / "snapshots" / commit

    monkeypatch.setattr(sources, "hub_directory", directory)
    found = resolve_source("hub:org/model@v2", model_name=None, model_id=None)
    assert asked == [("org/model", "v2")]
    assert (found.model_id, found.origin, found.revision) == ("org/model", "hub:org/model", commit)


@pytest.mark.parametrize(
    ("there", "words"),
    [
        (["config.json", "pytorch_model.bin", "tf_model.h5"], r" \(it has pytorch_model.bin, tf_m"),
        (None, r"; load it with"),
    ],
)
def test_hub_model_without_safetensors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: list[str] | None, words: str
) -> None:
    def names(_model_id: str, *, revision: str | None) -> list[str]:
        assert revision == "v2"
        if there is None:
            raise OfflineModeIsEnabled
        return there

    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(tmp_path))
    monkeypatch.setattr("huggingface_hub.list_repo_files", names)
    with pytest.raises(CheckpointError, match=f"org/model has no model.safetensors.*{words}.*save"):
        resolve_source("hub:org/model@v2", model_name=None, model_id=None)
    # Shards will do.
    (tmp_path / "model-00001-of-00002.safetensors").touch()
    assert sources.hub_directory("org/model", "v2") == tmp_path


def test_recipes_of_the_hub_are_pinned() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        if (recipe.source or "").startswith("hub:"):
            assert recipe.revision is not None, name
            assert len(recipe.revision) == 40, name


def test_weights_other_than_the_recipes() -> None:
    recipe = load_recipe("all-minilm-l6-v2")
    lines: list[str] = []
    model = from_recipe(recipe, None, lines.append)
    assert model.weights is not None
    assert list(model.weights["sha256"].values()) == [recipe.weights_sha256]
    assert model.weights["source"] == recipe.source
    other = dataclasses.replace(recipe, weights_sha256="0" * 64)
    with pytest.raises(CheckpointError, match="they are not those that it was made for"):
        from_recipe(other, None, silent)
    # Who names them wants them.
    from_recipe(other, recipe.source, lines.append)
    assert any("the recipe of all-MiniLM-L6-v2 names 000" in line for line in lines)


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("modernbert", {"hidden_activation": "silu"}, "hidden_activation 'silu'"),
        ("modernbert", {"layer_types": ["full_attention"]}, "layer_types"),
        ("nomic-bert", {"prenorm": True}, "prenorm True"),
        ("nomic-bert", {"rotary_emb_interleaved": True}, "rotary_emb_interleaved True"),
        ("gte", {"rope_parameters": {"rope_type": "yarn"}}, "type 'yarn' are not supported"),
        ("gte", {"logn_attention_scale": True}, "logn_attention_scale True"),
        ("gte", {"num_attention_heads": 5}, "no multiple of num_attention_heads 5"),
        ("gte", {"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
        ("gte", {"rope_parameters": None, "rope_scaling": "ntk"}, "rope_scaling is 'ntk'"),
        ("gte", {"type_vocab_size": "2"}, "type_vocab_size is '2'"),
        ("gte", {"model_type": {"new": 1}}, "model_type {'new': 1}"),
        ("nomic-bert", {"rope_parameters": "default"}, "rope_parameters is 'default'"),
        ("modernbert", {"rope_parameters": [1]}, r"rope_parameters is \[1\]"),
        (
            "modernbert",
            {"rope_parameters": {"full_attention": 5}},
            "rope_parameters.full_attention is 5",
        ),
        ("modernbert", {"rope_parameters": {"rope_type": "yarn"}}, "rope_parameters has rope_type"),
        ("modernbert", {"layer_types": 5}, "layer_types 5"),
        ("modernbert", {"layer_types": [[], []]}, "layer_types"),
        ("mpnet", {"hidden_act": "relu"}, "hidden_act 'relu'"),
        ("distilbert", {"n_heads": None}, "n_heads is None"),
    ],
)
def test_settings_that_the_graph_does_not_have(
    tmp_path: Path, name: str, change: dict[str, Any], words: str
) -> None:
    directory = tmp_path / name
    directory.mkdir()
    for file in (CHECKPOINTS / name).rglob("*"):
        target = directory / file.relative_to(CHECKPOINTS / name)
        if file.is_file():
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    config = json.loads((directory / "config.json").read_text())
    write_json(directory / "config.json", config | change)
    request = ImportRequest(str(directory), Registry(tmp_path / "registry"), "v1", "test")
    with pytest.raises(CheckpointError, match=words) as error:
        import_model(request, silent)
    assert "config.json" in str(error.value)
    assert not (tmp_path / "registry").exists()


@pytest.mark.parametrize("pooling", get_args(Pooling))
def test_every_way_to_pool_is_imported(tmp_path: Path, pooling: Pooling) -> None:
    source = str(CHECKPOINTS / "bert")
    request = ImportRequest(source, Registry(tmp_path), "v1", "test", pooling=pooling)
    assert import_model(request, silent).pooling == pooling
