"""The child of `embed-loadtest peers`: sentence-transformers, asked over standard input.

One line of JSON for each question (`texts`, `rate`, `lone`, `vectors`) and one for each answer.
Started with the model's name or folder.
"""

import json
import sys
import time
from typing import Any

import sentence_transformers


def answer(model: Any, texts: list[str], question: dict[str, Any]) -> Any:
    """Do what a question asks for, and return what it is answered with."""
    if "texts" in question:
        texts[:] = question["texts"]
        return sentence_transformers.__version__
    if "vectors" in question:
        found = model.encode(question["vectors"], normalize_embeddings=True)
        return [[float(value) for value in row] for row in found]
    begin = time.perf_counter()
    if "lone" in question:
        took = []
        while time.perf_counter() - begin < question["lone"]["seconds"]:
            before = time.perf_counter()
            model.encode([question["lone"]["text"]])
            took.append((time.perf_counter() - before) * 1000)
        return took
    done = 0
    while time.perf_counter() - begin < question["rate"]["seconds"]:
        # All of them at once: it sorts them by length, which is its best.
        model.encode(texts, batch_size=question["rate"]["batch"])
        done += len(texts)
    return done / (time.perf_counter() - begin)


def main() -> None:
    """Answer until standard input ends."""
    model = sentence_transformers.SentenceTransformer(sys.argv[1])
    texts: list[str] = []
    for line in sys.stdin:
        print(json.dumps(answer(model, texts, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
