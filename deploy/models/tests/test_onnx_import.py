"""ONNX files of others: what they lack is added, and what cannot be served is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from exported_onnx import POOLED, SIZE, TENSORS, TOKENS, cast_output, exported, write
from numpy.typing import NDArray
from numpy_bert import encode
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tiny_bert import BERT_CONFIG, tokenizer_json, write_json

from embed_models.attention import PlainAttention
from embed_models.cli import main
from embed_models.inference import TextEncoder, cpu_session, run_batch
from embed_models.metadata import Metadata, Pooling
from embed_models.onnx_file import LIMIT
from embed_models.onnx_inputs import rename

TEXT, IDS = "hello world, the quick fox", [2, 4, 5, 1, 6, 8, 7, 3]


class Bench:
    """Imports into a registry of the test's own."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.source, self.registry, self._capsys = root / "source", root / "registry", capsys
        self.said = ""

    def run(self, path: Path, *more: str) -> int:
        options = ["--registry", str(self.registry), "--name", "tiny", *more]
        code = main(["import", str(path), *options])
        self.said = self._capsys.readouterr().err
        return code

    def imported(self, model: onnx.ModelProto, *more: str, **options: Any) -> Path:
        """Import a graph and return the version's folder."""
        assert self.run(write(self.source, model, **options), *more) == 0, self.said
        return self.registry / "models" / "tiny" / "v1.0.0"

    def refused(
        self, words: str, model: onnx.ModelProto, *more: str, code: int = 1, **options: Any
    ) -> None:
        self.fails(words, write(self.source, model, **options), *more, code=code)

    def fails(self, words: str, path: Path, *more: str, code: int = 1) -> None:
        assert self.run(path, *more) == code
        assert words in self.said.splitlines()[-1]
        assert not self.registry.exists(), "nothing is written"


