"""Semantic search over Parquet with DuckDB.

    embed backfill run rows.jsonl vectors --format parquet --keep text
    python examples/search_duckdb.py nats://127.0.0.1:4222 vectors "Where can I see the ocean?"

The question is embedded in the space of the rows, or refused: vectors of two spaces say nothing
about each other.
"""

import json
import sys
from pathlib import Path

import duckdb

from akidb_embed import SyncClient

url, folder, question = sys.argv[1:]
manifest = json.loads((Path(folder) / "manifest.json").read_text())
parts = [str(Path(folder) / part["name"]) for part in manifest["parts"]]
with SyncClient(url) as client:
    asked = client.embed(manifest["model"], [question], space=manifest["space"], timeout=30)

vector = f"FLOAT[{asked.dim}]"
database = duckdb.connect()
rows = database.execute(
    f"""
    SELECT array_cosine_similarity(embedding::{vector}, ?::{vector}) AS score, text
    FROM read_parquet(?)
    ORDER BY score DESC
    LIMIT 5
    """,  # noqa: S608 - a number is all that is put in
    [asked.vector(0).tolist(), parts],
)
for score, text in rows.fetchall():
    print(f"{score:.3f}  {text}")
