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
from onnx import TensorProto

from embed_models.arithmetic import MICROSOFT_DOMAIN, WORD_EMBEDDINGS, Arithmetic
from embed_models.four_bits import BLOCK, BlockTable, exact_table
from embed_models.onnx_builder import OnnxBuilder
from embed_models.quantize.numerics import quantize_rows
from embed_models.quantize.plan import Plan

# Of numbers in 4 bits, and what one of them is less with a sign.
_STEPS, _SIGNED = 16, 8
_Type = np.dtype[np.generic]
# How many of them one number of a type holds exactly.
_HELD = {np.dtype(np.int8): 2, np.dtype(np.float16): 3, np.dtype(np.int32): 8}


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

    @property
    def stored(self) -> tuple[_Type, _Type]:
        """The types that hold the values and the zero points of a table in 4 bits."""
        return np.dtype(np.int8), np.dtype(np.int8)

    @cached_property
    def four_bits(self) -> BlockTable | None:
        """The word embeddings in 4 bits, where they were rounded so; None: they were not."""
        table = exact_table(self.tensors[f"{WORD_EMBEDDINGS}.weight"])
        if table is None:
            return None
        # Values and zero points of a row each fill a whole number of those that hold them.
        widths = zip(self.stored, (table.values.shape[1], table.scales.shape[1]), strict=True)
        return table if all(width % _HELD[dtype] == 0 for dtype, width in widths) else None

    def packed_table(self, b: OnnxBuilder, table: BlockTable) -> str:
        """Store a table, some numbers of 4 bits in each of a larger type."""
        values, zeros = (
            _packed(numbers, dtype)
            for numbers, dtype in zip((table.values, table.zero_points), self.stored, strict=True)
        )
        b.initializer("embeddings/word.zero_point", zeros)
        b.initializer("embeddings/word.scale", table.scales)
        return b.initializer("embeddings/word.weight", values)

    def unpacked(self, b: OnnxBuilder, table: str, ids: str, blocks: BlockTable) -> str:
        """Look up and take apart: exact in float16."""
        prefix = "embeddings/word"
        hidden, last = blocks.values.shape[1], b.constant([-1])
        stored, stored_zeros = self.stored
        steps = self._taken_apart(b, f"{prefix}_steps", table, ids, stored)
        shape = b.constant([0, 0, hidden // BLOCK, BLOCK])
        steps = b.node("Reshape", steps, shape, name=f"{prefix}_blocks")
        zero = self._taken_apart(b, f"{prefix}_zero", f"{prefix}.zero_point", ids, stored_zeros)
        zero = b.node("Unsqueeze", zero, last, name=f"{prefix}_zeros")
        scale = self._float(b, f"{prefix}_scale", f"{prefix}.scale", ids, np.dtype(np.float16))
        scale = b.node("Unsqueeze", scale, last, name=f"{prefix}_scales")
        moved = b.node("Sub", steps, zero, name=f"{prefix}_moved")
        word = b.node("Mul", moved, scale, name=f"{prefix}_scaled")
        return b.node("Reshape", word, b.constant([0, 0, hidden]), name=f"{prefix}_vectors")

    def _float(self, b: OnnxBuilder, name: str, table: str, ids: str, stored: _Type) -> str:
        value = b.node("Gather", table, ids, name=name)
        if stored in (self.dtype, np.dtype(np.int32)):
            return value
        return b.node("Cast", value, name=f"{name}_float", to=self.onnx_type)

    def _taken_apart(self, b: OnnxBuilder, name: str, table: str, ids: str, stored: _Type) -> str:
        """Take packed numbers apart, the first from the highest place."""
        rest, whole = self._float(b, f"{name}_packed", table, ids, stored), stored == np.int32
        parts: list[str] = []
        for place in range(_HELD[stored] - 1, 0, -1):
            size, label = _STEPS**place, f"{name}_{place}"
            if whole:
                part, rest = _whole_part(b, label, rest, size, signed=not parts)
            else:
                share = b.node("Mul", rest, b.constant(1 / size, self.dtype), name=f"{label}_share")
                part = b.node("Floor", share, name=label)
                taken = b.node(
                    "Mul", part, b.constant(float(size), self.dtype), name=f"{label}_taken"
                )
                rest = b.node("Sub", rest, taken, name=f"{label}_rest")
            if not parts:
                signed = b.constant(_SIGNED, np.int32 if whole else self.dtype)
                part = b.node("Add", part, signed, name=f"{name}_first")
            parts.append(part)
        steps = b.node("Concat", *parts, rest, name=f"{name}_all", axis=-1)
        return b.node("Cast", steps, name=name, to=self.onnx_type) if whole else steps

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
        if self.four_bits is None:
            return super().word_table(b)
        # Of constants alone, so ONNX Runtime does it once, when it loads the graph. With lookups of
        # numbers in 4 bits (GatherBlockQuantized) the student was 2.43 x as fast as FP32, not 2.67.
        # What comes between is in memory until then: in bytes, a quarter of float32.
        blocks = self.four_bits
        steps = self._bytes_of(b, "word_steps", "word.weight", blocks.values)
        shape = b.constant([0, blocks.scales.shape[1], BLOCK])
        steps = b.node("Reshape", steps, shape, name="embeddings/word_blocks")
        zeros = self._bytes_of(b, "word_zero", "word.zero_point", blocks.zero_points)
        scales = b.initializer("embeddings/word.scale", blocks.scales)
        steps, zeros, scales = (
            b.node("Cast", value, name=f"embeddings/word_{name}_float", to=self.onnx_type)
            for name, value in (("steps", steps), ("zero", zeros), ("scale", scales))
        )
        last = b.constant([-1])
        zeros = b.node("Unsqueeze", zeros, last, name="embeddings/word_zeros")
        scales = b.node("Unsqueeze", scales, last, name="embeddings/word_scales")
        moved = b.node("Sub", steps, zeros, name="embeddings/word_moved")
        return b.node("Mul", moved, scales, name="embeddings/word_scaled")

    def _bytes_of(self, b: OnnxBuilder, name: str, stored: str, numbers: NDArray[np.uint8]) -> str:
        """Store numbers of 4 bits two in a byte, and take them apart."""
        half = numbers.shape[1] // 2
        table = b.initializer(f"embeddings/{stored}", numbers[:, :half] << 4 | numbers[:, half:])
        four, low = b.constant(4, np.uint8), b.constant(15, np.uint8)
        first = b.node("BitShift", table, four, name=f"embeddings/{name}_high", direction="RIGHT")
        second = b.node("BitwiseAnd", table, low, name=f"embeddings/{name}_low")
        return b.node("Concat", first, second, name=f"embeddings/{name}", axis=-1)

    def words(self, b: OnnxBuilder, table: str, ids: str) -> str:
        if self.four_bits is None:
            return super().words(b, table, ids)
        word = b.node("Gather", table, ids, name="embeddings/word_taken")
        hidden = self.four_bits.values.shape[1]
        return b.node("Reshape", word, b.constant([0, 0, hidden]), name="embeddings/word")

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

    @property
    def stored(self) -> tuple[_Type, _Type]:
        # TensorRT takes no INT8 beside FP8.
        return (np.dtype(np.int32), np.dtype(np.float16)) if self._in_fp8 else super().stored

    def word_table(self, b: OnnxBuilder) -> str:
        if self.four_bits is not None:
            return self.packed_table(b, self.four_bits)
        # FP8 would cost accuracy, and TensorRT takes no INT8 beside FP8.
        return Arithmetic.word_table(self, b) if self._in_fp8 else super().word_table(b)

    def words(self, b: OnnxBuilder, table: str, ids: str) -> str:
        if self.four_bits is not None:
            return self.unpacked(b, table, ids, self.four_bits)
        return (
            Arithmetic.words(self, b, table, ids) if self._in_fp8 else super().words(b, table, ids)
        )


def _packed(numbers: NDArray[np.uint8], dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    """Store the numbers of a row that stand `width / count` apart as one, the first with a sign."""
    rows, width = numbers.shape
    count = _HELD[dtype]
    parts = numbers.reshape(rows, count, width // count).astype(np.int32)
    # So that they fill the type, which has a sign.
    parts[:, 0] -= _SIGNED
    packed = np.zeros_like(parts[:, 0])
    for part in range(count):
        packed = packed * _STEPS + parts[:, part]
    return packed.astype(dtype)


def _whole_part(
    b: OnnxBuilder, name: str, value: str, size: int, *, signed: bool
) -> tuple[str, str]:
    """Divide an INT32, rounding down: return quotient and remainder."""
    divisor = b.constant(size, np.int32)
    part = b.node("Div", value, divisor, name=name)
    rest = b.node(
        "Sub", value, b.node("Mul", part, divisor, name=f"{name}_taken"), name=f"{name}_rest"
    )
    if not signed:
        return part, rest
    # Division rounds towards zero, which is upwards below it.
    below = b.node("Less", rest, b.constant(0, np.int32), name=f"{name}_below")
    one = b.node("Cast", below, name=f"{name}_one", to=TensorProto.INT32)
    borrowed = b.node("Mul", one, divisor, name=f"{name}_borrowed")
    return (
        b.node("Sub", part, one, name=f"{name}_floor"),
        b.node("Add", rest, borrowed, name=f"{name}_positive"),
    )
