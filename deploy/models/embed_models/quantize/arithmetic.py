"""Writes a graph's linear layers in 8 bits, from a plan.

`ContribInt8` is for the CPU: the operators that ONNX Runtime's integer kernels stand behind, in
the order in which its optimizer finds them. `QdqArithmetic` is for TensorRT: every weight matrix
product stands between QuantizeLinear and DequantizeLinear, and what is around it is float16.
"""

from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike

from embed_models.arithmetic import MICROSOFT_DOMAIN, WORD_EMBEDDINGS, Arithmetic
from embed_models.onnx_builder import OnnxBuilder
from embed_models.quantize.numerics import quantize_rows
from embed_models.quantize.plan import Plan


class _Quantized(Arithmetic):
    """What both have in common: activations through Q, weights through DQ."""

    def __init__(self, plan: Plan, dtype: DTypeLike = np.float32) -> None:
        super().__init__(plan.tensors, dtype)
        self.plan = plan
        # Names by site; several layers may read one.
        self._quantized: dict[str, str] = {}
        self._dequantized: dict[str, str] = {}

    def quantize(self, b: OnnxBuilder, site: str, value: str) -> str:
        """Return the quantized activation; its scale and zero point are initializers."""
        self.sites[site] = value
        if site not in self._quantized:
            plan = self.plan.sites[site]
            if plan.multiplier is not None:
                factor = b.initializer(f"{site}/smooth.factor", plan.multiplier.astype(self.dtype))
                value = b.node("Mul", value, factor, name=f"{site}/smooth")
            scale = np.asarray(plan.activation.scale, self.dtype)
            zero = np.asarray(plan.activation.zero_point, self.plan.fmt.activation_dtype)
            self._quantized[site] = b.node(
                "QuantizeLinear",
                value,
                b.initializer(f"{site}/scale", scale),
                b.initializer(f"{site}/zero_point", zero),
                name=f"{site}/quantize",
            )
        return self._quantized[site]

    def dequantize(self, b: OnnxBuilder, site: str, value: str) -> str:
        quantized = self.quantize(b, site, value)
        if site not in self._dequantized:
            self._dequantized[site] = b.node(
                "DequantizeLinear",
                quantized,
                f"{site}/scale",
                f"{site}/zero_point",
                name=f"{site}/dequantize",
            )
        return self._dequantized[site]

    def word_table(self, b: OnnxBuilder) -> str:
        table = quantize_rows(self.tensors[f"{WORD_EMBEDDINGS}.weight"])
        b.initializer("embeddings/word.scale", table.scales.astype(self.dtype))
        return b.initializer("embeddings/word.weight", table.values)

    def words(self, b: OnnxBuilder, table: str, ids: str) -> str:
        # Looked up first and scaled then: the other way round the whole table would be scaled in
        # every run.
        word = b.node("Gather", table, ids, name="embeddings/word_steps")
        scale = b.node("Gather", "embeddings/word.scale", ids, name="embeddings/word_scale")
        word = b.node("Cast", word, name="embeddings/word_float", to=self.onnx_type)
        return b.node("Mul", word, scale, name="embeddings/word")

    def linear(self, b: OnnxBuilder, name: str, site: str, value: str, key: str) -> str:
        if site in self.plan.excluded:
            return super().linear(b, name, site, value, key)
        weight = self.plan.weights[key]
        # Without one where there is a single scale.
        by_channel: dict[str, Any] = {"axis": 1} if weight.scales.ndim else {}
        dequantized = b.node(
            "DequantizeLinear",
            b.initializer(f"{name}.weight", weight.values),
            b.initializer(f"{name}.weight_scale", weight.scales.astype(self.dtype)),
            b.initializer(
                f"{name}.weight_zero_point", np.zeros(weight.scales.shape, weight.values.dtype)
            ),
            name=f"{name}/weight",
            **by_channel,
        )
        activation = self.dequantize(b, site, value)
        product = b.node("MatMul", activation, dequantized, name=f"{name}/matmul")
        return self.add_bias(b, name, product, key)


class ContribInt8(_Quantized):
    """INT8 on the CPU; activations are uint8, which is what its integer instructions take."""

    def fused_attention(
        self,
        b: OnnxBuilder,
        name: str,
        site: str,
        hidden: str,
        keys: Sequence[str],
        mask: str,
        heads: int,
    ) -> str:
        if site in self.plan.excluded:
            return super().fused_attention(b, name, site, hidden, keys, mask, heads)
        weights = [self.plan.weights[key] for key in keys]
        values = np.concatenate([weight.values for weight in weights], axis=1)
        scales = np.concatenate([weight.scales for weight in weights])
        return b.node(
            "QAttention",
            self.quantize(b, site, hidden),
            b.initializer(f"{name}/qkv.weight", values),
            self.fused_bias(b, name, keys),
            f"{site}/scale",
            b.initializer(f"{name}/qkv.weight_scale", scales),
            mask,
            f"{site}/zero_point",
            b.initializer(f"{name}/qkv.weight_zero_point", np.zeros(scales.shape, np.int8)),
            name=f"{name}/attention",
            domain=MICROSOFT_DOMAIN,
            num_heads=heads,
        )

    def gelu(self, b: OnnxBuilder, name: str, value: str) -> str:
        # The approximation by tanh is off by at most 5e-4, a fraction of a step of the
        # quantization behind it, and costs half the time of the exact function.
        return b.node("FastGelu", value, name=f"{name}/gelu", domain=MICROSOFT_DOMAIN)


class QdqArithmetic(_Quantized):
    """INT8 or FP8 for TensorRT, in the explicit notation that it takes precisions from."""

    @property
    def _in_fp8(self) -> bool:
        return bool(self.plan.fmt.weight_dtype == ml_dtypes.float8_e4m3fn)

    def word_table(self, b: OnnxBuilder) -> str:
        # FP8 would cost accuracy, and TensorRT takes no INT8 beside FP8.
        return Arithmetic.word_table(self, b) if self._in_fp8 else super().word_table(b)

    def words(self, b: OnnxBuilder, table: str, ids: str) -> str:
        return (
            Arithmetic.words(self, b, table, ids) if self._in_fp8 else super().words(b, table, ids)
        )