@pytest.fixture
def bench(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Bench:
    return Bench(tmp_path, capsys)


def embed(version: Path, text: str = TEXT) -> NDArray[np.float32]:
    metadata = Metadata.read(version / "metadata.json")
    graph = version / metadata.artefacts[0].file
    encoder = TextEncoder(graph, version / "tokenizer.json", metadata.max_seq_length)
    return encoder.embed(text).vector


def expected(pooling: Pooling = "mean") -> NDArray[np.float64]:
    return encode(BERT_CONFIG, TENSORS, IDS, pooling)


# What an exporter may write, and what is to be said of it.
VARIANTS: dict[str, tuple[Callable[[], onnx.ModelProto], tuple[str, ...]]] = {
    "tokens": (lambda: exported(TOKENS), ("--pooling", "mean")),
    "pooled": (lambda: exported(POOLED), ()),
    "without token types": (lambda: exported(POOLED, token_types=False), ()),
    "int32": (lambda: exported(POOLED, inputs=TensorProto.INT32), ()),
    "float16": (
        lambda: cast_output(exported(TOKENS), TensorProto.FLOAT16, "states"),
        ("--pooling", "mean"),
    ),
    "double": (lambda: cast_output(exported(POOLED), TensorProto.DOUBLE, "vectors"), ()),
    "a name that the worker asks for": (
        lambda: cast_output(exported(POOLED), TensorProto.FLOAT, "embedding"),
        (),
    ),
    "both, and how to pool": (lambda: exported(TOKENS, POOLED), ("--pooling", "mean")),
    "both, and which": (lambda: exported(TOKENS, POOLED), ("--output", POOLED)),
    "no optimizer": (lambda: exported(POOLED), ("--no-optimize",)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_what_exporters_write_is_imported(bench: Bench, name: str) -> None:
    make, options = VARIANTS[name]
    version = bench.imported(make(), *options)
    tolerance = 2e-3 if name == "float16" else 1e-5
    np.testing.assert_allclose(embed(version), expected(), atol=tolerance)
    metadata = Metadata.read(version / "metadata.json")
    assert (metadata.dimension, metadata.max_seq_length) == (SIZE, 48)
    (artefact,) = metadata.artefacts
    # More of it is fused than ONNX Runtime does by itself, unless that is not wanted.
    form = "plain" if name == "no optimizer" else "contrib"
    assert (artefact.precision, artefact.form) == ("fp32", form)
    assert "at most 48 tokens" in bench.said


def test_texts_have_the_same_vector_in_any_batch(bench: Bench) -> None:
    version = bench.imported(exported(TOKENS), "--pooling", "mean")
    session = cpu_session(version / "fp32.onnx", threads=1)
    together = run_batch(session, [IDS, IDS * 5, IDS[:2]])
    np.testing.assert_allclose(together[0], expected(), atol=1e-5)


def test_pooling_by_the_first_token(bench: Bench) -> None:
    version = bench.imported(exported(TOKENS), "--pooling", "cls")
    assert Metadata.read(version / "metadata.json").pooling == "cls"
    np.testing.assert_allclose(embed(version), expected("cls"), atol=1e-5)


def test_the_files_of_sentence_transformers_are_read(bench: Bench) -> None:
    write_json(bench.source / "1_Pooling" / "config.json", {"pooling_mode_cls_token": True})
    write_json(bench.source / "sentence_bert_config.json", {"max_seq_length": 17})
    prompts = {"query": "hello "}
    settings = {"prompts": prompts, "default_prompt_name": "query"}
    write_json(bench.source / "config_sentence_transformers.json", settings)
    version = bench.imported(exported(TOKENS, POOLED))
    metadata = Metadata.read(version / "metadata.json")
    assert (metadata.pooling, metadata.max_seq_length, metadata.prompts) == ("cls", 17, prompts)
    assert metadata.default_prompt == "query"


DENSE = np.random.default_rng(7).normal(size=(6, SIZE)).astype(np.float32)


def write_modules(directory: Path, *names: str) -> None:
    """Write the list of modules, with the weights of a Dense one without bias."""
    paths = ["", "1_Pooling", "2_Dense", "3_Normalize"]
    known = dict(zip(("Transformer", "Pooling", "Dense", "Normalize"), paths, strict=True))
    entries = [{"path": known[name], "type": f"sentence_transformers.{name}"} for name in names]
    write_json(directory / "modules.json", entries)
    rows, columns = DENSE.shape
    dense = {"in_features": columns, "out_features": rows, "bias": False}
    dense["activation_function"] = "torch.nn.modules.activation.Tanh"
    write_json(directory / "2_Dense" / "config.json", dense)
    save_file({"linear.weight": DENSE}, directory / "2_Dense" / "model.safetensors")


def test_what_is_behind_the_pooling(bench: Bench) -> None:
    bench.source.mkdir()
    write_modules(bench.source, "Transformer", "Pooling", "Dense")
    states = encode(BERT_CONFIG, TENSORS, IDS, "mean", normalize=False)
    vector = np.tanh(DENSE @ states)
    write_json(bench.source / "config.json", {"matryoshka_dimensions": [4, 2]})
    version = bench.imported(exported(TOKENS), "--pooling", "mean", "--dimensions", "5")
    np.testing.assert_allclose(embed(version), vector, atol=1e-5)
    metadata = Metadata.read(version / "metadata.json")
    assert (metadata.dimension, metadata.dimensions) == (6, [5, 4, 2])
    assert not metadata.normalized
    assert "modules.json has no Normalize" in bench.said
    version = bench.imported(
        exported(TOKENS), "--pooling", "mean", "--normalize", "--version", "v2"
    ).with_name("v2")
    np.testing.assert_allclose(embed(version), vector / np.linalg.norm(vector), atol=1e-5)
    assert Metadata.read(version / "metadata.json").normalized


def test_of_an_output_by_text_only_the_norm_is_missing(bench: Bench) -> None:
    bench.source.mkdir()
    write_modules(bench.source, "Transformer", "Pooling", "Dense", "Normalize")
    (bench.source / "2_Dense" / "model.safetensors").unlink()
    np.testing.assert_allclose(embed(bench.imported(exported(POOLED))), expected(), atol=1e-5)


def test_sentence_transformers_names_its_output(bench: Bench) -> None:
    model = exported(TOKENS, POOLED)
    rename(model.graph, POOLED, "sentence_embedding")
    np.testing.assert_allclose(embed(bench.imported(model)), expected(), atol=1e-5)


def test_the_folder_of_a_hub_repository(bench: Bench) -> None:
    path = write(bench.source / "onnx", exported(POOLED))
    path.with_name("tokenizer.json").rename(bench.source / "tokenizer.json")
    write_json(bench.source / "tokenizer_config.json", {"model_max_length": 19})
    (bench.source / "README.md").write_text("---\nlicense: mit\n---\n")
    assert main(["import", str(path), "--registry", str(bench.registry)]) == 0
    metadata = Metadata.read(bench.registry / "models/source/v1.0.0/metadata.json")
    assert (metadata.max_seq_length, metadata.license) == (19, "mit")


def test_shapes_that_are_not_declared_are_found_out(bench: Bench) -> None:
    model = exported(POOLED)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    for value in model.graph.input:
        value.type.tensor_type.ClearField("shape")
    np.testing.assert_allclose(embed(bench.imported(model)), expected(), atol=1e-5)


def test_weights_that_are_inputs_as_well(bench: Bench) -> None:
    # As in files of the third version of the format.
    model = exported(POOLED)
    for tensor in model.graph.initializer:
        kind, shape = tensor.data_type, list(tensor.dims)
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, kind, shape))
    np.testing.assert_allclose(embed(bench.imported(model)), expected(), atol=1e-5)


@pytest.mark.parametrize("result", ["other vectors", "no graph", "nothing"])
def test_what_the_optimizer_makes_is_held_to_the_vectors(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, result: str
) -> None:
    def optimizer(graph: bytes) -> bytes | None:
        model = onnx.load_from_string(graph)
        if result == "nothing":
            return None
        if result == "no graph":
            del model.graph.node[3:]
        table = next(t for t in model.graph.initializer if t.name == "layer1/norm.weight")
        changed = numpy_helper.to_array(table) * np.linspace(0.9, 1.1, SIZE, dtype=np.float32)
        table.CopyFrom(numpy_helper.from_array(changed, table.name))
        content: bytes = model.SerializeToString()
        return content

    monkeypatch.setattr("embed_models.onnx_import.optimized", optimizer)
    version = bench.imported(exported(POOLED))
    said = {"other vectors": "optimizer changes vectors", "no graph": "optimizer fails"}
    assert said.get(result, "") in bench.said
    assert Metadata.read(version / "metadata.json").artefacts[0].form == "plain"
    np.testing.assert_allclose(embed(version), expected(), atol=1e-5)


def old_graph(opset: int) -> onnx.ModelProto:
    """Return word embeddings, by token, as they were written once."""
    # Of what the tiny graph has, the axes were attributes then, and norms and GELU many nodes.
    b, size = [], ["batch", "seq"]

    def node(kind: str, *inputs: str, out: str, **attributes: Any) -> None:
        b.append(helper.make_node(kind, list(inputs), [out], **attributes))

    node("Gather", "words", "input_ids", out="word")
    node("Cast", "attention_mask", out="mask", to=TensorProto.FLOAT)
    node("Unsqueeze", "mask", out="column", axes=[2])
    node("Mul", "word", "column", out="states")
    words = numpy_helper.from_array(TENSORS["embeddings.word_embeddings.weight"], "words")
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, size)
        for name in ("input_ids", "attention_mask")
    ]
    output = helper.make_tensor_value_info("states", TensorProto.FLOAT, [*size, SIZE])
    graph = helper.make_graph(b, "old", inputs, [output], [words])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=6)


