"""Imports an ONNX file that others have exported, with its tokenizer.

The worker wants `input_ids` and `attention_mask` in and one unit vector per text out; what is
missing for that (other types, token types, pooling, normalisation) is added to the graph. What the
result does is found out by running it, before anything is written. Quantizing needs a checkpoint.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from tokenizers import Tokenizer

from embed_models import batch_dependence
from embed_models.arithmetic import MICROSOFT_DOMAIN
from embed_models.attention import ATTENTION_MASK, ContribAttention, PlainAttention
from embed_models.checkpoint import read_license
from embed_models.errors import CheckpointError, UsageError
from embed_models.golden import TOLERANCE
from embed_models.graph import serialize
from embed_models.head import Head
from embed_models.json_files import read_object_if_present
from embed_models.limits import MAX_SEQ_LENGTH
from embed_models.metadata import Pooling
from embed_models.model import Model, Report, smaller_dimensions
from embed_models.onnx_builder import OnnxBuilder
from embed_models.onnx_file import nodes, read_onnx, tensors
from embed_models.onnx_head import finish
from embed_models.onnx_inputs import adapt_inputs, value_names
from embed_models.onnx_optimize import optimized
from embed_models.onnx_probe import (
    Output,
    Texts,
    Vectors,
    check_vocabulary,
    find_outputs,
    golden_vectors,
    longest_text,
    open_graph,
)
from embed_models.sentence_config import (
    SentenceConfig,
    read_sentence_config,
    sequence_limit,
)
from embed_models.slug import slug
from embed_models.space import prompt_header
from embed_models.tokenizer import check_ends, load_tokenizer, normalised_tokenizer

# ONNX Runtime reads all of these; what is added is written in the way of the graph's.
_LEAST_OPSET = 9
# Before, there was no sum over places that goes on from token to token.
_CUMULATIVE_OPSET = 11
_CUMULATIVE = ("weightedmean", "last")
# What config.json calls the most positions; the last is what Nomic-BERT was trained with.
_POSITIONS = ("max_position_embeddings", "n_positions", "max_trained_positions")
# What BERT has, where nothing says more.
_USUAL_LENGTH = 512
# Two tokens stand around the text.
_FEWEST_TOKENS = 3
# The name that sentence-transformers gives the vectors of texts.
_SENTENCE_OUTPUT = "sentence_embedding"
# Below float32, the same sums in another order differ by more.
_COARSE_TOLERANCE = 5e-3
# As repositories on the hub have it: onnx/model.onnx, and the other files above.
_HUB_FOLDER = "onnx"
_PAD_TOKENS = ("[PAD]", "<pad>")

_QUANTIZED = {"QuantizeLinear", "DequantizeLinear", "MatMulInteger", "MatMulNBits"}
_FP8 = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
)


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
    normalize: bool = False,
    dimensions: Sequence[int] = (),
    optimize: bool = True,
) -> Model:
    """Read an ONNX file, bring it into the worker's form, and find out whether it can be served.

    `normalize` and `dimensions` are as for a checkpoint.
    """
    tokenizer = _tokenizer_of(path, tokenizer)
    text = normalised_tokenizer(_read_text(tokenizer), str(tokenizer))
    check_ends(tokenizer.parent, text)
    loaded = load_tokenizer(text)
    texts = Texts(loaded, str(tokenizer))
    model = read_onnx(path)
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if opset < _LEAST_OPSET:
        raise CheckpointError(
            f"{path} is of opset {opset}; export it again with opset {_LEAST_OPSET} or later"
        )
    prefix = _free_prefix(model.graph)
    adapt_inputs(model, path, OnnxBuilder(f"{prefix}in/", opset), _padding_id(loaded))
    outputs = find_outputs(open_graph(_serialized(model, path), path), texts, path)
    config = tokenizer.parent
    chosen = _choose(outputs, path, output, config, pooling)
    sentence = _sentence_config(config, chosen, path, pooling)
    report(f"read {path}: output {chosen.describe()}")
    head = _head(sentence, chosen, opset, path, normalize=normalize)
    if not head.normalize:
        report(
            "modules.json has no Normalize: vectors keep their length, as sentence-transformers "
            "would have it; --normalize divides by it"
        )
    elif not sentence.normalizes:
        report("nothing says that the model normalises its vectors; the imported model does")
    finish(model, chosen, head, OnnxBuilder(f"{prefix}out/", opset))
    dimension = head.dimension(chosen.dimension)
    graph = _serialized(model, path)
    session = open_graph(graph, path)
    check_vocabulary(session, texts, path, str(tokenizer))
    longest = _longest(session, texts, path, config, sentence, max_seq_length, report)
    precision, dynamic = _precision(model), bool(batch_dependence.batch_dependent_operators(model))
    sequences = texts.golden(longest)
    tolerance = TOLERANCE if precision == "fp32" else _COARSE_TOLERANCE
    vectors = golden_vectors(session, sequences, path)
    _check_batches(vectors.batch_error(), tolerance, path, report, dynamic=dynamic)
    # Not of what the optimizer makes of it, which may change from version to version.
    default = sentence.prompts.get(sentence.default_prompt or "", "")
    digest = hashlib.sha256(graph + text.encode() + prompt_header(default)).hexdigest()
    if optimize and not dynamic:
        graph = _optimized(graph, sequences, vectors, tolerance, path, report)
    folder = path.resolve().parent
    folder = folder.parent if folder.name == _HUB_FOLDER else folder
    name = model_name or (model_id or folder.name).rsplit("/", 1)[-1]
    contrib = any(n.domain == MICROSOFT_DOMAIN for n in nodes(onnx.load_from_string(graph)))
    return Model(
        name=name,
        slug=slug(name),
        model_id=model_id or name,
        dimension=dimension,
        max_seq_length=longest,
        pooling=head.pooling,
        prompts=sentence.prompts,
        space=f"sha256:{digest[:16]}",
        license=license_name or read_license(config / "README.md"),
        tokenizer=text,
        graph=graph,
        form=ContribAttention.name if contrib else PlainAttention.name,
        normalized=head.normalize,
        dimensions=smaller_dimensions(config, dimensions, dimension),
        default_prompt=sentence.default_prompt,
        precision=precision,
    )


def _head(
    sentence: SentenceConfig, output: Output, opset: int, path: Path, *, normalize: bool
) -> Head:
    """Return what is to be added behind an output; of one by text, only the norm."""
    # Without a list of modules nothing says what to do with a vector's length: it becomes one.
    unit = normalize or sentence.normalizes or not sentence.has_modules
    head = Head(sentence.pooling or "mean", normalize=unit)
    if not output.by_token:
        return head
    if head.pooling in _CUMULATIVE and opset < _CUMULATIVE_OPSET:
        raise CheckpointError(
            f"{path} is of opset {opset}, which cannot pool by {head.pooling!r}; export it again "
            f"with opset {_CUMULATIVE_OPSET} or later"
        )
    inner = output.dimension
    for dense in sentence.dense:
        outer, found = dense.weight.shape
        if found != inner:
            raise CheckpointError(
                f"{path} gives {inner} components, but the Dense module behind it takes {found}; "
                "the two belong to different models"
            )
        inner = outer
    return dataclasses.replace(head, dense=sentence.dense)


def _check_batches(
    error: float, tolerance: float, path: Path, report: Report, *, dynamic: bool
) -> None:
    """Refuse vectors that depend on what else is in a batch; where scales do, say so."""
    if dynamic:
        report(
            f"{path} is quantized dynamically: a text's vector depends on what else is in its "
            f"batch, here by up to {error:.2g} in a component"
        )
    elif not error <= tolerance:
        raise CheckpointError(
            f"{path}: the vector of a text changes by {error:.2g} in a component when longer texts "
            "are in its batch, so its output does not leave padding out; choose the output of the "
            f"tokens with --output, or export the model with {ATTENTION_MASK}"
        )


def _optimized(
    graph: bytes,
    sequences: Sequence[Sequence[int]],
    vectors: Vectors,
    tolerance: float,
    path: Path,
    report: Report,
) -> bytes:
    """Return the graph with more of it fused, if that can be done and gives the same vectors."""
    try:
        better = optimized(graph)
        if better is None:
            return graph
        changed = golden_vectors(open_graph(better, path), sequences, path).error(vectors)
    except Exception as error:  # the tool fails in many ways on what it does not know
        report(f"ONNX Runtime's optimizer fails ({error}); the graph stays as it is")
        return graph
    if not changed <= tolerance:
        report(
            f"ONNX Runtime's optimizer changes vectors by {changed:.2g}; the graph stays as it is"
        )
        return graph
    report(f"fused by ONNX Runtime's optimizer; vectors differ by {changed:.2g} at most")
    return better


def _sentence_config(
    config: Path, output: Output, path: Path, pooling: Pooling | None
) -> SentenceConfig:
    """Read the files of sentence-transformers, as far as they concern an output."""
    if output.by_token:
        sentence = read_sentence_config(config, pooling)
        if sentence.pooling is None:
            raise UsageError(
                f"the output {output.name!r} of {path} is a vector per token, and there is no "
                f"{config / '1_Pooling' / 'config.json'}; say how to pool them with --pooling mean "
                "or --pooling cls, or another mode"
            )
        return sentence
    if pooling is not None:
        raise UsageError(
            f"the output {output.name!r} of {path} is a vector per text already; leave out "
            "--pooling, or choose another with --output"
        )
    try:
        return read_sentence_config(config, None, dense=False)
    except CheckpointError:
        # Whatever the files say of pooling, it is in the graph.
        return read_sentence_config(config, "mean", dense=False)


def _tokenizer_of(path: Path, given: Path | None) -> Path:
    """Return the tokenizer: the one given, beside the file, or beside the folder `onnx` of it."""
    beside = path.with_name("tokenizer.json")
    above = path.absolute().parent.parent / "tokenizer.json"
    if given is None and not beside.is_file() and path.absolute().parent.name == _HUB_FOLDER:
        beside = above
    tokenizer = given or beside
    if not tokenizer.is_file():
        raise UsageError(f"{tokenizer} does not exist; name the tokenizer with --tokenizer FILE")
    return tokenizer


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error})") from error


def _padding_id(tokenizer: Tokenizer) -> int:
    found = (tokenizer.token_to_id(token) for token in _PAD_TOKENS)
    return next((token for token in found if token is not None), 0)


def _free_prefix(graph: onnx.GraphProto) -> str:
    """Return what no name in the graph begins with."""
    names, prefix = value_names(graph), "embed/"
    while any(name.startswith(prefix) for name in names):
        prefix = f"_{prefix}"
    return prefix


def _choose(
    outputs: list[Output], path: Path, name: str | None, config: Path, pooling: Pooling | None
) -> Output:
    """Return the output to make vectors of."""
    if not outputs:
        raise CheckpointError(
            f"{path} has no output of floating-point numbers that is [batch, seq, hidden] or "
            "[batch, hidden]; export the encoder, without a head for another task"
        )
    listed = ", ".join(one.describe() for one in outputs)
    if name is not None:
        named = [one for one in outputs if one.name == name]
        if not named:
            raise UsageError(f"{path} has no output {name!r} that could be used; it has {listed}")
        return named[0]
    tokens = [one for one in outputs if one.by_token]
    pools = pooling or (config / "1_Pooling" / "config.json").is_file()
    sentence = [one for one in outputs if one.name == _SENTENCE_OUTPUT and not one.by_token]
    for only in (outputs, sentence if pooling is None else [], tokens if pools else []):
        if len(only) == 1:
            return only[0]
    raise UsageError(f"{path} has the outputs {listed}; choose one with --output NAME")


def _longest(
    session: Any,
    texts: Texts,
    path: Path,
    config: Path,
    sentence: SentenceConfig,
    given: int | None,
    report: Report,
) -> int:
    """Return the most tokens of a text: what is said, as far as the graph takes it."""
    stated = config / "sentence_bert_config.json"
    if given is not None:
        length, origin = given, "--max-seq-length"
    elif sentence.max_seq_length is not None:
        length, origin = sentence.max_seq_length, f"max_seq_length in {stated}"
    else:
        length, origin = _stated_length(config), ""
    if not _FEWEST_TOKENS <= length <= MAX_SEQ_LENGTH:
        raise CheckpointError(
            f"{origin} is {length}; it has to be from {_FEWEST_TOKENS} to {MAX_SEQ_LENGTH}"
        )
    longest = longest_text(session, texts, length)
    if longest < length and (origin or longest < _FEWEST_TOKENS):
        raise CheckpointError(
            f"{origin or 'the number of tokens'} is {length}, but {path} takes texts of at most "
            f"{longest} tokens; say --max-seq-length {max(longest, _FEWEST_TOKENS)}"
        )
    report(f"texts of at most {longest} tokens ({origin or 'as far as the graph takes them'})")
    return longest


def _stated_length(config: Path) -> int:
    """Return the least of what the other files say of lengths, as far as a worker takes them."""
    said = sequence_limit(config)
    raw = read_object_if_present(config / "config.json")
    limits = [raw.get(name) for name in _POSITIONS] + ([said[0]] if said else [])
    sensible = [int(n) for n in limits if isinstance(n, int | float) and n >= _FEWEST_TOKENS]
    return min(*sensible, MAX_SEQ_LENGTH) if sensible else _USUAL_LENGTH


def _precision(model: onnx.ModelProto) -> str:
    """Return the number format of a graph."""
    operators = {node.op_type for node in nodes(model)}
    sizes: dict[int, int] = {}
    for tensor in tensors(model):
        sizes[tensor.data_type] = sizes.get(tensor.data_type, 0) + int(np.prod(tensor.dims))
    if any(kind in sizes for kind in _FP8):
        return "fp8"
    quantized = operators & (_QUANTIZED | batch_dependence.OPERATORS) or any(
        o.startswith(("QLinear", "QAtt")) for o in operators
    )
    if quantized:
        return "int8"
    wide = max(sizes.get(kind, 0) for kind in (TensorProto.FLOAT, TensorProto.DOUBLE))
    return "fp16" if sizes.get(TensorProto.FLOAT16, 0) > wide else "fp32"


def _serialized(model: onnx.ModelProto, path: Path) -> bytes:
    try:
        return serialize(model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
