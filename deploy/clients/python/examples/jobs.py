"""Jobs, which are stored until they are done: `python examples/jobs.py nats://127.0.0.1:4222`."""

import sys

from akidb_embed import Result, SyncClient

MODEL = "all-minilm-l6-v2"

with SyncClient(sys.argv[1]) as client:
    jobs = [
        *client.publish(MODEL, ["hello"], expect=True),
        *client.publish(MODEL, ["a text"] * 300, expect=True),
    ]
    print(f"{len(jobs)} jobs")
    rows = 0
    for job_id, outcome in client.results(MODEL, jobs, timeout=60):
        if isinstance(outcome, Result):
            rows += len(outcome.items)
        else:
            print(f"{job_id}: {outcome.error}")
    print(f"{rows} vectors")