def test_an_old_opset(bench: Bench) -> None:
    words = "is of opset 10, which cannot pool by 'last'; export it again with opset 11"
    bench.refused(words, old_graph(10), "--pooling", "last")
    version = bench.imported(old_graph(11), "--pooling", "mean")
    mean = TENSORS["embeddings.word_embeddings.weight"][IDS].mean(0)
    np.testing.assert_allclose(embed(version), mean / np.linalg.norm(mean), atol=1e-5)
    # It takes texts of any length, and nothing says how long they are to be.
    assert Metadata.read(version / "metadata.json").max_seq_length == 512


def without_mask(padding: int) -> onnx.ModelProto:
    """Return a graph that knows padding by its id."""
    model = exported(POOLED, token_types=False)
    graph = model.graph
    rename(graph, "attention_mask", "valid")
    graph.input.remove(next(value for value in graph.input if value.name == "attention_mask"))
    graph.initializer.append(numpy_helper.from_array(np.asarray(padding, np.int64), "padding"))
    nodes = [
        helper.make_node("Equal", ["input_ids", "padding"], ["is_padding"]),
        helper.make_node("Not", ["is_padding"], ["is_valid"]),
        helper.make_node("Cast", ["is_valid"], ["valid"], to=TensorProto.INT64),
    ]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    return model


