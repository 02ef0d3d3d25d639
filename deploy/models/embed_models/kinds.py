"""The kinds of artefacts: a precision in a graph form, each one file of a version.

A worker takes the first artefact of the precision that it was told to serve, so the graphs for the
CPU and CUDA come before those that one provider alone can run.
"""

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import DTypeLike

from embed_models.arithmetic import Arithmetic
from embed_models.attention import AttentionForm, ContribAttention, PackedAttention, PlainAttention
from embed_models.checkpoint import BertConfig, Checkpoint
from embed_models.fused import build_fused_graph
from embed_models.graph import build_graph
from embed_models.kernels import KernelForm, build_kernel_graph, why_not
from embed_models.metadata import Pooling
from embed_models.quantize.numerics import E4M3, S8, U8, Format

REFERENCE = "fp32"
CPU_INT8 = "int8"
TENSORRT_INT8 = "int8-tensorrt"


@dataclass(frozen=True)
class Kind:
    """What distinguishes an artefact; `fmt` is None where nothing is quantized."""

    name: str
    precision: str
    form: type[AttentionForm]
    # The type of all that is not in 8 bits.
    dtype: DTypeLike
    fmt: Format | None = None
    # Written in the large operators of GPUs; what a CPU is to run as well is left in parts.
    fused: bool = False

    @property
    def file(self) -> str:
        return f"{self.name}.onnx"

    @property
    def for_cpu(self) -> bool:
        """Whether its speed on a CPU says anything: the other graphs are made for GPUs."""
        return self.name in (REFERENCE, CPU_INT8)

    @property
    def packed(self) -> bool:
        """Whether the graph has operators that a CPU cannot run at all."""
        return self.form is PackedAttention

    @property
    def kernels(self) -> bool:
        """Whether the graph is made of the worker's own operators."""
        return self.form is KernelForm

    @property
    def trial_form(self) -> type[AttentionForm]:
        """The form in which a CPU tries out how a plan rounds."""
        return PlainAttention if self.kernels else self.form

    def why_not(self, config: BertConfig, pooling: Pooling) -> str | None:
        """Say why a model has no artefact of this kind, or return None."""
        return why_not(config, pooling) if self.kernels else None

    def exact_graph(self, checkpoint: Checkpoint) -> onnx.ModelProto:
        """Build the graph of a kind that is not quantized."""
        if self.kernels:
            return build_kernel_graph(checkpoint)
        build = build_fused_graph if self.fused else build_graph
        arithmetic = Arithmetic(checkpoint.tensors, self.dtype)
        return build(checkpoint.config, arithmetic, checkpoint.pooling, self.form)


KINDS = {
    kind.name: kind
    for kind in (
        Kind("fp32", "fp32", ContribAttention, np.float32),
        Kind("fp16", "fp16", ContribAttention, np.float16, fused=True),
        Kind("int8", "int8", ContribAttention, np.float32, U8),
        Kind("fp32-packed", "fp32", PackedAttention, np.float32, fused=True),
        Kind("fp16-packed", "fp16", PackedAttention, np.float16, fused=True),
        Kind("fp16-kernels", "fp16", KernelForm, np.float16),
        Kind("fp8-kernels", "fp8", KernelForm, np.float16, E4M3),
        Kind("fp32-tensorrt", "fp32", PlainAttention, np.float32),
        Kind("fp16-tensorrt", "fp16", PlainAttention, np.float16),
        Kind("int8-tensorrt", "int8", PlainAttention, np.float16, S8),
        Kind("fp8-tensorrt", "fp8", PlainAttention, np.float16, E4M3),
    )
}
