"""What DuckDB finds in the Parquet files of a folder, as JSON: `python duckdb.py FOLDER ID,ID,…`; null if there is no DuckDB."""

import json
import sys

try:
    import duckdb
except ImportError:
    print(json.dumps(None))
    sys.exit()

folder, ids = sys.argv[1], [int(part) for part in sys.argv[2].split(",") if part]
parts = "read_parquet('" + folder.replace("'", "''") + "/part-*.parquet')"
database = duckdb.connect()
counts = database.execute(
    "SELECT count(*), count(DISTINCT id), count(*) FILTER (embedding IS NULL),"
    " coalesce(min(len(embedding)), 0), coalesce(max(len(embedding)), 0), coalesce(sum(id), 0)::BIGINT"
    f" FROM {parts}"
).fetchone()
found = dict(zip(["rows", "distinct", "missing", "shortest", "longest", "sum"], counts, strict=True))
samples = database.execute(
    f"SELECT id, category, score, embedding::FLOAT[] FROM {parts} WHERE id IN (SELECT unnest(?::BIGINT[]))", [ids]
).fetchall()
found["samples"] = [dict(zip(["id", "category", "score", "embedding"], row, strict=True)) for row in samples]
print(json.dumps(found))