def test_a_graph_that_makes_its_mask_of_the_ids(bench: Bench) -> None:
    def other_padding(raw: dict[str, Any]) -> None:
        vocabulary = raw["model"]["vocab"]
        vocabulary["[PAD]"], vocabulary["##b"] = vocabulary["##b"], vocabulary["[PAD]"]
        raw["added_tokens"][0]["id"] = vocabulary["[PAD]"]

    model = without_mask(tokenizer_json()["model"]["vocab"]["##b"])
    version = bench.imported(model, tokenizer=other_padding)
    np.testing.assert_allclose(embed(version), expected(), atol=1e-5)
    session = cpu_session(version / "fp32.onnx", threads=1)
    np.testing.assert_allclose(run_batch(session, [IDS, IDS * 2])[0], expected(), atol=1e-5)


def test_a_mean_over_the_padding_as_well_is_refused(bench: Bench) -> None:
    model = exported(TOKENS)
    model.graph.node.append(helper.make_node("ReduceMean", [TOKENS, "axis"], ["mean"], keepdims=0))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray([1], np.int64), "axis"))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["b", SIZE]))
    bench.refused("so its output does not leave padding out", model)


def test_dynamic_quantization_is_told_of(bench: Bench) -> None:
    from onnxruntime.quantization import quantize_dynamic

    write(bench.source, exported(POOLED, form=PlainAttention))
    quantize_dynamic(bench.source / "model.onnx", bench.source / "dynamic.onnx")
    assert bench.run(bench.source / "dynamic.onnx") == 0
    (artefact,) = Metadata.read(bench.registry / "models/tiny/v1.0.0/metadata.json").artefacts
    assert (artefact.file, artefact.precision) == ("int8.onnx", "int8")
    assert "a text's vector depends on what else is in its batch" in bench.said


def test_weights_in_another_file_are_brought_in(bench: Bench) -> None:
    version = bench.imported(
        exported(POOLED),
        save_as_external_data=True,
        location="model.onnx_data",
        size_threshold=0,
        convert_attribute=True,
    )
    assert (bench.source / "model.onnx").stat().st_size < 20_000
    loaded = onnx.load(version / "fp32.onnx", load_external_data=False)
    assert all(t.data_location == TensorProto.DEFAULT for t in loaded.graph.initializer)
    np.testing.assert_allclose(embed(version), expected(), atol=1e-5)


