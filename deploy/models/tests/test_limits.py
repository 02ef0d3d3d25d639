"""What a worker refuses is not written."""

import dataclasses
from pathlib import Path

import pytest

from embed_models.errors import CheckpointError
from embed_models.limits import check_limits
from embed_models.metadata import FileRef, Metadata

FILE = FileRef("f", 1, "ab" * 32)
METADATA = Metadata(
    model_name="m",
    slug="m",
    model_id="a/m",
    version="v1",
    dimension=384,
    max_seq_length=512,
    pooling="mean",
    normalized=True,
    dimensions=[],
    prompts={"query": "query: "},
    space="s",
    tokenizer=FILE,
    golden=FILE,
    artefacts=[],
    license=None,
    created_at="2026-01-01T00:00:00Z",
)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("max_seq_length", 2**32 - 1, "max_seq_length is 4294967295.*32768"),
        ("dimension", 16_385, "dimension is 16385.*16384"),
        ("prompts", {"query": "x" * 8193}, "prompt query is 8193.*8192"),
        ("prompts", {str(n): "" for n in range(65)}, "number of prompts is 65.*64"),
        ("tokenizer", FileRef("f", 2**40, "ab" * 32), "tokenizer.json is"),
    ],
)
def test_a_refusal_names_the_field_and_the_limit(field: str, value: object, said: str) -> None:
    assert check_limits(METADATA) == METADATA
    with pytest.raises(CheckpointError, match=said):
        check_limits(dataclasses.replace(METADATA, **{field: value}))  # type: ignore[arg-type]


def test_the_numbers_are_the_worker_s() -> None:
    worker = Path(__file__).parents[3] / "schemas/src/model_limits.rs"
    said = worker.read_text(encoding="utf-8")
    for line in (
        "MAX_SEQ_LENGTH: u32 = 32_768",
        "MAX_DIMENSION: u32 = 16_384",
        "MAX_ENTRIES: usize = 64",
        "MAX_PROMPT_BYTES: usize = 8 << 10",
        "MAX_TOKENIZER_BYTES: u64 = 64 << 20",
        "MAX_GOLDEN_BYTES: u64 = 16 << 20",
    ):
        assert line in said
