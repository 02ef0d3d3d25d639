"""A real stack with something of everything, for tests that look at it.

`embed dev` with two variants under calls, jobs and a backfill; a controller with a rollout that is
paused; the figures of the NATS server; and a Prometheus that scrapes all of them. What has to fail
for there to be something to see is made to fail: a job with a prompt that there is not, a version
that does not reproduce its vectors, a provider that the machine has not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql
import pytest
import yaml
from conftest import ROOT
from nats_exporter import NatsExporter
from processes import (
    MODEL,
    REGISTRY,
    Process,
    binary,
    dev_stack,
    environment,
    free_port,
    get,
    run,
    wait_for,
    well,
)


class Prometheus:
    """A Prometheus that scrapes these, with the rules, and with fast copies of them."""

    def __init__(self, program: Path, folder: Path, targets: dict[str, list[str]]) -> None:
        for path in promql.RULES:
            text = path.read_text(encoding="utf-8")
            (folder / path.name).write_text(text, encoding="utf-8")
            (folder / f"fast-{path.name}").write_text(fast(text), encoding="utf-8")
        scraped = [
            {"job_name": job, "static_configs": [{"targets": addresses}]}
            for job, addresses in targets.items()
        ]
        config = {
            "global": {
                "scrape_interval": "2s",
                "scrape_timeout": "2s",
                "evaluation_interval": "2s",
            },
            "rule_files": [str(folder / "*.yaml")],
            "scrape_configs": scraped,
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self.url = f"http://127.0.0.1:{free_port()}"
        command = [str(program), f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={folder / 'data'}"]
        command += [f"--web.listen-address={self.url.removeprefix('http://')}"]
        self.process = Process(command, folder / "prometheus.log")

    def query(self, expr: str) -> list[dict[str, Any]]:
        asked = urllib.parse.urlencode({"query": expr})
        answer = get(f"{self.url}/api/v1/query?{asked}", timeout=30)
        assert answer is not None, f"{expr}\n{self.process.text()}"
        read: list[dict[str, Any]] = json.loads(answer)["data"]["result"]
        return read

    def returns(self, expr: str) -> None:
        """Waits until a query returns something."""
        wait_for(expr, lambda: self.query(expr) or None)

    def firing(self, alert: str) -> list[dict[str, Any]]:
        return self.query(f'ALERTS{{alertname="{alert}", alertstate="firing"}}')

    def fires(self, alert: str) -> list[dict[str, Any]]:
        """Waits until an alert fires; the labels of the alerts."""
        found = wait_for(f"{alert} to fire", lambda: self.firing(alert) or None)
        return [one["metric"] for one in found]


def fast(rules: str) -> str:
    """The same rules, with minutes made seconds, under other names."""
    rules = rules.replace("akidb:", "fast:").replace("alert: Akidb", "alert: Fast")
    rules = rules.replace("name: akidb-", "name: fast-")
    rules = re.sub(r"\[5m\]", "[20s]", rules)
    return re.sub(r"for: (\d+)[mh]\b", "for: 2s", rules)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


def link(source: str, target: str) -> None:
    """A copy that takes no room, where that can be had."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def with_bad_version(registry: Path) -> Path:
    """The registry, with a version beside the good one whose vectors are not as it says."""
    shutil.copytree(REGISTRY, registry, copy_function=link)
    good = registry / "models" / MODEL
    good /= json.loads((good / "current.json").read_text(encoding="utf-8"))["version"]
    bad = good.with_name("v0.0.9")
    shutil.copytree(good, bad, copy_function=link)
    golden = json.loads((good / "golden.json").read_text(encoding="utf-8"))
    vectors = [item["vector_f32_base64"] for item in golden["items"]]
    for item, vector in zip(golden["items"], vectors[1:] + vectors[:1], strict=True):
        item["vector_f32_base64"] = vector
    metadata = json.loads((good / "metadata.json").read_text(encoding="utf-8"))
    text = json.dumps(golden)
    metadata["version"] = "v0.0.9"
    metadata["golden"]["bytes"] = len(text)
    metadata["golden"]["sha256"] = hashlib.sha256(text.encode()).hexdigest()
    for name, written in (("golden.json", text), ("metadata.json", json.dumps(metadata))):
        (bad / name).unlink()
        (bad / name).write_text(written, encoding="utf-8")
    return registry


