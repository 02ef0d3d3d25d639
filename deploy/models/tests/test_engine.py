"""An engine is held to its graph, by what the inspector says in the form of its documentation."""

import json
from pathlib import Path
from typing import Any

import onnx
import pytest
from test_tensorrt import build

from embed_models.cli import main
from embed_models.graph import serialize
from embed_models.validate.engine import engine_problems, weight_products


def engine_of(model: onnx.ModelProto, datatype: str) -> dict[str, Any]:
    """Return the engine that does every product from inputs of this type."""
    layers = [
        {
            "Name": f"__myl_MatMul_{name}",
            "LayerType": "gemm",
            "Inputs": [{"Name": "a", "Dimensions": [64, 32], "Format/Datatype": datatype}],
            "Outputs": [{"Name": "b", "Dimensions": [64, 32], "Format/Datatype": "Half"}],
            "Metadata": f"[ONNX Layer: {name}]\x1e[ONNX Layer: {name.replace('matmul', 'add')}]",
        }
        for name in weight_products(model)
    ]
    return {"Layers": layers, "Bindings": ["input_ids", "attention_mask", "embedding"]}


@pytest.mark.parametrize(
    ("name", "datatype"),
    [
        ("int8-tensorrt", "Int8"),
        ("fp8-tensorrt", "FP8"),
        ("fp16-tensorrt", "Row major linear FP16 format"),
    ],
)
def test_products_in_the_type_of_their_weights(name: str, datatype: str) -> None:
    model = build(name)
    assert len(weight_products(model)) == 12
    assert list(engine_problems(engine_of(model, datatype), model)) == []


@pytest.mark.parametrize("name", ["int8-tensorrt", "fp8-tensorrt"])
def test_products_in_16_bits_are_found(name: str) -> None:
    model = build(name)
    engine = engine_of(model, "Half")
    engine["Layers"][1:] = engine_of(model, "Int8" if name[:4] == "int8" else "FP8")["Layers"][1:]
    (problem,) = engine_problems(engine, model)
    assert "computed from Half, not" in problem
    assert problem.startswith(next(iter(weight_products(model))))


@pytest.mark.parametrize(("name", "datatype"), [("int8-tensorrt", "Int8"), ("fp8-tensorrt", "FP8")])
def test_a_weight_of_8_bits_is_not_enough(name: str, datatype: str) -> None:
    """The activation counts, by its name where the engine has it, else as what is no constant."""
    model = build(name)
    engine = engine_of(model, datatype)
    product, *_ = weight_products(model)
    (node,) = (node for node in model.graph.node if node.name == product)
    undo = {node.output[0]: node.input[0] for node in model.graph.node if node.input}
    activation, weight = node.input

    def problems(*inputs: tuple[str, str]) -> list[str]:
        engine["Layers"][0]["Inputs"] = [
            {"Name": name, "Format/Datatype": type_} for name, type_ in inputs
        ]
        return list(engine_problems(engine, model))

    for stored in (weight, undo[weight]):
        assert len(problems(("a", "Half"), (stored, datatype))) == 1
        assert problems(("a", datatype), (stored, "Half")) == []
    # Of two that change, that which the graph calls the activation.
    for known in (activation, undo[activation]):
        assert len(problems((known, "Half"), ("skipped", datatype))) == 1
        assert problems((known, datatype), ("skipped", "Half")) == []
    # What a layer of constants makes is one.
    made = {"LayerType": "Constant", "Outputs": [{"Name": "w", "Format/Datatype": datatype}]}
    engine["Layers"].append(made)
    assert len(problems(("a", "Half"), ("w", datatype))) == 1


@pytest.mark.parametrize("inputs", [None, "a", ["a"], [None], {"Name": "a"}, 5])
def test_inputs_of_another_form(inputs: object) -> None:
    model = build("int8-tensorrt")
    engine = engine_of(model, "Int8")
    engine["Layers"][0]["Inputs"] = inputs
    engine["Layers"].append({"LayerType": "Constant", "Outputs": inputs})
    (problem,) = engine_problems(engine, model)
    assert "computed from nothing, not Int8" in problem


@pytest.mark.parametrize("content", [b"no graph", None])
def test_a_graph_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    graph, layers = tmp_path / "graph.onnx", tmp_path / "layers.json"
    if content is not None:
        graph.write_bytes(content)
    layers.write_text(json.dumps({"Layers": [{}]}))
    assert main(["check-engine", str(graph), str(layers)]) == 1
    assert "graph.onnx cannot be read as an ONNX file" in capsys.readouterr().err


def test_int8_in_place_of_16_bits_is_found() -> None:
    model = build("fp16-tensorrt")
    assert len(list(engine_problems(engine_of(model, "Int8"), model))) == 12


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build("int8-tensorrt")
    graph, layers = tmp_path / "int8-tensorrt.onnx", tmp_path / "layers.json"
    graph.write_bytes(serialize(model))
    engine = engine_of(model, "Int8")
    layers.write_text(json.dumps(engine))
    assert main(["check-engine", str(graph), str(layers)]) == 0
    assert "12 products in Int8" in capsys.readouterr().err
    for content, words in (
        ({"Layers": engine["Layers"][1:]}, "no layer of the engine does it"),
        ({"Layers": ["a", "b"]}, "--profilingVerbosity=detailed"),
        ({}, "has no `Layers`"),
        ([], "is not what --exportLayerInfo writes"),
    ):
        layers.write_text(json.dumps(content))
        assert main(["check-engine", str(graph), str(layers)]) == 1
        assert words in capsys.readouterr().err
    layers.write_text("{")
    assert main(["check-engine", str(graph), str(layers)]) == 1
    assert "is no JSON" in capsys.readouterr().err
