"""Quantizes layer by layer, each against what the exact network yields there.

Texts go through both networks side by side: the exact one, and the quantized one as far as it has
come. A layer's weights are rounded for the inputs that they will have, after all that was lost
before; its biases take back what the mean of its output has moved, or that of what skips it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from embed_models.arithmetic import Arithmetic
from embed_models.attention import ATTENTION_MASK
from embed_models.batches import equal_length_batches
from embed_models.checkpoint import Checkpoint, Tensors
from embed_models.graph import INPUT_IDS, OPSET, BertGraph, serialize
from embed_models.inference import cpu_session
from embed_models.kinds import CPU_INT8, Kind
from embed_models.quantize.arithmetic import ContribInt8, QdqArithmetic
from embed_models.quantize.calibration import Calibration
from embed_models.quantize.numerics import Floats, QuantizedWeight
from embed_models.quantize.placement import Placement
from embed_models.quantize.plan import Plan, SitePlan, choose_site, linear_layers, placed
from embed_models.quantize.rounding import covariance, made_up, round_weight

# Tokens that go through the networks: some twenty for each input of the widest layer of a network
# of MiniLM's size.
TOKENS = 32_768
# What a text of no words has of inputs no other text has, so it would be left out of what weights
# are fitted to, and is a golden text all the same.
_SHORTEST = 100

_HIDDEN = "hidden"

# One array for each batch, [texts, tokens, channels].
_Batches = list[Floats]


class _Network:
    """One network on the same texts, a layer at a time."""

    def __init__(
        self, checkpoint: Checkpoint, kind: Kind, ids: Sequence[NDArray[np.int64]], threads: int
    ) -> None:
        self._config = checkpoint.config
        self._kind = kind
        self._ids = ids
        self._threads = threads

    def embeddings(self, arithmetic: Arithmetic) -> _Batches:
        graph = BertGraph(self._config, arithmetic, self._kind.form)
        (hidden,) = self._run(graph, [graph.embeddings()], None)
        return hidden

    def layer(
        self,
        arithmetic: Arithmetic,
        index: int,
        hidden: _Batches,
        sites: Sequence[str] | None = None,
    ) -> dict[str, _Batches]:
        """Return the inputs of the layer's products by site, and its output as `hidden`.

        Of some `sites` alone nothing is computed that stands behind them.
        """
        graph = BertGraph(self._config, arithmetic, self._kind.form)
        output = graph.layer(index, _HIDDEN, graph.mask())
        outputs = {**arithmetic.sites, _HIDDEN: output}
        names = list(outputs) if sites is None else sites
        values = self._run(graph, [outputs[name] for name in names], hidden)
        return dict(zip(names, values, strict=True))

    def _run(self, graph: BertGraph, outputs: list[str], hidden: _Batches | None) -> list[_Batches]:
        wanted = [name for name in outputs if name != _HIDDEN]
        if not wanted:
            return [hidden or []] * len(outputs)
        tokens: list[str | int | None] = ["batch", "seq"]
        start = helper.make_tensor_value_info(INPUT_IDS, TensorProto.INT64, tokens)
        if hidden is not None:
            shape = [*tokens, self._config.hidden_size]
            start = helper.make_tensor_value_info(_HIDDEN, TensorProto.FLOAT, shape)
        mask = helper.make_tensor_value_info(ATTENTION_MASK, TensorProto.INT64, tokens)
        model = graph.builder.model(
            name="layer",
            inputs=[start, mask],
            # An input may be asked for as well; it is known.
            outputs=[
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [*tokens, None])
                for name in wanted
            ],
            value_info=graph.value_info,
            opsets={"": OPSET} | graph.form.extra_opsets,
            producer="embed-models",
        )
        _keep_needed(model.graph)
        as_written = self._kind.name != CPU_INT8
        session = cpu_session(serialize(model), threads=self._threads, as_written=as_written)
        found: dict[str, _Batches] = {name: [] for name in outputs}
        for number, ids in enumerate(self._ids):
            feeds: dict[str, NDArray[Any]] = {ATTENTION_MASK: np.ones_like(ids)}
            feeds |= {INPUT_IDS: ids} if hidden is None else {_HIDDEN: hidden[number]}
            for name, value in zip(wanted, session.run(wanted, feeds), strict=True):
                found[name].append(np.asarray(value, np.float32))
        if hidden is not None:
            found[_HIDDEN] = hidden
        return [found[name] for name in outputs]


def fitted_plan(
    checkpoint: Checkpoint,
    calibration: Calibration,
    sequences: Sequence[Sequence[int]],
    kind: Kind,
    *,
    strength: float | None,
    excluded: frozenset[str] = frozenset(),
    threads: int,
    seed: int = 1,
) -> Plan:
    """Choose scales for one smoothing strength (None: none), and round layer by layer."""
    if kind.fmt is None:
        raise ValueError(f"{kind.name} is not quantized")
    changed, placements = placed(
        checkpoint.config,
        checkpoint.tensors,
        calibration,
        kind.fmt,
        strength=strength,
        excluded=excluded,
    )

    def exact() -> Arithmetic:
        return Arithmetic(checkpoint.tensors)

    plan = Plan(
        fmt=kind.fmt, strength=strength, excluded=excluded, tensors=changed, sites={}, weights={}
    )
    network = _Network(checkpoint, kind, _batches(sequences, seed), threads)
    hidden, rounded = network.embeddings(exact()), network.embeddings(_written(kind, plan, {}))
    layers = linear_layers(checkpoint.config)
    for index in range(checkpoint.config.num_hidden_layers):
        wanted = network.layer(exact(), index, hidden)
        sites = [site for site in layers if site.startswith(f"layer{index}/")]
        for site in sites:
            if site in excluded:
                continue
            skipped = _skipped(site)
            needed = [site] if skipped is None else [site, skipped]
            found = network.layer(_written(kind, plan, layers), index, rounded, needed)
            plan = _with_site(
                plan, calibration, site, layers[site], placements, changed, wanted, found
            )
        rounded = network.layer(_written(kind, plan, layers), index, rounded)[_HIDDEN]
        hidden = wanted[_HIDDEN]
    return plan


def _with_site(
    plan: Plan,
    calibration: Calibration,
    site: str,
    keys: Sequence[str],
    placements: Mapping[str, Placement],
    smooth: Tensors,
    wanted: dict[str, _Batches],
    found: dict[str, _Batches],
) -> Plan:
    """Add a site with its scale, and its layers with weights that fit it."""
    weight = np.concatenate([smooth[f"{key}.weight"].T for key in keys], axis=1)
    entry = choose_site(site, calibration.sites[site], placements[site], weight, plan.fmt)
    ideal, real = placements[site].apply(_rows(wanted[site])), _rows(found[site])
    # What is found is moved already, and divided where that is folded into the layer before.
    if entry.multiplier is not None:
        real = real * entry.multiplier
    scale = entry.activation
    inputs = plan.fmt.fake(real, scale.scale, scale.zero_point)
    lost = (ideal - inputs) @ weight
    skipped = _skipped(site)
    if skipped is not None:
        moved = placements[skipped].shift if skipped in placements else np.float32(0)
        lost += _rows(wanted[skipped]) - moved - _rows(found[skipped])
    variance = covariance(inputs)
    result = round_weight(weight + made_up(inputs, lost, variance), variance, plan.fmt)
    shift = inputs.mean(axis=0) @ (weight - result.dequantized()) + lost.mean(axis=0)
    weights, tensors, start = dict(plan.weights), dict(plan.tensors), 0
    for key in keys:
        end = start + len(smooth[f"{key}.bias"])
        part = slice(start, end)
        weights[key] = QuantizedWeight(
            np.ascontiguousarray(result.values[:, part]), result.scales[part]
        )
        tensors[f"{key}.bias"] = (smooth[f"{key}.bias"] + shift[part]).astype(np.float32)
        start = end
    sites: dict[str, SitePlan] = {**plan.sites, site: entry}
    return Plan(plan.fmt, plan.strength, plan.excluded, tensors, sites, weights, fitted=True)


def _skipped(site: str) -> str | None:
    """Return the site whose value is added to the product of this one."""
    layer, _, name = site.partition("/")
    others = {"attention_output": "attention_input", "outer": "inner"}
    return f"{layer}/{others[name]}" if name in others else None


def _written(kind: Kind, plan: Plan, layers: dict[str, list[str]]) -> Arithmetic:
    """Write what is planned so far in 8 bits; the rest is not looked at."""
    rest = frozenset(layers) - frozenset(plan.sites)
    partial = Plan(plan.fmt, plan.strength, rest, plan.tensors, plan.sites, plan.weights)
    if kind.name == CPU_INT8:
        return ContribInt8(partial)
    return QdqArithmetic(partial, np.float32)


def _batches(sequences: Sequence[Sequence[int]], seed: int) -> list[NDArray[np.int64]]:
    """Take texts of all lengths, in batches of one length, up to so many tokens.

    The shortest is among them many times.
    """
    shortest = min(sequences, key=len)
    batches = [np.array([shortest] * _SHORTEST, np.int64)]
    tokens = 0
    for batch in equal_length_batches(sequences, seed=seed):
        if tokens >= TOKENS:
            break
        batches.append(np.array([sequences[index] for index in batch], np.int64))
        tokens += batches[-1].size
    return batches


def _keep_needed(graph: onnx.GraphProto) -> None:
    """Take out of a graph what none of its outputs is computed from."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)


def _rows(values: _Batches) -> Floats:
    return np.concatenate([value.reshape(-1, value.shape[-1]) for value in values])
