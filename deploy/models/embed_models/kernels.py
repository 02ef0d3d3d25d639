"""The same network in the operators of the worker's own, which `worker/kernels` describes.

No padding is computed, no pass over memory adds a bias, applies GELU or brings values into another
order, and products are computed in FP16 or in FP8. States are float16, [tokens, hidden], texts one
after the other. Where a product is computed in FP8, the operator in front of it writes what the
product reads: there is no pass that quantizes.

No other library has these operators, so a CPU cannot run such a graph; `kernel_parts` takes it
apart into operators that it can run.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import onnx

from embed_models.arithmetic import Arithmetic
from embed_models.attention import ATTENTION_MASK, AttentionForm
from embed_models.checkpoint import BertConfig, Checkpoint
from embed_models.errors import CheckpointError
from embed_models.graph import EMBEDDING, INPUT_IDS, BertGraph
from embed_models.head import Head
from embed_models.metadata import Pooling
from embed_models.pooling import finish
from embed_models.quantize.plan import Plan

DOMAIN = "ai.akidb"

_HEAD_SIZES = (32, 64)
_LARGEST = 1024
_POOLINGS: tuple[Pooling, ...] = ("mean", "cls")


class KernelForm(AttentionForm):
    """Names the form; `KernelGraph` writes all of the graph."""

    name = "kernels"
    extra_opsets: ClassVar[dict[str, int]] = {DOMAIN: 1}

    def mask(self) -> str:
        return ATTENTION_MASK

    def attention(self, layer: int, hidden: str, mask: str) -> str:
        raise NotImplementedError("KernelGraph writes it, which knows what is quantized")


@dataclass(frozen=True)
class _States:
    """Values for the tokens, in float16 and, if the next product reads them so, in FP8."""

    plain: str
    quantized: str | None = None


def why_not(config: BertConfig, pooling: Pooling) -> str | None:
    """Say why no such graph can be made of a model, or return None."""
    size = config.hidden_size // config.num_attention_heads
    if size not in _HEAD_SIZES or config.hidden_size % 64 or config.hidden_size > _LARGEST:
        return (
            f"{config.hidden_size} components in {config.num_attention_heads} heads: heads have to "
            f"have 32 or 64, states a multiple of 64 up to {_LARGEST}"
        )
    if config.relative_attention_num_buckets:
        return "the attention has a bias by distance"
    if pooling not in _POOLINGS:
        return f"vectors are pooled as {pooling}, and not as {' or '.join(_POOLINGS)}"
    return None


class KernelGraph(BertGraph):
    """Writes the graph; with a plan, the products that it has sites for are in FP8."""

    def __init__(self, config: BertConfig, arithmetic: Arithmetic, plan: Plan | None) -> None:
        super().__init__(config, arithmetic, KernelForm)
        self._plan = plan
        self._common: dict[str, Any] = {"domain": DOMAIN, "heads": config.num_attention_heads}

    def build(self, head: Head) -> onnx.ModelProto:
        states, starts, tiles = self._embed()
        for layer in range(self.config.num_hidden_layers):
            states = self._layer(layer, states, tiles)
        normalized = head.normalize and not head.dense
        vector = self.builder.node(
            "Pool",
            states.plain,
            starts,
            name="pool",
            mean=int(head.pooling == "mean"),
            normalize=int(normalized),
            output=EMBEDDING if normalized else None,
            **self._common,
        )
        if not normalized:
            finish(self.builder, head, vector, EMBEDDING)
        return self.model(head)

    def _embed(self) -> tuple[_States, str, str]:
        site = "layer0/attention_input"
        parts = ["states", "starts", "tiles"] + ["quantized"] * self._quantizes(site)
        outputs = self.builder.node_with_outputs(
            "EmbedQuantize" if self._quantizes(site) else "Embed",
            INPUT_IDS,
            ATTENTION_MASK,
            self.arithmetic.word_table(self.builder),
            self.position_table(),
            *self.norm_weights("embeddings/norm", "embeddings.LayerNorm"),
            name="embeddings",
            outputs=[f"embeddings/{part}" for part in parts],
            epsilon=self.config.layer_norm_eps,
            **self._scale(site),
            **self._common,
        )
        return _States(outputs[0], next(iter(outputs[3:]), None)), outputs[1], outputs[2]

    def _layer(self, layer: int, states: _States, tiles: str) -> _States:
        name, key = f"layer{layer}", f"encoder.layer.{layer}"
        following = f"layer{layer + 1}/attention_input"
        projected = self._linear(f"{name}/qkv", f"{name}/attention_input", states)
        site = f"{name}/attention_output"
        attended = self.builder.node(
            "AttendQuantize" if self._quantizes(site) else "Attend",
            projected.plain,
            tiles,
            name=f"{name}/attention",
            **self._scale(site),
            **self._common,
        )
        attended_states = _States(attended, attended if self._quantizes(site) else None)
        product = self._linear(f"{name}/attention_output", site, attended_states)
        states = self._add_norm(
            f"{name}/attention_norm", product, states, f"{key}.attention.output", f"{name}/inner"
        )
        inner = self._linear(
            f"{name}/inner", f"{name}/inner", states, gelu=True, following=f"{name}/outer"
        )
        product = self._linear(f"{name}/outer", f"{name}/outer", inner)
        return self._add_norm(f"{name}/norm", product, states, f"{key}.output", following)

    def _add_norm(
        self, name: str, product: _States, skipped: _States, key: str, following: str
    ) -> _States:
        quantizes = self._quantizes(following)
        outputs = self.builder.node_with_outputs(
            "AddNormQuantize" if quantizes else "AddNorm",
            product.plain,
            skipped.plain,
            *self.norm_weights(name, f"{key}.LayerNorm"),
            name=name,
            outputs=[f"{name}_out"] + [f"{name}_quantized"] * quantizes,
            epsilon=self.config.layer_norm_eps,
            **self._scale(following),
            **self._common,
        )
        return _States(outputs[0], next(iter(outputs[1:]), None))

    def _linear(
        self, name: str, site: str, states: _States, *, gelu: bool = False, following: str = ""
    ) -> _States:
        """Multiply; what comes out is quantized if the product that follows reads it so."""
        b, keys = self.builder, self._keys(site)
        tensors = self.arithmetic.tensors
        # Everything comes from tensors that are smoothed and corrected, if there is a plan.
        weights = [tensors[f"{key}.weight"] for key in keys]
        bias = np.concatenate([self.arithmetic.array(f"{key}.bias") for key in keys])
        attributes: dict[str, Any] = {"gelu": int(gelu), "domain": DOMAIN}
        if not self._quantizes(site) or self._plan is None:
            if self._quantizes(following):
                raise CheckpointError(f"{name}: a product of float16 cannot yield FP8")
            weight = np.concatenate(weights).astype(self.arithmetic.dtype)
            inputs = [states.plain, b.initializer(f"{name}.weight", weight)]
            inputs.append(b.initializer(f"{name}.bias", bias))
            return _States(b.node("Linear", *inputs, name=f"{name}/linear", **attributes))
        rounded = [self._plan.weights[key] for key in keys]
        scales = {float(one.scales) for one in rounded}
        if len(scales) != 1:
            raise CheckpointError(f"{name}: one product has one scale, and not {len(scales)}")
        attributes["factor"] = scales.pop() * float(self._plan.sites[site].activation.scale)
        values = np.concatenate([one.values.T for one in rounded])
        inputs = [states.quantized or "", b.initializer(f"{name}.weight", values)]
        inputs.append(b.initializer(f"{name}.bias", bias))
        if self._quantizes(following):
            scale = np.array([self._scale(following)["scale"]], np.float32)
            inputs.append(b.initializer(f"{name}.scale", scale))
            out = b.node("LinearQuantized", *inputs, name=f"{name}/linear", **attributes)
            return _States(out, out)
        return _States(b.node("LinearFromQuantized", *inputs, name=f"{name}/linear", **attributes))

    def _keys(self, site: str) -> list[str]:
        layer, part = site.split("/")
        key = f"encoder.layer.{layer.removeprefix('layer')}"
        return {
            "attention_input": self.form.keys(int(layer.removeprefix("layer"))),
            "attention_output": [f"{key}.attention.output.dense"],
            "inner": [f"{key}.intermediate.dense"],
            "outer": [f"{key}.output.dense"],
        }[part]

    def _quantizes(self, site: str) -> bool:
        if self._plan is None or site not in self._plan.sites:
            return False
        # The product in front of it cannot write FP8 if it is not computed in FP8 itself.
        return not site.endswith("/outer") or self._quantizes(site.replace("outer", "inner"))

    def _scale(self, site: str) -> dict[str, Any]:
        """Return what the states of a site are multiplied with, as an attribute."""
        if self._plan is None or not self._quantizes(site):
            return {}
        plan = self._plan.sites[site]
        if plan.multiplier is not None:
            raise CheckpointError(f"{site} is smoothed, which would take a pass over memory")
        return {"scale": 1 / float(plan.activation.scale)}


def build_kernel_graph(checkpoint: Checkpoint, plan: Plan | None = None) -> onnx.ModelProto:
    """Build the model in FP16, or in FP8 where the plan has scales."""
    if (reason := why_not(checkpoint.config, checkpoint.pooling)) is not None:
        raise CheckpointError(f"no kernels are written for this model: {reason}")
    tensors = checkpoint.tensors if plan is None else plan.tensors
    arithmetic = Arithmetic(tensors, np.float16)
    return KernelGraph(checkpoint.config, arithmetic, plan).build(Head(checkpoint.pooling))