@pytest.fixture(scope="session")
def stack(folder: Path) -> Iterator[dict[str, Any]]:
    variants = [f"--variant={MODEL}={name}" for name in ("fp32", "canary")]
    more = {
        "EMBED_WORKER__ENGINE__PROVIDERS": '["cuda", "cpu"]',
        "EMBED_WORKER__MODELS__CACHE_DIR": str(folder / "cache"),
        "EMBED_WORKER__WORKER__STATS_WINDOW": "1s",
    }
    registry = with_bad_version(folder / "registry")
    with dev_stack(folder, registry, variants, **more) as ready:
        yield ready


def corpus(path: Path, rows: int) -> Path:
    """More rows than a backfill gets through while the test runs, no two the same."""
    sample = ROOT / "deploy/samples/wordnet/sentences.jsonl"
    texts = [json.loads(line)["text"] for line in sample.read_text(encoding="utf-8").splitlines()]
    made = ({"id": str(i), "text": f"{texts[i % len(texts)]} {i}"} for i in range(rows))
    path.write_text("".join(json.dumps(row) + "\n" for row in made), encoding="utf-8")
    return path


def metrics_address(text: str) -> str | None:
    found = re.search(r"http://(127\.0\.0\.1:\d+)/metrics", text)
    return found and found[1]


@pytest.fixture(scope="session")
def watched(
    stack: dict[str, Any], folder: Path, prometheus: Path
) -> Iterator[tuple[Prometheus, list[Process]]]:
    """The stack under load, and the Prometheus that scrapes it."""
    embed, url = binary("embed"), stack["nats_url"]
    env = environment(HOME=str(folder), NATS_URL=url)
    routes = ["--route-config", stack["route_config"]]
    with contextlib.ExitStack() as running:

        def start(name: str, command: list[str]) -> Process:
            return running.enter_context(Process(command, folder / f"{name}.log", env))

        rows = corpus(folder / "rows.jsonl", 50_000)
        backfill = [
            embed,
            "backfill",
            "run",
            "--metrics-listen=127.0.0.1:0",
            "--window=4",
            "--rate=50",
        ]
        begun = start("backfill", [*backfill, str(rows), str(folder / "out.jsonl")])
        load = binary("embed-loadtest")
        calls = start("calls", [load, "run", "--rate=10", "--duration=3600"])
        pinned = [load, "run", "--variant=canary", "--rate=10", "--duration=3600"]
        loads = [begun, calls, start("canary", pinned)]
        controller = start(
            "controller", [embed, "rollout", *routes, "run", "--metrics-listen=127.0.0.1:0"]
        )
        exporter = running.enter_context(NatsExporter(stack["monitor_url"]))
        targets = {
            "worker": [stack["metrics_url"].removeprefix("http://")],
            "backfill": [begun.said("where its metrics are", metrics_address)],
            "rollout": [controller.said("where its metrics are", metrics_address)],
            "nats": [exporter.address],
        }
        server = Prometheus(prometheus, folder, targets)
        running.enter_context(server.process)
        server.process.said("it to be ready", lambda _: well(f"{server.url}/-/ready"))
        # A stream that grows: results that nobody fetches, after some look at it without them.
        looked = 'akidb_stream_bytes{stream="results"}'
        wait_for("a look at streams", lambda: True if server.query(looked) else None)
        run([embed, "publish", *(f"text number {number}" for number in range(500))], env)
        # What fails.
        run([embed, "publish", "--prompt=no-such-prompt", "a text"], env)
        run([embed, "models", "serve", MODEL, "broken", "--version=v0.0.9"], env)
        wanted = ["start", MODEL, "--from=fp32", "--to=canary", "--steps=50", "--hold=10m"]
        wanted += ["--no-shadow", "--any-traffic", "--settle=1s", "--detach"]
        run([embed, "rollout", *routes, *wanted], env)
        yield server, loads


def paused(server: Prometheus) -> bool | None:
    return True if server.query("akidb_rollout_windows > 1") else None


@pytest.fixture(scope="session")
def loaded(watched: tuple[Prometheus, list[Process]], folder: Path, stack: dict[str, Any]) -> Any:
    """When there is something of everything: then the rollout is paused."""
    server, _ = watched
    wait_for("windows that a rollout has judged", lambda: paused(server))
    env = environment(HOME=str(folder), NATS_URL=stack["nats_url"])
    routes = ["--route-config", stack["route_config"]]
    run([binary("embed"), "rollout", *routes, "pause", MODEL], env)
    for alert in ("FastRolloutPaused", "FastSwapFailed", "FastDeadLetters"):
        server.fires(alert)
    # The slower ones of the rules proper.
    for alert in ("AkidbDeadLetters", "AkidbSwapFailed"):
        server.fires(alert)
    server.fires("FastProviderNotWanted")
    return server
