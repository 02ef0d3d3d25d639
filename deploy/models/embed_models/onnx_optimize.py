"""Runs ONNX Runtime's optimizer for transformers over a graph of others.

Exporters write attention, layer norms and GELU as dozens of nodes. ONNX Runtime finds most of
these itself when it loads a graph; its tool for transformers knows more ways to write them.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import helper

from embed_models.arithmetic import MICROSOFT_DOMAIN
from embed_models.graph import serialize

# What the tool and the runtime put in the place of many nodes.
_FUSED = (
    "Attention",
    "BiasGelu",
    "FastGelu",
    "Gelu",
    "LayerNormalization",
    "MultiHeadAttention",
    "RotaryEmbedding",
    "SimplifiedLayerNormalization",
)


def optimized(graph: bytes) -> bytes | None:
    """Return the graph with more of it fused than ONNX Runtime does when it loads it.

    None if there is no more. Texts have to be padded on the right, and the vectors still have to be
    compared.
    """
    # Here, because it takes long to load and is rarely wanted.
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    # The fused kernels are slower on the CPU than the parts that they replace; the CUDA provider
    # puts them in itself when it loads the graph.
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    options.enable_embed_layer_norm = False
    options.enable_bias_gelu = False
    with _quiet():
        optimizer = optimize_model(
            onnx.load_from_string(graph),
            model_type="bert",
            # Found out from the graph.
            num_heads=0,
            hidden_size=0,
            optimization_options=options,
            opt_level=0,
        )
    model: onnx.ModelProto = optimizer.model
    contrib = any(node.domain == MICROSOFT_DOMAIN for node in model.graph.node)
    if contrib and not any(entry.domain == MICROSOFT_DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(MICROSOFT_DOMAIN, 1))
    result = serialize(model)
    return result if _fused_when_loaded(result) > _fused_when_loaded(graph) else None


def _fused_when_loaded(graph: bytes) -> int:
    """Count the fused operators in what ONNX Runtime makes of a graph when it loads it."""
    with tempfile.TemporaryDirectory(prefix="embed-models-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        # The next level is made for the processor, and cannot be written by itself.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(Path(folder) / "graph.onnx")
        ort.InferenceSession(
            graph,
            options,
            providers=["CPUExecutionProvider"],
            disabled_optimizers=["SkipLayerNormFusion"],
        )
        nodes = onnx.load(options.optimized_model_filepath).graph.node
    return sum(node.op_type in _FUSED for node in nodes)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the tool has to say of every pattern that it does not find."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