def test_weights_in_another_file_that_cannot_be_brought_in(bench: Bench) -> None:
    options: dict[str, Any] = {"save_as_external_data": True, "size_threshold": 0}
    path = write(bench.source, exported(POOLED), location="weights", **options)
    weights = bench.source / "weights"
    weights.rename(bench.source / "elsewhere")
    bench.fails("is in the file 'weights', which is not beside it", path)
    weights.write_bytes(b"too short")
    bench.fails("tensors of it are in another file, which cannot be read", path)
    weights.unlink()
    # A link out of the folder leads elsewhere.
    weights.symlink_to(bench.source.parent / "secret")
    (bench.source.parent / "secret").write_bytes((bench.source / "elsewhere").read_bytes())
    bench.fails("tensors of it are in another file, which cannot be read", path)

    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        entries = {entry.key: entry for entry in tensor.external_data}
        entries["length"].value = str(LIMIT)
    weights.unlink()
    (bench.source / "elsewhere").rename(weights)
    onnx.save(model, path)
    bench.fails("a worker takes graphs of less than 2 GiB", path)
    for tensor in model.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "length").value = "much"
    onnx.save(model, path)
    bench.fails("is in another file, but not at any place", path)


def test_fewer_positions_than_is_said(bench: Bench) -> None:
    model = exported(POOLED)
    words = "is 49, but {} takes texts of at most 48 tokens; say --max-seq-length 48"
    words = words.format(bench.source / "model.onnx")
    bench.refused(f"--max-seq-length {words}", model, "--max-seq-length", "49")
    stated = bench.source / "sentence_bert_config.json"
    write_json(stated, {"max_seq_length": 49})
    bench.refused(f"max_seq_length in {stated} {words}", model)
    bench.refused("--max-seq-length is 99999; it has to be", model, "--max-seq-length", "99999")
    # What the tokenizer says is only a bound.
    stated.unlink()
    write_json(bench.source / "tokenizer_config.json", {"model_max_length": 512})
    assert Metadata.read(bench.imported(model) / "metadata.json").max_seq_length == 48


def test_positions_bound_what_the_tokenizer_says(bench: Bench) -> None:
    write_json(bench.source / "config.json", {"max_position_embeddings": 40})
    write_json(bench.source / "tokenizer_config.json", {"model_max_length": 45})
    metadata = Metadata.read(bench.imported(exported(POOLED)) / "metadata.json")
    assert metadata.max_seq_length == 40


def test_files_beside_it_that_do_not_fit(bench: Bench) -> None:
    beside = bench.source / "config_sentence_transformers.json"
    write_json(beside, {"prompts": {"query": "hello "}, "default_prompt_name": "passage"})
    bench.refused("default_prompt_name 'passage' is none of its prompts", exported(POOLED))
    beside.unlink()
    write_json(bench.source / "config.json", {"model_type": "bert"})

    def other_end(raw: dict[str, Any]) -> None:
        raw["post_processor"]["sep"] = raw["post_processor"]["cls"]

    bench.refused("and ends it with [SEP]", exported(POOLED), tokenizer=other_end)
    bench.refused("cannot be cut to 33", exported(POOLED), "--dimensions", "33")
    write_modules(bench.source, "Transformer", "Pooling", "Dense")
    save_file({"linear.weight": DENSE[:, 1:]}, bench.source / "2_Dense" / "model.safetensors")
    write_json(bench.source / "2_Dense" / "config.json", {
        "in_features": SIZE - 1, "out_features": 6, "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
    })  # fmt: skip
    words = "gives 32 components, but the Dense module behind it takes 31"
    bench.refused(words, exported(TOKENS), "--pooling", "mean")


