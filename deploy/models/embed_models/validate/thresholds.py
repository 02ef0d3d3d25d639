"""Holds what was measured against what the recipe asks for."""

from collections.abc import Iterator
from typing import Any

from embed_models.kinds import KINDS, REFERENCE
from embed_models.metadata import Artefact, Metadata
from embed_models.recipe import Recipe, Thresholds

# Threshold -> the measurement it speaks of, where the measurement must not be below it.
_AT_LEAST = {
    "mean_cosine": "cosine_similarity_vs_fp32",
    "min_cosine": "cosine_min",
    "golden_cosine": "golden_cosine_min",
    "recall_at_1_ratio": "recall_at_1_ratio",
    "top10_overlap": "top10_overlap",
}
_AT_MOST = {"batch_invariance": "batch_difference", "size_ratio": "size_ratio"}

# Dynamic quantization is asked for by people who know what it does to batch-mates.
_NOT_FOR_DYNAMIC = ("batch_invariance", "size_ratio")


def missed(recipe: Recipe, metadata: Metadata) -> list[str]:
    """Return a sentence for each threshold that the version misses, or that was not measured.

    What `unjudged` returns is neither missed nor met.
    """
    if metadata.random_weights:
        return []
    sentences: list[str] = []
    by_file = {artefact.file: artefact for artefact in metadata.artefacts}
    for name in recipe.artefacts:
        artefact = by_file.get(KINDS[name].file)
        if artefact is None:
            if KINDS[name].why_not(recipe.architecture, recipe.pooling) is not None:
                continue  # no model of this shape has it
            sentences.append(f"{KINDS[name].file} is wanted by the recipe and does not exist")
        elif artefact.validation is None:
            sentences.append(f"{artefact.file} has not been validated")
        else:
            sentences += _missed_by(name, artefact, artefact.validation, recipe.thresholds[name])
    sentences += _missed_teacher(recipe, by_file.get(KINDS[REFERENCE].file))
    return sentences


def unjudged(recipe: Recipe, metadata: Metadata) -> list[str]:
    """Return a sentence for everything that the recipe asks for and this machine cannot judge."""
    if metadata.random_weights:
        return []
    sentences: list[str] = []
    by_file = {artefact.file: artefact for artefact in metadata.artefacts}
    for name in recipe.artefacts:
        artefact = by_file.get(KINDS[name].file)
        if artefact is None or artefact.validation is None:
            continue  # which is missed
        if words := artefact.validation.get("not_run"):
            sentences.append(f"{artefact.file}: not run: {words}")
        performance, wanted = artefact.performance or {}, recipe.thresholds[name].speedup
        if wanted is not None and name != REFERENCE and not performance.get("integer_instructions"):
            sentences.append(
                f"{artefact.file}: speedup_vs_fp32 is {performance.get('speedup_vs_fp32')} here, "
                f"and {wanted} is asked for where a CPU has integer instructions, as this one lacks"
            )
    return sentences


def _missed_by(
    name: str, artefact: Artefact, validation: dict[str, Any], thresholds: Thresholds
) -> Iterator[str]:
    dynamic = bool((artefact.quantization or {}).get("batch_dependent"))
    for table, sign in ((_AT_LEAST, 1), (_AT_MOST, -1)):
        for threshold, measurement in table.items():
            wanted = getattr(thresholds, threshold)
            if wanted is None or (name == REFERENCE and threshold == "size_ratio"):
                continue
            if dynamic and threshold in _NOT_FOR_DYNAMIC:
                continue
            value = validation.get(measurement)
            # Written so that NaN misses.
            if value is None or not sign * value >= sign * wanted:
                words = "at least" if sign > 0 else "at most"
                yield f"{artefact.file}: {measurement} is {value}, {words} {wanted} is needed"
    if validation.get("verdict") == "fail":
        yield f"{artefact.file}: the verdict is fail (mean cosine not above 0.98)"
    performance = artefact.performance or {}
    # A CPU without integer instructions says nothing about those that have them.
    if thresholds.speedup is not None and performance.get("integer_instructions"):
        value = performance.get("speedup_vs_fp32")
        if name != REFERENCE and (value is None or value < thresholds.speedup):
            yield (
                f"{artefact.file}: speedup_vs_fp32 is {value}, "
                f"at least {thresholds.speedup} is needed"
            )


def _missed_teacher(recipe: Recipe, artefact: Artefact | None) -> Iterator[str]:
    if recipe.teacher is None or artefact is None or artefact.validation is None:
        return
    validation, performance = artefact.validation, artefact.performance or {}
    for measurement, value, wanted in (
        (
            "cosine_similarity_vs_teacher",
            validation.get("cosine_similarity_vs_teacher"),
            recipe.teacher.mean_cosine,
        ),
        (
            "recall_at_1_ratio_to_teacher",
            validation.get("recall_at_1_ratio_to_teacher"),
            recipe.teacher.recall_at_1_ratio,
        ),
        (
            "speedup_vs_teacher_fp32",
            performance.get("speedup_vs_teacher_fp32"),
            recipe.teacher.speedup,
        ),
    ):
        if value is None or not value >= wanted:
            yield f"{artefact.file}: {measurement} is {value}, at least {wanted} is needed"
