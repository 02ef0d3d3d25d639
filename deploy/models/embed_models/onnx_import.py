"""Imports an ONNX file that others have exported, with its tokenizer.

The worker wants `input_ids` and `attention_mask` in and one unit vector per text out; what is
missing for that (token types, pooling, normalisation) is added to the graph. Such a model can be
served in float32; quantizing needs a checkpoint.
"""

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from embed_models.attention import ATTENTION_MASK, ContribAttention, PlainAttention
from embed_models.errors import CheckpointError, UsageError
from embed_models.graph import EMBEDDING, INPUT_IDS, serialize
from embed_models.metadata import Pooling
from embed_models.model import Model, Report
from embed_models.onnx_builder import OnnxBuilder
from embed_models.slug import slug
from embed_models.tokenizer import normalised_tokenizer

TOKEN_TYPES = "token_type_ids"  # noqa: S105 - the name of an input
# Ranks of outputs: [batch, seq, hidden] has to be pooled, [batch, hidden] is.
_TOKENS, _POOLED = 3, 2
# From then on axes are inputs, as in what is added.
_LEAST_OPSET = 13
# What BERT has; the graph itself does not tell.
_USUAL_LENGTH = 512


def from_onnx(
    path: Path,
    tokenizer: Path | None,
    report: Report,
    *,
    model_name: str | None,
    model_id: str | None,
    pooling: Pooling | None,
    max_seq_length: int | None,
    license_name: str | None,
    output: str | None,
) -> Model:
    """Read an ONNX file and bring its inputs and its output into the worker's form."""
    tokenizer = tokenizer or path.with_name("tokenizer.json")
    if not tokenizer.is_file():
        raise UsageError(f"{tokenizer} does not exist; name the tokenizer with --tokenizer FILE")
    try:
        model = onnx.load(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except Exception as error:  # protobuf's DecodeError has no public base class
        raise CheckpointError(f"{path} is no ONNX file ({error})") from error
    text = normalised_tokenizer(tokenizer.read_text(encoding="utf-8"), str(tokenizer))
    _fix_inputs(model, path)
    source, rank, dimension = _chosen_output(model, path, output)
    if rank == _TOKENS and pooling is None:
        raise UsageError(
            f"the output {source!r} of {path} is a vector per token; "
            "say how to pool them with --pooling mean or --pooling cls"
        )
    _finish(model, source, pooling if rank == _TOKENS else None)
    graph = serialize(model)
    report(f"read {path}: output {source!r}, {dimension} components")
    name = model_name or (model_id or path.resolve().parent.name).rsplit("/", 1)[-1]
    digest = hashlib.sha256(graph + text.encode()).hexdigest()
    special = any(node.domain == "com.microsoft" for node in model.graph.node)
    return Model(
        name=name,
        slug=slug(name),
        model_id=model_id or name,
        dimension=dimension,
        max_seq_length=max_seq_length or _USUAL_LENGTH,
        pooling=pooling or "mean",
        prompts={},
        space=f"sha256:{digest[:16]}",
        license=license_name,
        tokenizer=text,
        graph=graph,
        form=ContribAttention.name if special else PlainAttention.name,
    )


def _fix_inputs(model: onnx.ModelProto, path: Path) -> None:
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if opset < _LEAST_OPSET:
        raise CheckpointError(
            f"{path} is of opset {opset}; export it again with opset {_LEAST_OPSET} or later"
        )
    initializers = {tensor.name for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in initializers]
    if INPUT_IDS not in names or ATTENTION_MASK not in names:
        raise CheckpointError(
            f"{path} has the inputs {', '.join(names)}; it needs {INPUT_IDS} and {ATTENTION_MASK}"
        )
    extra = set(names) - {INPUT_IDS, ATTENTION_MASK, TOKEN_TYPES}
    if extra:
        raise CheckpointError(f"{path} has the input {min(extra)}, which no worker can fill")
    if TOKEN_TYPES in names:
        # A text is a single segment: all zeros, in the shape of the ids.
        zero = numpy_helper.from_array(np.asarray(0, np.int64), "token_types/zero")
        node = helper.make_node("Mul", [INPUT_IDS, zero.name], [TOKEN_TYPES], name="token_types")
        model.graph.initializer.append(zero)
        model.graph.node.insert(0, node)
        model.graph.input.remove(next(v for v in model.graph.input if v.name == TOKEN_TYPES))
    for value in model.graph.input:
        if value.type.tensor_type.elem_type != TensorProto.INT64:
            raise CheckpointError(f"{path}: the input {value.name} has to be int64")


def _chosen_output(model: onnx.ModelProto, path: Path, name: str | None) -> tuple[str, int, int]:
    """Return the output's name, its rank, and the components of a vector."""
    outputs = {value.name: value for value in model.graph.output}
    if name is None and len(outputs) > 1:
        raise UsageError(
            f"{path} has the outputs {', '.join(outputs)}; choose one with --output NAME"
        )
    chosen = outputs.get(name) if name else next(iter(outputs.values()))
    if chosen is None:
        raise UsageError(f"{path} has no output {name!r}; it has {', '.join(outputs)}")
    shape = chosen.type.tensor_type.shape.dim
    if len(shape) not in (_TOKENS, _POOLED) or not shape[-1].dim_value:
        raise CheckpointError(
            f"{path}: the output {chosen.name!r} is neither [batch, seq, hidden] nor "
            "[batch, hidden] with a known size; export it again with that shape"
        )
    return chosen.name, len(shape), shape[-1].dim_value


def _finish(model: onnx.ModelProto, source: str, pooling: Pooling | None) -> None:
    """Add pooling and normalisation behind `source`, and make that the only output."""
    b = OnnxBuilder(prefix="finish/")
    vector = source
    if pooling == "cls":
        vector = b.node("Gather", vector, b.constant(0), name="pool/cls", axis=1)
    elif pooling == "mean":
        weights = b.node("Cast", ATTENTION_MASK, name="pool/mask", to=TensorProto.FLOAT)
        weights = b.node("Unsqueeze", weights, b.constant([-1]), name="pool/weights")
        masked = b.node("Mul", vector, weights, name="pool/masked")
        total = b.node("ReduceSum", masked, b.constant([1]), name="pool/sum", keepdims=0)
        count = b.node("ReduceSum", weights, b.constant([1]), name="pool/count", keepdims=0)
        count = b.node("Max", count, b.constant(1e-9, np.float32), name="pool/floor")
        vector = b.node("Div", total, count, name="pool/mean")
    b.node("LpNormalization", vector, name="normalise", output=EMBEDDING, axis=-1, p=2)
    dimension = next(v for v in model.graph.output if v.name == source)
    size = dimension.type.tensor_type.shape.dim[-1].dim_value
    b.extend(model.graph)
    del model.graph.output[:]
    model.graph.output.append(
        helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", size])
    )
