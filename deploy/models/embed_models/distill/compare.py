"""Compares the imported student with the imported teacher, on the CPU and without torch.

`python -m embed_models.distill.compare --help`. Cosines and recalls are those of held-out texts;
the times are those of ONNX Runtime on one thread, both models in turn.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from embed_models.attention import ATTENTION_MASK
from embed_models.distill.corpus import HELD_OUT, read_rows
from embed_models.distill.evaluation import choose, compare, tested
from embed_models.graph import EMBEDDING, INPUT_IDS
from embed_models.inference import TextEncoder

# (texts, tokens) of the batches that are timed.
_SHAPES = ((1, 32), (8, 32), (8, 128))


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(
        prog="python -m embed_models.distill.compare", description=__doc__
    )
    parser.add_argument("teacher", type=Path, help="version directory of a registry")
    parser.add_argument("student", type=Path, help="version directory of a registry")
    parser.add_argument("--data", type=Path, required=True, help="what distill-data wrote")
    parser.add_argument("--texts", type=int, default=8000, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=15, help="of the timing")
    options = parser.parse_args()
    texts = choose(read_rows(options.data / HELD_OUT), options.texts) | tested()
    teacher, student = (
        {kind: _embed(version, kind, held.texts) for kind, held in texts.items()}
        for version in (options.teacher, options.student)
    )
    result: dict[str, Any] = {"texts": sum(len(held.texts) for held in texts.values())}
    result |= compare(student, teacher, texts)
    result |= _times(options.teacher, options.student, options.rounds)
    print(json.dumps(result, indent=2))


def _embed(version: Path, kind: str, texts: list[str]) -> NDArray[np.float32]:
    print(f"embedding {len(texts)} texts of {kind} with {version}", file=sys.stderr)
    metadata = json.loads((version / "metadata.json").read_text(encoding="utf-8"))
    encoder = TextEncoder(
        version / "fp32.onnx", version / "tokenizer.json", metadata["max_seq_length"]
    )
    return np.stack([encoder.embed(text).vector for text in texts])


def _times(teacher: Path, student: Path, rounds: int) -> dict[str, Any]:
    """Return milliseconds per batch (medians), and how many times faster the student is."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [
        ort.InferenceSession(version / "fp32.onnx", options, providers=["CPUExecutionProvider"])
        for version in (teacher, student)
    ]
    result = {}
    for batch, length in _SHAPES:
        feeds = {
            INPUT_IDS: np.random.default_rng(1).integers(1000, 30000, (batch, length)),
            ATTENTION_MASK: np.ones((batch, length), dtype=np.int64),
        }
        spent: list[list[float]] = [[], []]
        for round_ in range(rounds + 1):
            for times, session in zip(spent, sessions, strict=True):
                began = time.perf_counter()
                session.run([EMBEDDING], feeds)
                if round_ > 0:  # the first one warms up
                    times.append(1000 * (time.perf_counter() - began))
        of_teacher, of_student = (statistics.median(times) for times in spent)
        result[f"{batch}x{length}"] = {
            "teacher_ms": round(of_teacher, 2),
            "student_ms": round(of_student, 2),
            "speedup": round(of_teacher / of_student, 2),
        }
    return {"batches": result}


if __name__ == "__main__":
    main()
