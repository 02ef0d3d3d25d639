"""The official OpenAI package sends a batch: `openai_batches.py URL EXPECTED [LINES]`.

EXPECTED is a file of JSON, `{"model": …, "texts": [...], "vectors": [[…]]}`:
the vectors that came over NATS.
"""

# ruff: noqa: S101 - this is a test

from __future__ import annotations

import base64
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import openai

OVER = ("completed", "failed", "expired", "cancelled")


def line(custom_id: str, body: dict[str, object]) -> str:
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": body}
    return json.dumps(request) + "\n"


def vector(embedding: list[float] | str) -> np.ndarray:
    if isinstance(embedding, str):
        return np.frombuffer(base64.b64decode(embedding), dtype="<f4")
    return np.array(embedding, dtype=np.float32)


def run(client: openai.OpenAI, lines: list[str]) -> tuple[openai.types.Batch, list, list]:
    content = io.BytesIO("".join(lines).encode())
    file = client.files.create(file=("requests.jsonl", content), purpose="batch")
    assert (file.purpose, file.bytes) == ("batch", len(content.getvalue()))
    batch = client.batches.create(
        input_file_id=file.id,
        endpoint="/v1/embeddings",
        completion_window="24h",
        metadata={"of": "a test"},
    )
    begun = time.monotonic()
    while batch.status not in OVER:
        assert time.monotonic() - begun < 600, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    assert batch.metadata == {"of": "a test"}, batch

    def read(file_id: str | None) -> list:
        if file_id is None:
            return []
        text = client.files.content(file_id).text
        return [json.loads(line) for line in text.splitlines()]

    return batch, read(batch.output_file_id), read(batch.error_file_id)


def check(url: str, expected: dict, count: int) -> float:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300)
    model, texts = expected["model"], expected["texts"]
    vectors = np.array(expected["vectors"], dtype=np.float32)
    lines = []
    for n in range(count):
        body: dict[str, object] = {"model": model, "input": texts[n % len(texts)]}
        if n % 10 == 1:
            body |= {"input": [texts[n % len(texts)]] * 2, "encoding_format": "base64"}
        lines.append(line(f"row-{n}", body))
    lines.append(line("unknown", {"model": "nobody-serves-this", "input": "x"}))
    lines.append(line("tokens", {"model": model, "input": [1, 2, 3]}))
    begun = time.monotonic()
    batch, output, errors = run(client, lines)
    seconds = time.monotonic() - begun
    counts = batch.request_counts
    assert batch.status == "completed", batch
    assert counts is not None, batch
    assert (counts.total, counts.completed, counts.failed) == (count + 2, count, 2), counts
    assert [found["custom_id"] for found in output] == [f"row-{n}" for n in range(count)]
    worst = 1.0
    for n, found in enumerate(output):
        response = found["response"]
        assert (response["status_code"], found["error"]) == (200, None), found
        body = response["body"]
        assert body["model"] == model, body
        assert body["usage"]["total_tokens"] > 0, body
        for item in body["data"]:
            a, b = vector(item["embedding"]), vectors[n % len(vectors)]
            worst = min(worst, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        assert len(body["data"]) == (2 if n % 10 == 1 else 1)
    assert worst > 0.9999, worst
    status = {found["custom_id"]: found["response"]["status_code"] for found in errors}
    assert status == {"unknown": 404, "tokens": 400}, errors

    listed = client.batches.list(limit=1)
    assert listed.data[0].id == batch.id
    files = {file.id: file for file in client.files.list()}
    assert files[batch.output_file_id].purpose == "batch_output", files
    assert client.files.delete(batch.input_file_id).deleted
    try:
        client.files.retrieve(batch.input_file_id)
    except openai.NotFoundError:
        pass
    else:
        raise AssertionError("the file is still there")

    twice = [line("a", {"model": model, "input": "x"})] * 2
    batch, output, errors = run(client, twice)
    assert batch.status == "failed", batch
    assert batch.errors is not None, batch
    assert batch.errors.data, batch
    error = batch.errors.data[0]
    assert (error.code, error.line) == ("duplicate_custom_id", 2)
    assert (output, errors) == ([], [])
    return seconds


def main() -> None:
    expected = json.loads(Path(sys.argv[2]).read_text())
    count = int(sys.argv[3]) if len(sys.argv) > 3 else 300
    seconds = check(sys.argv[1], expected, count)
    print(f"{count} lines in {seconds:.1f} s: {count / seconds:.0f} lines/s")


if __name__ == "__main__":
    main()
