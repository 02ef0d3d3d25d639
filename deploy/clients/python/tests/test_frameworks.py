"""LangChain and LlamaIndex against the gateway: `make test-frameworks`, which installs them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import MODEL, PATIENCE, binary
from test_examples import EXAMPLES, run

from akidb_embed import SyncClient

#: The virtual environment that they are in.
FRAMEWORKS = os.environ.get("EMBED_FRAMEWORKS")

pytestmark = pytest.mark.skipif(FRAMEWORKS is None, reason="run by `make test-frameworks`")

TEXTS = ["hello world", "a commanding view of the ocean", "naïve 🎉", "hello world"]


@pytest.fixture(scope="module")
def gateway(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The gateway's address."""
    command = [binary("embed"), "gateway", "--json", "--server", url, "--listen", "127.0.0.1:0"]
    with (tmp_path_factory.mktemp("gateway") / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        yield str(json.loads(process.stdout.readline())["url"])
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def python() -> str:
    return str(Path(FRAMEWORKS or "") / "bin/python")


@pytest.mark.parametrize("name", ["langchain_search.py", "llama_index_search.py"])
def test_a_search_finds_what_is_meant(gateway: str, tmp_path: Path, name: str) -> None:
    said = run([python(), str(EXAMPLES / name), gateway], tmp_path)
    assert said.strip() == "a commanding view of the ocean"


LANGCHAIN = f"""
import asyncio, json, sys
from langchain_openai import OpenAIEmbeddings
texts = json.loads(sys.argv[2])
one = OpenAIEmbeddings(base_url=sys.argv[1] + "/v1", api_key="none", model="{MODEL}",
                       check_embedding_ctx_length=False)
print(json.dumps([one.embed_documents(texts), asyncio.run(one.aembed_documents(texts)),
                  [one.embed_query(text) for text in texts]]))
"""
LLAMA_INDEX = f"""
import asyncio, json, sys
from llama_index.embeddings.openai import OpenAIEmbedding
texts = json.loads(sys.argv[2])
one = OpenAIEmbedding(api_base=sys.argv[1] + "/v1", api_key="none", model_name="{MODEL}")
print(json.dumps([one.get_text_embedding_batch(texts),
                  asyncio.run(one.aget_text_embedding_batch(texts)),
                  [one.get_query_embedding(text) for text in texts]]))
"""


@pytest.mark.parametrize("program", [LANGCHAIN, LLAMA_INDEX], ids=["langchain", "llama-index"])
def test_vectors_are_those_over_nats(gateway: str, url: str, tmp_path: Path, program: str) -> None:
    said = run([python(), "-c", program, gateway, json.dumps(TEXTS)], tmp_path)
    with SyncClient(url) as client:
        vectors = client.embed(MODEL, TEXTS, timeout=PATIENCE).vectors
    for way in json.loads(said):
        np.testing.assert_allclose(np.array(way), vectors, atol=1e-4)
