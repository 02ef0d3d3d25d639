"""LlamaIndex against the gateway: `python examples/llama_index_search.py http://127.0.0.1:8080`."""

import sys

from llama_index.core import Document, VectorStoreIndex
from llama_index.embeddings.openai import OpenAIEmbedding

embeddings = OpenAIEmbedding(
    api_base=f"{sys.argv[1]}/v1",
    api_key="none",
    # `model` would have to be one of OpenAI's.
    model_name="all-minilm-l6-v2",
)
texts = ["a commanding view of the ocean", "the price of a used car", "a recipe for onion soup"]
documents = [Document(text=text) for text in texts]
index = VectorStoreIndex.from_documents(documents, embed_model=embeddings)
retriever = index.as_retriever(similarity_top_k=1)
[found] = retriever.retrieve("Where can I see the sea?")
print(found.get_content())
