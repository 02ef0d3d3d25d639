"""Vectors at once: `python examples/calls.py nats://127.0.0.1:4222`."""

import asyncio
import sys

from akidb_embed import Client, EmbedError, OverloadedError

MODEL = "all-minilm-l6-v2"


async def main(url: str) -> None:
    async with await Client.connect(url) as client:
        result = await client.embed(MODEL, ["hello world", "good morning"], timeout=30)
        print(f"{result.vectors.shape} vectors of {result.variant} {result.version}")

        # Only vectors of the same space may be compared: any other is an error.
        again = await client.embed(MODEL, ["hello"], space=result.space, timeout=30)
        print(f"cosine: {again.vector(0) @ result.vector(0):.3f}")

        try:
            await client.embed(MODEL, ["hello"], dimensions=5)
        except OverloadedError as error:
            print(f"too much to do; try again in {error.retry_after} s")
        except EmbedError as error:
            print(f"refused: {error.code}")


asyncio.run(main(sys.argv[1]))
