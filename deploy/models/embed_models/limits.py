"""What a worker takes: what is out of all proportion is refused there, and not written here.

The same numbers stand in `schemas/src/model_limits.rs`, with their reasons.
"""

from embed_models.errors import CheckpointError
from embed_models.metadata import Metadata

MAX_SEQ_LENGTH = 32_768
MAX_DIMENSION = 16_384
MAX_PROMPTS = 64
MAX_PROMPT_BYTES = 8 << 10
MAX_TOKENIZER_BYTES = 64 << 20
MAX_GOLDEN_BYTES = 16 << 20

# Moves that current.json keeps, the last ones.
MOVES_KEPT = 1000


def check_limits(metadata: Metadata) -> Metadata:
    """Return the metadata, or raise `CheckpointError` with the field and its limit."""
    for field, found, most in (
        ("max_seq_length", metadata.max_seq_length, MAX_SEQ_LENGTH),
        ("dimension", metadata.dimension, MAX_DIMENSION),
        ("number of prompts", len(metadata.prompts), MAX_PROMPTS),
        ("tokenizer.json", metadata.tokenizer.bytes, MAX_TOKENIZER_BYTES),
        ("golden.json", metadata.golden.bytes, MAX_GOLDEN_BYTES),
        *(
            (f"prompt {name}", len(prompt.encode()), MAX_PROMPT_BYTES)
            for name, prompt in metadata.prompts.items()
        ),
    ):
        if found > most:
            raise CheckpointError(f"{field} is {found}, and a worker takes at most {most}")
    return metadata
