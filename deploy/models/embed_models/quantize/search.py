"""Chooses the smoothing strength, and which layers to leave out, by trying.

Each trial is judged on some of the calibration text, never on held-out text.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import DTypeLike, NDArray

from embed_models.arithmetic import Arithmetic
from embed_models.checkpoint import Checkpoint
from embed_models.errors import RecipeError
from embed_models.graph import build_graph, serialize
from embed_models.inference import cpu_session, embed_sequences
from embed_models.kernels import build_kernel_graph
from embed_models.kinds import CPU_INT8, TENSORRT_INT8, Kind
from embed_models.quantize.arithmetic import ContribInt8, QdqArithmetic
from embed_models.quantize.calibration import Calibration
from embed_models.quantize.layerwise import fitted_plan
from embed_models.quantize.numerics import Format
from embed_models.quantize.plan import Plan, linear_layers, make_plan

TUNING_TEXTS = 128
# Long texts would take most of the time and tell little more.
TUNING_TOKENS = 96


@dataclass(frozen=True)
class Trial:
    """One setting with its cosine to the float32 graph over the tuning texts."""

    strength: float
    excluded: tuple[str, ...]
    mean_cosine: float
    min_cosine: float

    def to_json(self) -> dict[str, Any]:
        return {
            "smoothing_strength": self.strength,
            "excluded": list(self.excluded),
            "mean_cosine": round(self.mean_cosine, 6),
            "min_cosine": round(self.min_cosine, 6),
        }


@dataclass(frozen=True)
class Found:
    """The best plan, all that was tried, and the choice in words."""

    plan: Plan
    trials: list[Trial]
    reason: str


class Search:
    """Tries settings of one checkpoint against its float32 vectors."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        calibration: Calibration,
        sequences: Sequence[Sequence[int]],
        *,
        threads: int,
        fit: bool = True,
    ) -> None:
        self._checkpoint = checkpoint
        # Random weights would cost minutes and gain nothing by it.
        self._fit = fit
        self._calibration = calibration
        self._threads = threads
        self._sequences = sequences
        short = [sequence for sequence in sequences if len(sequence) <= TUNING_TOKENS]
        self._tuning = (short or list(sequences))[:TUNING_TEXTS]
        exact = build_graph(checkpoint.config, Arithmetic(checkpoint.tensors), checkpoint.pooling)
        self._reference = self._embed(exact, as_written=False)

    def run(
        self,
        kind: Kind,
        strengths: Sequence[float],
        *,
        target: float | None,
        least: float | None,
        most_excluded: int,
        report: Callable[[str], None],
        excluded: frozenset[str] = frozenset(),
    ) -> Found:
        """Try all strengths; then leave layers out of the best, as long as it misses `target`.

        What `excluded` names is left out from the beginning, and counts as well. The best has the
        highest mean cosine of those whose worst text has at least `least`.
        """
        if not strengths:
            raise RecipeError(f"the recipe has no quantization.strengths for {kind.name}")
        sites = linear_layers(self._checkpoint.config)
        if unknown := sorted(excluded - sites.keys()):
            raise RecipeError(
                f"quantization.excluded.{kind.name} names {', '.join(unknown)}; "
                f"there are {', '.join(sites)}"
            )
        tried = [self._try(kind, strength, excluded, report) for strength in strengths]
        safe = [result for result in tried if least is None or result[1].min_cosine >= least]
        plan, best = max(safe or tried, key=lambda result: result[1].mean_cosine)
        trials = [trial for _, trial in tried]
        reason = f"strength {best.strength} has the highest mean cosine of the {len(safe)}"
        reason += f" of {len(trials)} tried whose worst text has at least {least}"
        if least is None or not safe:
            reason = f"strength {best.strength} has the highest mean cosine of {len(trials)} tried"
        # TensorRT's INT8 is complete by contract: its users count on every product being integer.
        allowed = 0 if kind.name == TENSORRT_INT8 else most_excluded
        while target is not None and best.mean_cosine < target and len(best.excluded) < allowed:
            worst = max(plan.sites, key=lambda site: plan.sites[site].activation.relative_error)
            more = frozenset({*best.excluded, worst, *_behind(worst, kind)})
            next_plan, trial = self._try(kind, best.strength, more, report)
            trials.append(trial)
            if trial.mean_cosine <= best.mean_cosine:
                break
            plan, best = next_plan, trial
        if excluded:
            reason += f"; by the recipe, {', '.join(sorted(excluded))} stayed in floating point"
        missed = [site for site in best.excluded if site not in excluded]
        if missed:
            reason += (
                f"; {', '.join(missed)} stayed in floating point, because the mean cosine "
                f"was below {target} with them in 8 bits and they had the largest errors"
            )
        elif target is None or best.mean_cosine >= target:
            reason += "; no layer had to be left out"
        return Found(plan, trials, reason)

    def _try(
        self, kind: Kind, strength: float, excluded: frozenset[str], report: Callable[[str], None]
    ) -> tuple[Plan, Trial]:
        if kind.fmt is None:
            raise ValueError(f"{kind.name} is not quantized")
        plan = self._plan(kind, kind.fmt, strength or None, excluded)
        # In float32 around the quantized layers, which is faster on a CPU and rounds the same.
        model = _trial_graph(self._checkpoint, plan, kind, np.float32)
        vectors = self._embed(model, as_written=kind.name != CPU_INT8)
        cosines = np.einsum("ij,ij->i", vectors, self._reference)
        trial = Trial(
            strength, tuple(sorted(excluded)), float(cosines.mean()), float(cosines.min())
        )
        left_out = f" without {', '.join(trial.excluded)}" if excluded else ""
        report(
            f"{kind.name}: smoothing {strength}{left_out}: cosine mean {trial.mean_cosine:.5f}, "
            f"min {trial.min_cosine:.4f} on {len(self._tuning)} calibration texts"
        )
        return plan, trial

    def _plan(
        self, kind: Kind, fmt: Format, strength: float | None, excluded: frozenset[str]
    ) -> Plan:
        if self._fit and fmt.weight_dtype == np.int8:
            return fitted_plan(
                self._checkpoint,
                self._calibration,
                self._sequences,
                kind,
                strength=strength,
                excluded=excluded,
                threads=self._threads,
            )
        return make_plan(
            self._checkpoint.config,
            self._checkpoint.tensors,
            self._calibration,
            fmt,
            strength=strength,
            excluded=excluded,
            one_scale=kind.kernels,
        )

    def _embed(self, model: onnx.ModelProto, *, as_written: bool) -> NDArray[np.float32]:
        session = cpu_session(serialize(model), threads=self._threads, as_written=as_written)
        return embed_sequences(session, self._tuning)


def quantized_graph(
    checkpoint: Checkpoint, plan: Plan, kind: Kind, dtype: DTypeLike
) -> onnx.ModelProto:
    """Write a plan down as a graph of its kind, with `dtype` around the quantized layers."""
    if kind.kernels:
        return build_kernel_graph(checkpoint, plan)
    return _trial_graph(checkpoint, plan, kind, dtype)


def _trial_graph(
    checkpoint: Checkpoint, plan: Plan, kind: Kind, dtype: DTypeLike
) -> onnx.ModelProto:
    arithmetic = ContribInt8(plan) if kind.name == CPU_INT8 else QdqArithmetic(plan, dtype)
    return build_graph(checkpoint.config, arithmetic, checkpoint.pooling, kind.trial_form)


def _behind(site: str, kind: Kind) -> list[str]:
    """Return what cannot be in 8 bits without a site: a kernel that yields FP8 multiplies in it."""
    return [site.replace("/inner", "/outer")] if kind.kernels else []
