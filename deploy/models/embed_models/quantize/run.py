"""Writes the artefacts of a recipe beside the float32 graph of a version that is being made."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embed_models.arithmetic import WORD_EMBEDDINGS
from embed_models.checkpoint import Checkpoint
from embed_models.corpus.load import Texts
from embed_models.errors import CorpusError
from embed_models.four_bits import BLOCK, exact_table
from embed_models.graph import serialize
from embed_models.kinds import CPU_INT8, KINDS, REFERENCE, Kind
from embed_models.metadata import Artefact, Metadata
from embed_models.progress import tenths
from embed_models.prompts import with_mixed_prompts
from embed_models.quantize import dynamic
from embed_models.quantize.calibration import (
    LEAST_ROWS,
    Calibration,
    calibrations,
    usual_rows,
)
from embed_models.quantize.numerics import E4M3, U8, Format
from embed_models.quantize.plan import Plan
from embed_models.quantize.search import Found, Search, quantized_graph
from embed_models.recipe import Recipe, Thresholds
from embed_models.tokenizer import load_tokenizer

Report = Callable[[str], None]

# Fewer would leave the ranges of rare words to chance.
LEAST_TEXTS = 16
USUAL_TEXTS = 10_000
# What the worst text of a few has to have above the threshold for the worst of many.
_MARGIN = 0.005


@dataclass(frozen=True)
class Settings:
    """What the caller decides about quantizing."""

    texts: Texts
    threads: int
    seed: int = 1
    dynamic_int8: bool = False


def quantize_version(
    directory: Path,
    metadata: Metadata,
    checkpoint: Checkpoint,
    recipe: Recipe,
    settings: Settings,
    report: Report,
) -> Metadata:
    """Write every artefact that the recipe wants, and return the metadata with them."""
    kinds = [KINDS[name] for name in recipe.artefacts if name != REFERENCE]
    static = [k for k in kinds if k.fmt and not (settings.dynamic_int8 and k.name == CPU_INT8)]
    searches: dict[bool, tuple[Search, Calibration]] = {}
    if static:
        sequences = tokenize(metadata, directory, settings.texts, seed=settings.seed)
        fitted = sorted({_is_int8(kind) for kind in static})
        # Scales of FP8 gain nothing by more.
        usual = usual_rows(checkpoint.config.hidden_size)
        found_by_size = calibrations(
            checkpoint,
            sequences,
            [usual if int8 else LEAST_ROWS for int8 in fitted],
            threads=settings.threads,
            seed=settings.seed,
            progress=tenths(report, "calibrated, texts", len(sequences)),
        )
        for int8, calibration in zip(fitted, found_by_size, strict=True):
            search = Search(
                checkpoint,
                calibration,
                sequences,
                threads=settings.threads,
                fit=not metadata.random_weights,
            )
            searches[int8] = search, calibration
    artefacts = {artefact.file: artefact for artefact in metadata.artefacts}
    for kind in kinds:
        path = directory / kind.file
        if (reason := kind.why_not(checkpoint.config, checkpoint.pooling)) is not None:
            report(f"{kind.name}: not written, since no kernels are for such a model: {reason}")
            continue
        description: dict[str, Any] | None
        if settings.dynamic_int8 and kind.name == CPU_INT8:
            dynamic.write_dynamic(directory / KINDS[REFERENCE].file, path)
            description = dynamic.DESCRIPTION
        elif kind.fmt:
            search, calibration = searches[_is_int8(kind)]
            found = search.run(
                kind,
                recipe.strengths.get(kind.name, ()),
                target=recipe.targets.get(kind.name, recipe.thresholds[kind.name].mean_cosine),
                least=_least_cosine(recipe.thresholds[kind.name]),
                most_excluded=recipe.most_excluded,
                report=report,
                excluded=recipe.excluded.get(kind.name, frozenset()),
            )
            report(f"{kind.name}: {found.reason}")
            model = quantized_graph(checkpoint, found.plan, kind, kind.dtype)
            path.write_bytes(serialize(model))
            description = _describe(kind, kind.fmt, found, calibration, settings)
        else:
            path.write_bytes(serialize(kind.exact_graph(checkpoint)))
            description = None
        artefact = Artefact.of(path, precision=kind.precision, form=kind.form.name)
        artefacts[kind.file] = dataclasses.replace(artefact, quantization=description)
        report(f"wrote {kind.file}: {kind.form.name} form, {artefact.bytes} bytes")
    ordered = [artefacts[kind.file] for kind in KINDS.values() if kind.file in artefacts]
    return dataclasses.replace(metadata, artefacts=ordered)


def _is_int8(kind: Kind) -> bool:
    return kind.fmt is not None and kind.fmt.weight_dtype == np.int8


def _least_cosine(thresholds: Thresholds) -> float | None:
    wanted = (thresholds.min_cosine, thresholds.golden_cosine)
    known = [value for value in wanted if value is not None]
    return max(known) + _MARGIN if known else None


def tokenize(
    metadata: Metadata, directory: Path, texts: Texts, *, seed: int = 1
) -> list[list[int]]:
    """Tokenize calibration texts as a worker would, and the empty text before them.

    Where the model has prompts, they stand before the texts in turn, drawn by the `seed`.
    """
    if len(texts.items) < LEAST_TEXTS:
        raise CorpusError(
            f"{texts.name} has {len(texts.items)} texts; calibration needs at least {LEAST_TEXTS}, "
            f"and {USUAL_TEXTS:,} are usual"
        )
    tokenizer = load_tokenizer((directory / metadata.tokenizer.file).read_text(encoding="utf-8"))
    tokenizer.enable_truncation(metadata.max_seq_length)
    prompted = with_mixed_prompts(metadata, texts.items, seed=seed)
    # Nothing but special tokens has activations like no other text, and anybody may send it.
    return [encoding.ids for encoding in tokenizer.encode_batch(["", *prompted])]


def _word_embeddings(plan: Plan, fmt: Format) -> str:
    if exact_table(plan.tensors[f"{WORD_EMBEDDINGS}.weight"]) is not None:
        return f"u4, asymmetric, per row and block of {BLOCK}, as the model has them"
    return "fp16" if fmt is E4M3 else "s8, symmetric, per row"


def _describe(
    kind: Kind, fmt: Format, found: Found, calibration: Calibration, settings: Settings
) -> dict[str, Any]:
    plan = found.plan
    errors = {site: round(entry.activation.relative_error, 6) for site, entry in plan.sites.items()}
    return {
        "method": "post-training quantization, static",
        "activations": f"{fmt.name}, {'asymmetric' if fmt.asymmetric else 'symmetric'}, per tensor",
        "weights": "e4m3, symmetric, per tensor"
        if fmt is E4M3
        else "s8, symmetric, per output channel",
        "word_embeddings": _word_embeddings(plan, fmt),
        "around": "fp32" if fmt is U8 else "fp16",
        "gelu": "tanh approximation" if kind.name == CPU_INT8 or kind.kernels else "exact",
        "calibration_dataset": settings.texts.name,
        "calibration_sha256": settings.texts.sha256,
        "calibration_texts": len(settings.texts.items),
        "calibration_tokens": calibration.tokens,
        "smoothing_strength": plan.strength or 0.0,
        "bias_correction": True,
        "rounding": "layer by layer, against the exact layer's output"
        if plan.fitted
        else "to the nearest",
        "excluded": sorted(plan.excluded),
        "reason": found.reason,
        "trials": [trial.to_json() for trial in found.trials],
        "relative_errors": errors,
        "batch_dependent": False,
        # Of the vectors; measured by validating.
        "accuracy_loss": None,
    }