def test_what_is_refused(bench: Bench) -> None:
    bench.refused("say how to pool them with --pooling", exported(TOKENS), code=2)
    pooled = "is a vector per text already; leave out --pooling"
    bench.refused(pooled, exported(POOLED), "--pooling", "cls", code=2)
    both = exported(TOKENS, POOLED)
    bench.refused("choose one with --output NAME", both, code=2)
    listed = f"{TOKENS} [batch, seq, 32], {POOLED} [batch, 32]"
    unknown = f"has no output 'x' that could be used; it has {listed}"
    bench.refused(unknown, both, "--output", "x", code=2)
    old = exported(POOLED)
    old.opset_import[0].version = 8
    bench.refused("is of opset 8; export it again with opset 9", old)
    strange = exported(POOLED)
    strange.graph.input.append(helper.make_tensor_value_info("pixels", 1, [1]))
    bench.refused("has the input pixels, which no worker can fill", strange)
    unnamed = exported(POOLED)
    unnamed.graph.input[0].name = "ids"
    bench.refused("it needs input_ids", unnamed)
    floats = exported(POOLED)
    floats.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT
    bench.refused("the input input_ids is of FLOAT; it has to be INT32 or INT64", floats)
    fixed = exported(POOLED)
    fixed.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 128
    bench.refused("the input input_ids has the shape [batch, 128]; export it again", fixed)
    integers = cast_output(exported(POOLED), TensorProto.INT64, "classes")
    bench.refused("has no output of floating-point numbers", integers)
    reader = exported(POOLED)
    reader.graph.node.append(helper.make_node("EPContext", [], ["x"], domain="com.microsoft"))
    bench.refused("has a node 'EPContext', which can read files", reader)
    unheard_of = exported(POOLED)
    unheard_of.graph.node.append(helper.make_node("Teleport", [POOLED], ["x"]))
    bench.refused("is refused by ONNX Runtime", unheard_of)
    constant = exported(POOLED)
    table = next(t for t in constant.graph.initializer if t.name == "layer1/norm.weight")
    table.CopyFrom(numpy_helper.from_array(np.zeros(SIZE, np.float32), table.name))
    bench.refused("gives every text the same vector", constant)
    broken = exported(POOLED)
    table = next(t for t in broken.graph.initializer if t.name == "layer1/norm.weight")
    table.CopyFrom(numpy_helper.from_array(np.full(SIZE, np.nan, np.float32), table.name))
    bench.refused("components that are no numbers", broken)


def test_tokenizers_that_do_not_fit(bench: Bench) -> None:
    def larger(raw: dict[str, Any]) -> None:
        raw["model"]["vocab"]["zebra"] = 64

    words = f"{bench.source / 'tokenizer.json'} makes token ids up to 64, which"
    bench.refused(words, exported(POOLED), tokenizer=larger)

    def bare(raw: dict[str, Any]) -> None:
        raw["post_processor"] = None

    bench.refused("its post_processor adds no token", exported(POOLED), tokenizer=bare)
    path = write(bench.source, exported(POOLED))
    tokenizer = bench.source / "tokenizer.json"
    for content, words in (
        (b"\xff\xfe", "tokenizer.json is not valid JSON"),
        (b"{", "tokenizer.json is not valid JSON"),
        (b"[]", "holds no JSON object"),
        (json.dumps({"model": {"type": "None"}}).encode(), "tokenizer.json cannot be loaded"),
    ):
        tokenizer.write_bytes(content)
        bench.fails(words, path)
    tokenizer.unlink()
    bench.fails("name the tokenizer with --tokenizer FILE", path, code=2)


def test_files_that_are_none(bench: Bench) -> None:
    path = write(bench.source, exported(POOLED))
    whole = path.read_bytes()
    for content, words in (
        (b"nothing of the kind", "is no ONNX file"),
        (b"", "is no ONNX file: there are no nodes in it"),
        (whole[: len(whole) // 2], "is no ONNX file"),
    ):
        path.write_bytes(content)
        bench.fails(words, path)
    path.unlink()
    bench.fails("model.onnx does not exist", path)
    path.mkdir()
    bench.fails("model.onnx is no file", path)


@pytest.mark.parametrize("seed", range(40))
def test_damaged_files_are_refused_or_imported_without_a_traceback(bench: Bench, seed: int) -> None:
    path = write(bench.source, exported(POOLED))
    random = np.random.default_rng(seed)
    content = bytearray(path.read_bytes())
    # Where the graph is described, and where there are numbers.
    for place in random.integers(0, len(content), random.integers(1, 12)):
        content[place] = random.integers(256)
    path.write_bytes(content)
    # Anything raised here is a traceback for whoever imports.
    assert bench.run(path) in (0, 1, 2)
