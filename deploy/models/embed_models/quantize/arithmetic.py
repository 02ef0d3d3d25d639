"""Writes a graph's linear layers in 8 bits, from a plan.

`ContribInt8` is for the CPU: the operators that ONNX Runtime's integer kernels stand behind, in
the order in which its optimizer finds them. `QdqArithmetic` is for TensorRT: every weight matrix
product stands between QuantizeLinear and DequantizeLinear, and what is around it is float16.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from embed_models.arithmetic import MICROSOFT_DOMAIN, WORD_EMBEDDINGS, Arithmetic
from embed_models.four_bits import BLOCK, BlockTable, exact_table
from embed_models.onnx_builder import OnnxBuilder
from embed_models.quantize.numerics import quantize_rows
from embed_models.quantize.plan import Plan

# Of numbers in 4 bits, and what one of them is less with a sign.
_STEPS, _SIGNED = 16, 8


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

    @cached_property
    def four_bits(self) -> BlockTable | None:
        """The word embeddings in 4 bits, where they were rounded so; None: they were not."""
        return exact_table(self.tensors[f"{WORD_EMBEDDINGS}.weight"])

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

    def word_table(self, b: OnnxBuilder) -> str:
        table = self.four_bits
        if table is None:
            return super().word_table(b)
        b.initializer("embeddings/word.zero_point", table.zero_points.astype(ml_dtypes.uint4))
        b.initializer("embeddings/word.scale", table.scales)
        return b.initializer("embeddings/word.weight", table.values.astype(ml_dtypes.uint4))

    def words(self, b: OnnxBuilder, table: str, ids: str) -> str:
        if self.four_bits is None:
            return super().words(b, table, ids)
        # Stored in float16, which holds them exactly; what is looked up has the type of the scales.
        scale = b.node(
            "Cast", "embeddings/word.scale", name="embeddings/word_scale", to=self.onnx_type
        )
        return b.node(
            "GatherBlockQuantized",
            table,
            ids,
            scale,
            "embeddings/word.zero_point",
            name="embeddings/word",
            domain=MICROSOFT_DOMAIN,
            block_size=BLOCK,
            gather_axis=0,
            quantize_axis=1,
        )

    def position_table(self, b: OnnxBuilder, table: NDArray[np.floating]) -> str:
        if self.four_bits is None:
            return super().position_table(b, table)
        stored = b.initializer("embeddings/position.weight", table.astype(np.float16))
        return b.node("Cast", stored, name="embeddings/position_table", to=self.onnx_type)

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

    @cached_property
    def four_bits(self) -> BlockTable | None:
        table = super().four_bits
        # What is packed into one number stands a whole number of blocks apart.
        return table if table and table.scales.shape[1] % self._stored[1] == 0 else None

    def word_table(self, b: OnnxBuilder) -> str:
        if self.four_bits is not None:
            return self._packed_table(b, self.four_bits)
        # FP8 would cost accuracy, and TensorRT takes no INT8 beside FP8.
        return Arithmetic.word_table(self, b) if self._in_fp8 else super().word_table(b)

    def words(self, b: OnnxBuilder, table: str, ids: str) -> str:
        if self.four_bits is not None:
            return self._unpacked_words(b, table, ids, self.four_bits)
        return (
            Arithmetic.words(self, b, table, ids) if self._in_fp8 else super().words(b, table, ids)
        )

    @property
    def _stored(self) -> tuple[np.dtype[np.generic], int]:
        """The type that holds packed numbers, and how many of 4 bits one of it holds exactly."""
        # TensorRT looks no numbers of 4 bits up, and takes no INT8 beside FP8.
        return (np.dtype(np.float16), 3) if self._in_fp8 else (np.dtype(np.int8), 2)

    def _packed_table(self, b: OnnxBuilder, table: BlockTable) -> str:
        """Store the numbers that stand `hidden / count` apart as one, the first with a sign."""
        dtype, count = self._stored
        rows, hidden = table.values.shape
        parts = table.values.reshape(rows, count, hidden // count).astype(np.int16)
        parts[:, 0] -= _SIGNED
        packed = np.zeros_like(parts[:, 0])
        for part in range(count):
            packed = packed * _STEPS + parts[:, part]
        zeros = table.zero_points.astype(np.int16)
        zeros[:, : zeros.shape[1] // count] -= _SIGNED
        b.initializer("embeddings/word.zero_point", zeros.astype(dtype))
        b.initializer("embeddings/word.scale", table.scales.astype(self.dtype))
        return b.initializer("embeddings/word.weight", packed.astype(dtype))

    def _unpacked_words(self, b: OnnxBuilder, table: str, ids: str, blocks: BlockTable) -> str:
        """Look up and unpack, by floors and by products with powers of 2: exact in float16."""
        prefix = "embeddings/word"
        stored, count = self._stored
        hidden = blocks.values.shape[1]

        def looked_up(name: str, table: str) -> str:
            found = b.node("Gather", table, ids, name=f"{prefix}_{name}")
            if stored == self.dtype:
                return found
            return b.node("Cast", found, name=f"{prefix}_{name}_float", to=self.onnx_type)

        rest, parts = looked_up("packed", table), []
        for part in range(count - 1):
            size = float(_STEPS ** (count - 1 - part))
            share = b.node(
                "Mul", rest, b.constant(1 / size, self.dtype), name=f"{prefix}_share{part}"
            )
            parts.append(b.node("Floor", share, name=f"{prefix}_part{part}"))
            taken = b.node(
                "Mul", parts[-1], b.constant(size, self.dtype), name=f"{prefix}_taken{part}"
            )
            rest = b.node("Sub", rest, taken, name=f"{prefix}_rest{part}")
        steps = b.node("Concat", *parts, rest, name=f"{prefix}_steps", axis=-1)
        shape = b.constant([0, 0, hidden // BLOCK, BLOCK])
        steps = b.node("Reshape", steps, shape, name=f"{prefix}_blocks")
        last = b.constant([-1])
        zero = looked_up("zero", f"{prefix}.zero_point")
        zero = b.node("Unsqueeze", zero, last, name=f"{prefix}_zeros")
        scale = b.node("Gather", f"{prefix}.scale", ids, name=f"{prefix}_scale")
        scale = b.node("Unsqueeze", scale, last, name=f"{prefix}_scales")
        moved = b.node("Sub", steps, zero, name=f"{prefix}_moved")
        word = b.node("Mul", moved, scale, name=f"{prefix}_scaled")
        return b.node("Reshape", word, b.constant([0, 0, hidden]), name=prefix)
