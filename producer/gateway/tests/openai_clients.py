"""The official OpenAI package against a gateway: `openai_clients.py URL EXPECTED`.

EXPECTED is a file of JSON, `{"model": …, "texts": […], "vectors": [[…]]}`: what came over NATS.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import openai

MANY = 2048
# What else is in a batch may move the last bits.
NEAR = 1e-5


def want(is_so: bool, what: object) -> None:
    if not is_so:
        sys.exit(f"not as it is wanted: {what}")


def same(response: openai.types.CreateEmbeddingResponse, expected: np.ndarray) -> None:
    want([item.index for item in response.data] == list(range(len(expected))), "the order")
    vectors = np.array([item.embedding for item in response.data], dtype=np.float32)
    want(np.allclose(vectors, expected, atol=NEAR), np.abs(vectors - expected).max())
    usage = response.usage
    want(usage.prompt_tokens == usage.total_tokens > 0, usage)


def one_after_another(url: str, model: str, texts: list[str], expected: np.ndarray) -> None:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=300)
    embed = client.embeddings.create
    # Without a format, the package asks for base64.
    same(embed(model=model, input=texts), expected)
    same(embed(model=model, input=texts, encoding_format="float", user="somebody"), expected)
    same(embed(model=model, input=texts[0]), expected[:1])
    want(model in [served.id for served in client.models.list()], "the model is listed")
    want(client.models.retrieve(model).id == model, "the model is found")

    many = [f"{texts[n % len(texts)]} {n}" if n % 64 else texts[0] for n in range(MANY)]
    response = embed(model=model, input=many)
    want(len(response.data) == MANY, len(response.data))
    for n in range(0, MANY, 64):
        want(np.allclose(response.data[n].embedding, expected[0], atol=NEAR), n)

    pinned = {"x-model-version": "fp32"}
    raw = client.embeddings.with_raw_response.create(model=model, input="x", extra_headers=pinned)
    want(raw.headers["x-embed-variant"] == "fp32", raw.headers)
    for error, ask in [
        (openai.NotFoundError, {"model": "nobody-serves-this", "input": "x"}),
        (openai.BadRequestError, {"model": model, "input": [[1, 2, 3]]}),
        (openai.BadRequestError, {"model": model, "input": "x", "dimensions": 7}),
        (openai.BadRequestError, {"model": model, "input": []}),
    ]:
        raised = None
        try:
            embed(**ask)
        except openai.APIStatusError as caught:
            raised = caught
        want(isinstance(raised, error) and bool(raised.param), f"{ask}: {raised!r}")


async def many_at_once(url: str, model: str, texts: list[str], expected: np.ndarray) -> None:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=300) as client:
        embed = client.embeddings.create
        answers = await asyncio.gather(*[embed(model=model, input=text) for text in texts])
        for response, vector in zip(answers, expected, strict=True):
            same(response, vector[np.newaxis])
        same(await embed(model=model, input=texts, encoding_format="float"), expected)


def main() -> None:
    url, path = sys.argv[1:]
    told = json.loads(Path(path).read_text(encoding="utf-8"))
    expected = np.array(told["vectors"], dtype=np.float32)
    one_after_another(url, told["model"], told["texts"], expected)
    asyncio.run(many_at_once(url, told["model"], told["texts"], expected))


if __name__ == "__main__":
    main()
