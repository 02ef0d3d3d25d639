"""What a validation on a CPU cannot say of a graph that is made for something else.

A measurement claims no more than what ran. What did not is written down beside it, and reports do
not call it met.
"""

from typing import Any

from embed_models.attention import PackedAttention, PlainAttention
from embed_models.kernels import KernelForm
from embed_models.metadata import Artefact

# What the user's schema of metadata has of `performance`: measured, or null.
UNMEASURED: dict[str, Any] = {
    "provider": None,
    "batch_size": None,
    "latency_p95_ms": None,
    "throughput_qps": None,
    "gpu_memory_mb": None,
}


def not_run(artefact: Artefact) -> str | None:
    """Say what of an artefact has not run where the CPU ran it; None: all of it did."""
    if artefact.form == PackedAttention.name:
        return "packing and its attention: they were taken out, and 16 bits multiplied in 32"
    if artefact.form == KernelForm.name:
        return (
            "its operators: they were taken apart into those of a CPU, which multiplies in 32 bits"
        )
    if artefact.precision == "fp16":
        return "products of 16 bits: the CPU multiplies them in 32, so this is of rounded weights"
    if artefact.form == PlainAttention.name and artefact.quantization is not None:
        return "TensorRT: the CPU rounds to 8 bits as the graph says, and multiplies in 32"
    return None


def accuracy_loss(mean_cosine: float) -> str:
    """Return by how much the mean cosine to float32 is below 1, as the user's schema writes it."""
    return f"{max(0.0, 1 - mean_cosine):.2%}"
