"""Tiny ONNX files as exporters write them, in the ways in which those differ."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy_bert import encode
from onnx import TensorProto, helper, numpy_helper
from tiny_bert import BERT_CONFIG, random_tensors, tokenizer_json, write_json
from tokenizers import Tokenizer

from embed_models.arithmetic import Arithmetic
from embed_models.attention import PlainAttention
from embed_models.graph import build_graph
from embed_models.onnx_inputs import rename

TENSORS = random_tensors()
TOKENS, POOLED = "layer1/norm_out", "pool/mean_out"
SIZE = BERT_CONFIG.hidden_size


class ExportedAttention(PlainAttention):
    """Attention with the mask as PyTorch's exporter writes it."""

    def mask(self) -> str:
        b = self.builder
        mask = b.node("Unsqueeze", "attention_mask", b.constant([1]), name="mask/heads")
        mask = b.node("Unsqueeze", mask, b.constant([2]), name="mask/queries")
        valid = b.node("Cast", mask, name="mask/cast", to=TensorProto.FLOAT)
        padding = b.node("Sub", b.constant(1.0, np.float32), valid, name="mask/padding")
        lowest = b.constant(float(np.finfo(np.float32).min), np.float32)
        return b.node("Mul", padding, lowest, name="mask/scores")


def exported(
    *outputs: str,
    token_types: bool = True,
    inputs: int = TensorProto.INT64,
    form: type[PlainAttention] = ExportedAttention,
) -> onnx.ModelProto:
    """Return a graph with these outputs: `TOKENS`, or `POOLED`, which is not normalised."""
    model = build_graph(BERT_CONFIG, Arithmetic(TENSORS), "mean", form)
    graph = model.graph
    # As PyTorch names them.
    rename(graph, "embeddings/position.weight", "embeddings.position_embeddings.weight")
    rename(graph, "embeddings/word.weight", "embeddings.word_embeddings.weight")
    keep = [node for node in graph.node if not node.name.startswith("normalise")]
    if POOLED not in outputs:
        keep = [node for node in keep if not node.name.startswith("pool")]
    del graph.node[:]
    graph.node.extend(keep)
    del graph.output[:]
    for name in outputs:
        shape: list[str | int] = ["batch", "seq", SIZE] if name == TOKENS else ["batch", SIZE]
        graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    if token_types:
        _use_token_types(graph)
    for value in graph.input:
        value.type.tensor_type.elem_type = inputs
    return model


def _use_token_types(graph: onnx.GraphProto) -> None:
    """Add what the second row of the token types would add, were there any."""
    table = np.zeros((2, SIZE), np.float32)
    table[1] = 7
    graph.initializer.append(numpy_helper.from_array(table, "types.weight"))
    graph.input.append(
        helper.make_tensor_value_info("token_type_ids", TensorProto.INT64, ["batch", "seq"])
    )
    place = next(i for i, node in enumerate(graph.node) if node.name == "embeddings/add")
    total = graph.node[place].output[0]
    graph.node[place].output[0] = "embeddings/untyped"
    graph.node.insert(
        place + 1, helper.make_node("Gather", ["types.weight", "token_type_ids"], ["types"])
    )
    graph.node.insert(place + 2, helper.make_node("Add", ["embeddings/untyped", "types"], [total]))


def cast_output(model: onnx.ModelProto, kind: int, name: str) -> onnx.ModelProto:
    """Give the only output another type, and another name."""
    output = model.graph.output[0]
    model.graph.node.append(helper.make_node("Cast", [output.name], [name], to=kind))
    output.name = name
    output.type.tensor_type.elem_type = kind
    return model


def write(
    directory: Path,
    model: onnx.ModelProto,
    *,
    tokenizer: Callable[[dict[str, Any]], None] = lambda _raw: None,
    **options: Any,
) -> Path:
    """Write the file with its tokenizer; `options` go to `onnx.save`."""
    raw = tokenizer_json()
    tokenizer(raw)
    write_json(directory / "tokenizer.json", raw)
    path = directory / "model.onnx"
    onnx.save(model, path, **options)
    return path


# What the worker's tests import and serve.
KINDS: dict[str, Callable[[], onnx.ModelProto]] = {
    "tokens": lambda: exported(TOKENS),
    "int32": lambda: exported(POOLED, token_types=False, inputs=TensorProto.INT32),
    "float16": lambda: cast_output(exported(POOLED), TensorProto.FLOAT16, "embedding"),
}


def main(kind: str, directory: str) -> None:
    """Write a file of a kind, and on standard output texts with their vectors as numpy has them."""
    path = write(Path(directory), KINDS[kind]())
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    texts = ("hello world", "", "the quick fox!", "a b a b", " ".join(["hello"] * 40))
    items = [
        {
            "text": text,
            "vector": encode(BERT_CONFIG, TENSORS, tokenizer.encode(text).ids, "mean").tolist(),
        }
        for text in texts
    ]
    print(json.dumps(items))


if __name__ == "__main__":
    main(*sys.argv[1:])
