"""Reads what backfills of 100 rows have written, with what people read such files with.

Row n has the id `doc-n`, and its vector is the length of its text and 1.
"""

import json
import sys
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq

ROWS = 100
TEXTS = [f"row {n} " + "x" * (n % 17) for n in range(ROWS)]
IDS = [f"doc-{n}" for n in range(ROWS)]
VECTORS = np.array([[len(text), 1] for text in TEXTS])


def check(ids: list[str], vectors: np.ndarray, kind: str | None) -> None:
    """All rows once, in order; with `kind`, their numbers are of that type."""
    assert list(ids) == IDS, ids
    assert vectors.shape == (ROWS, 2), vectors.shape
    assert kind is None or vectors.dtype == np.dtype(kind), vectors.dtype
    assert np.array_equal(vectors, VECTORS), vectors


def of_arrow(table: pa.Table, kind: str) -> None:
    column = table["embedding"].combine_chunks()
    assert pa.types.is_fixed_size_list(column.type), column.type
    check(table["id"].to_pylist(), column.flatten().to_numpy().reshape(len(column), -1), kind)


def by_duckdb(function: str, files: list[Path]) -> None:
    """Reads by SQL."""
    table = f"{function}($files)"
    files = {"files": [str(file) for file in files]}
    rows = duckdb.execute(f"select id, embedding::float[2] as vector from {table}", files)  # noqa: S608
    rows = rows.fetchnumpy()
    check(rows["id"].tolist(), np.stack(rows["vector"].tolist()), None)
    count = duckdb.execute(f"select count(distinct id) from {table}", files)  # noqa: S608
    assert count.fetchall() == [(ROWS,)]


def parquet(files: list[Path], kind: str) -> None:
    of_arrow(pa.concat_tables(pq.read_table(file) for file in files), kind)
    frame = pd.concat(pd.read_parquet(file) for file in files)
    check(frame["id"].tolist(), np.stack(frame["embedding"].tolist()), kind)
    frame = pl.read_parquet(files)
    check(frame["id"].to_list(), frame["embedding"].to_numpy(), kind)
    by_duckdb("read_parquet", files)


def arrow(files: list[Path], kind: str) -> None:
    of_arrow(pa.concat_tables(feather.read_table(file) for file in files), kind)
    frame = pd.concat(pd.read_feather(file) for file in files)
    check(frame["id"].tolist(), np.stack(frame["embedding"].tolist()), kind)
    frame = pl.concat(pl.read_ipc(file) for file in files)
    check(frame["id"].to_list(), frame["embedding"].to_numpy(), kind)


def jsonl(files: list[Path], _kind: str) -> None:
    frame = pd.concat(pd.read_json(file, lines=True) for file in files)
    check(frame["id"].tolist(), np.stack(frame["embedding"].tolist()), None)
    frame = pl.read_ndjson(files)
    check(frame["id"].to_list(), np.stack(frame["embedding"].to_list()), None)
    by_duckdb("read_json", files)


def npy(files: list[Path], kind: str) -> None:
    arrays = [np.load(file, mmap_mode="r") for file in files]
    ids = pd.concat(pd.read_json(file.with_suffix(".ids.jsonl"), lines=True) for file in files)
    check(ids["id"].tolist(), np.concatenate(arrays), kind)


def main(root: Path) -> None:
    readers = {"parquet": parquet, "arrow": arrow, "jsonl": jsonl, "npy": npy}
    seen = set()
    for path in sorted(root.glob("*/manifest.json")):
        manifest = json.loads(path.read_text())
        parts = [path.parent / part["name"] for part in manifest["parts"]]
        kind = {"f32": "float32", "f16": "float16"}[manifest["vector_type"]]
        readers[manifest["parts_format"]](parts, kind)
        seen.add((manifest["parts_format"], kind))
    assert len(seen) == 7, seen


main(Path(sys.argv[1]))
