"""What DuckDB finds in the Parquet files of a folder, as JSON; null if there is no DuckDB.

python duckdb.py FOLDER ID,ID,…
"""

import json
import sys

try:
    import duckdb
except ImportError:
    print(json.dumps(None))
    sys.exit()

COUNTS = """
SELECT count(*) AS rows, count(DISTINCT id) AS distinct,
    count(*) FILTER (embedding IS NULL) AS missing,
    coalesce(min(len(embedding)), 0) AS shortest, coalesce(max(len(embedding)), 0) AS longest,
    coalesce(sum(id), 0)::BIGINT AS sum
FROM read_parquet(?)
"""
SAMPLES = """
SELECT id, category, score, embedding::FLOAT[] AS embedding
FROM read_parquet(?) WHERE id IN (SELECT unnest(?::BIGINT[]))
"""

parts = sys.argv[1] + "/part-*.parquet"
wanted = [int(part) for part in sys.argv[2].split(",") if part]
database = duckdb.connect()
# A query of seconds would print how far it is, between the answers.
database.execute("SET enable_progress_bar = false")


def ask(query: str, *values: object) -> list[dict[str, object]]:
    answer = database.execute(query, list(values))
    names = [column[0] for column in answer.description]
    return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]


print(json.dumps(ask(COUNTS, parts)[0] | {"samples": ask(SAMPLES, parts, wanted)}))
