"""LangChain against the gateway: `python examples/langchain_search.py http://127.0.0.1:8080`."""

import sys

from langchain_core.vectorstores import InMemoryVectorStore
from langchain_openai import OpenAIEmbeddings

embeddings = OpenAIEmbeddings(
    base_url=f"{sys.argv[1]}/v1",
    api_key="none",
    model="all-minilm-l6-v2",
    # Texts go as they are: token ids would be of another vocabulary.
    check_embedding_ctx_length=False,
)
store = InMemoryVectorStore.from_texts(
    ["a commanding view of the ocean", "the price of a used car", "a recipe for onion soup"],
    embeddings,
)
[found] = store.similarity_search("Where can I see the sea?", k=1)
print(found.page_content)
