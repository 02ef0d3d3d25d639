"""Finds quantization in an ONNX file that makes a text's vector depend on the texts beside it.

Dynamic quantization takes its scale from all of the tensor that it rounds, and that is all texts
of a run with their padding. A worker runs such a graph one text at a time.
"""

from collections import Counter
from typing import Any

import onnx

from embed_models.onnx_file import nodes

# The scale comes from what is in the run. `MatMulInteger` and the like take theirs as inputs, and
# depend on a batch only behind one of these. The worker looks for the same:
# `worker/engine/src/engine/onnx_file/walk.rs`.
OPERATORS = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"})


def batch_dependent_operators(model: onnx.ModelProto) -> dict[str, int]:
    """Count the operators that round by what is in a run, in graphs inside of graphs as well."""
    return dict(Counter(node.op_type for node in nodes(model) if node.op_type in OPERATORS))


def described(graph: bytes) -> dict[str, Any] | None:
    """Return `quantization` of an artefact that came as a file, or None where it has none such."""
    found = batch_dependent_operators(onnx.load_from_string(graph))
    if not found:
        return None
    return {
        "method": "dynamic quantization, as it was in the file",
        "weights": "as they were in the file",
        "activations": "8 bits, from the range of each run",
        "operators": found,
        "batch_dependent": True,
        "accuracy_loss": None,
    }
