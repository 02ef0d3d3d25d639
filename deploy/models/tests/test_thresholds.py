"""What a recipe asks for is met, missed, or not judged: never the one for the other."""

import dataclasses
from typing import Any

import pytest
from test_recipe import GOOD

from embed_models.attention import ContribAttention, PackedAttention, PlainAttention
from embed_models.kernels import KernelForm
from embed_models.metadata import Artefact, FileRef, Metadata
from embed_models.recipe import parse_recipe
from embed_models.validate.claims import accuracy_loss, not_run
from embed_models.validate.thresholds import missed, unjudged

RECIPE = parse_recipe(GOOD, "test")
MEASURED = {
    "cosine_similarity_vs_fp32": 0.9999999,
    "cosine_min": 0.9999999,
    "golden_cosine_min": 0.9999999,
    "recall_at_1_ratio": 1.0,
    "top10_overlap": 1.0,
    "batch_difference": 0.0,
    "size_ratio": 0.25,
    "verdict": "pass",
    "not_run": None,
}


def artefact(name: str, **changed: Any) -> Artefact:
    performance = {"speedup_vs_fp32": 3.0, "integer_instructions": True}
    precision = name.partition("-")[0]
    return Artefact(
        precision, "contrib", f"{name}.onnx", 1, "", None, performance, MEASURED | changed
    )


def version(*artefacts: Artefact) -> Metadata:
    """Return a version with every artefact that the recipe wants, these in place of ours."""
    given = {one.file: one for one in artefacts}
    whole = [given.get(f"{name}.onnx", artefact(name)) for name in RECIPE.artefacts]
    ref = FileRef("f", 1, "")
    return Metadata(
        *("Tiny", "tiny", "org/tiny", "v1", 32, 24, "mean", True, [], {}, "space"),
        *(ref, ref, whole, None, "now"),
    )


def test_met() -> None:
    assert (missed(RECIPE, version()), unjudged(RECIPE, version())) == ([], [])


def test_an_artefact_that_no_model_of_the_shape_has_is_not_missed() -> None:
    whole = version()
    kept = [a for a in whole.artefacts if "kernels" not in a.file]
    found = dataclasses.replace(whole, artefacts=kept)
    assert missed(RECIPE, found) == []
    shape = dataclasses.replace(RECIPE.architecture, hidden_size=384, num_attention_heads=12)
    recipe = dataclasses.replace(RECIPE, architecture=shape)
    assert missed(recipe, found) == [
        "fp16-kernels.onnx is wanted by the recipe and does not exist",
        "fp8-kernels.onnx is wanted by the recipe and does not exist",
    ]


def test_a_speed_that_this_machine_cannot_show_is_neither_met_nor_missed() -> None:
    slow = {"speedup_vs_fp32": 0.9, "integer_instructions": False}
    found = version(dataclasses.replace(artefact("int8"), performance=slow))
    assert missed(RECIPE, found) == []
    (sentence,) = unjudged(RECIPE, found)
    assert "int8.onnx: speedup_vs_fp32 is 0.9 here, and 2.5 is asked for" in sentence
    judged = {"speedup_vs_fp32": 0.9, "integer_instructions": True}
    found = version(dataclasses.replace(artefact("int8"), performance=judged))
    assert len(missed(RECIPE, found)) == 1
    assert unjudged(RECIPE, found) == []


def test_what_did_not_run_is_said() -> None:
    found = version(artefact("fp16-packed", not_run="packing"))
    assert unjudged(RECIPE, found) == ["fp16-packed.onnx: not run: packing"]


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        # What was within the bounds once: a fifth of a component of 384.
        *((name, 9e-3) for name in ("fp32", "fp16", "int8", "fp16-packed", "fp16-tensorrt")),
        *((name, 1.1e-2) for name in ("int8-tensorrt", "fp8-tensorrt")),
    ],
)
def test_batch_mates_that_change_a_vector_miss(name: str, difference: float) -> None:
    found = version(artefact(name, batch_difference=difference))
    assert [s for s in missed(RECIPE, found) if "batch_difference" in s]


def test_what_of_each_kind_has_not_run() -> None:
    def said(precision: str, form: str, *, quantized: bool = False) -> str:
        one = Artefact(precision, form, "x", 1, "", {"method": "static"} if quantized else None)
        return not_run(one) or ""

    assert said("fp32", ContribAttention.name) == ""
    assert said("int8", ContribAttention.name, quantized=True) == ""
    assert said("fp16", ContribAttention.name).startswith("products of 16 bits")
    assert said("fp16", PlainAttention.name).startswith("products of 16 bits")
    assert said("fp16", PackedAttention.name).startswith("packing")
    assert said("fp8", PlainAttention.name, quantized=True).startswith("TensorRT")
    assert said("fp16", KernelForm.name).startswith("its operators")
    assert said("fp8", KernelForm.name, quantized=True).startswith("its operators")


def test_the_loss_as_the_schema_writes_it() -> None:
    assert [accuracy_loss(cosine) for cosine in (0.992, 0.99836, 1.0000001)] == [
        "0.80%",
        "0.16%",
        "0.00%",
    ]
