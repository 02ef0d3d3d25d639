"""A column of vectors for a frame.

python examples/backfill_frame.py nats://127.0.0.1:4222 texts.csv out.parquet
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from akidb_embed import Run, SyncClient

url, source, target = sys.argv[1:]
frame = pd.read_csv(source)
state = Path(f"{target}.run")

# With the run's id kept, jobs that were under way are found again after a crash.
if not state.exists():
    Run.new().save(state)

vectors = list[np.ndarray]()
with SyncClient(url) as client:
    chunks = client.backfill(
        "all-minilm-l6-v2",
        frame,
        text="text",
        run=Run.load(state),
        progress=lambda done: print(f"{done} of {len(frame)} rows"),
    )
    for chunk in chunks:
        for row, error in chunk.result.failed.items():
            print(f"row {chunk.start + row}: {error}")
        vectors.extend(chunk.result.floats())

frame["embedding"] = vectors
frame.to_parquet(target)
state.unlink()
