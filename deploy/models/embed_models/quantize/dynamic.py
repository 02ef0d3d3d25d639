"""Dynamic INT8: no calibration, but scales that are taken from whatever is in a batch.

A text's vector then depends on its batch-mates, which is why it has to be asked for explicitly.
"""

from pathlib import Path
from typing import Any

import onnx

DESCRIPTION: dict[str, Any] = {
    "method": "dynamic quantization",
    "weights": "s8, symmetric, per output channel",
    "activations": "u8, asymmetric, from the range of each batch",
    "batch_dependent": True,
    "accuracy_loss": None,
}


def write_dynamic(source: Path, out: Path) -> None:
    """Quantize the linear layers of a float32 graph; its word embeddings stay as they are."""
    # Here, because it takes long to load and is rarely wanted.
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(source, load_external_data=False).graph.node
    quantize_dynamic(
        source,
        out,
        per_channel=True,
        weight_type=QuantType.QInt8,
        # The library cannot infer types behind operators of ONNX Runtime.
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        op_types_to_quantize=["MatMul", "Attention"],
        nodes_to_quantize=[node.name for node in nodes if node.op_type in ("MatMul", "Attention")],
    )
