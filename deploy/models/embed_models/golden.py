"""Makes golden.json: texts with the vectors that a version has to reproduce before it goes live."""

import base64
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed_models.inference import TextEncoder

# The largest absolute difference in any component; float32 on other hardware stays far below it.
TOLERANCE = 1e-4
_MOST = 1e-2
# Above the norm of a vector of unit length, whatever its last bits.
_UNIT = 1.001

TEXTS = (
    "hello world",
    "",
    "The quick brown fox jumps over the lazy dog.",
    "What is the capital of France?",
    "GPU inference in lower precision trades accuracy for speed, UNLESS CALIBRATED WELL.",
    "naïve café résumé — Übermaß, ångström, Łódź",
    "日本語のテキスト 中文文本 한국어 텍스트",
    "Привет, мир! مرحبا بالعالم",
    "a family \U0001f469\u200d\U0001f469\u200d\U0001f467 and a party \U0001f389\U0001f389",
    "control\x00 characters\x07,\ttabs,\r\nline ends,\u200b zero width and \ufffd replacement",
    "0123456789 3.14159 -42 1e-9 0xFF $1,299.00 50% (a+b)*c != d; [x] {y} <z/> #tag @name",
    # Longer than the 512 positions of a BERT, so it truncates whatever the limit is.
    " ".join(f"This is sentence number {n} of a text that has to be cut." for n in range(1, 61)),
)


def golden_json(encoder: TextEncoder) -> str:
    """Return the text of golden.json, computed one text per run."""
    items = []
    longest, tolerance = 1.0, TOLERANCE
    for text in TEXTS:
        embedded = encoder.embed(text)
        longest = max(longest, float(np.linalg.norm(embedded.vector)))
        items.append(
            {
                "text": text,
                "prompt": None,
                "tokens": embedded.tokens,
                "truncated": embedded.truncated,
                "vector_f32_base64": encode_vector(embedded.vector),
            }
        )
    # Vectors that are not of unit length are off by more, in proportion; a worker takes no more.
    if longest > _UNIT:
        # Rounded, since its last bits depend on the processor as well.
        tolerance = min(float(f"{TOLERANCE * longest:.1g}"), _MOST)
    return json.dumps({"tolerance": tolerance, "items": items}, indent=2) + "\n"


def encode_vector(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def decode_vector(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").astype(np.float32)


def equivalent(left: bytes, right: bytes) -> bool:
    """Say whether two golden.json files demand the same of a version.

    The last bits of a vector depend on the processor, so two machines that import one checkpoint
    write golden files which differ in bytes and agree within the tolerance.
    """
    if left == right:
        return True
    a, b = json.loads(left), json.loads(right)
    if _without_vectors(a) != _without_vectors(b):
        return False
    return all(
        np.abs(decode_vector(x["vector_f32_base64"]) - decode_vector(y["vector_f32_base64"])).max()
        <= a["tolerance"]
        for x, y in zip(a["items"], b["items"], strict=True)
    )


def _without_vectors(golden: dict[str, Any]) -> dict[str, Any]:
    items = [
        {key: value for key, value in item.items() if key != "vector_f32_base64"}
        for item in golden["items"]
    ]
    return golden | {"items": items}
