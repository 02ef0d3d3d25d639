"""The chart's commands and probes, run as they stand there: real programs, on a real server."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chart import HELM, Resource, named, of_kind, pods, render, values
from containers import prepare, probe_url
from processes import (
    MODEL,
    REGISTRY,
    Process,
    binary,
    environment,
    free_port,
    get,
    has_gateway,
    run,
    wait_for,
    well,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("chart")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[dict[str, str]]:
    """A server in which everybody is somebody, as `embed init --print-permissions` wants it."""
    roles = run([binary("embed"), "init", "--print-permissions", "all", f"--model={MODEL}"])
    (folder / "roles.conf").write_text(roles, encoding="utf-8")
    (folder / "embed-mappings.conf").touch()
    ports = {"client": free_port(), "monitor": free_port()}
    config = (
        f"listen: 127.0.0.1:{ports['client']}\nhttp: 127.0.0.1:{ports['monitor']}\n"
        f"jetstream {{ store_dir: {json.dumps(str(folder / 'jetstream'))} }}\n"
        'include "roles.conf"\n'
    )
    (folder / "server.conf").write_text(config, encoding="utf-8")
    wanted = sorted(
        {word.strip(",}") for word in roles.split() if word.startswith("$") and "PASSWORD" in word}
    )
    passwords = {name.lstrip("$"): f"pw-{name.lstrip('$').lower()}" for name in wanted}
    command = [binary("nats-server"), "--config", str(folder / "server.conf")]
    with Process(command, folder / "server.log", environment(**passwords)) as process:
        process.said(
            "the server to be ready", lambda text: text if "Server is ready" in text else None
        )
        yield {
            "url": f"nats://127.0.0.1:{ports['client']}",
            "monitor": f"127.0.0.1:{ports['monitor']}",
            "pid": str(process.child.pid),
            **passwords,
        }


@pytest.fixture(scope="module")
def release(server: dict[str, str]) -> list[Resource]:
    """What the chart makes for this server: the sets of values are another test's."""
    given = values(HELM / "values" / "autoscaled.yaml")
    given["nats"] |= {"url": server["url"], "monitor": server["monitor"]}
    roles = ("worker", "init", "gateway", "rollouts")
    given["nats"]["inboxPrefix"] = {role: f"_INBOX.{role}" for role in roles}
    given["registry"] = {"url": str(REGISTRY)}
    for port in ("metricsPort", "rolloutMetricsPort", "gatewayMetricsPort"):
        given[port] = free_port()
    given["rollout"] = {"enabled": True, "routeSecret": "embed-route"}
    given["gateway"] = {"enabled": True, "port": free_port()}
    given["defaults"]["drainSeconds"] = 5
    del given["groups"]["rare"]
    given["groups"]["main"]["variants"] = [
        {"model": "all-MiniLM-L6-v2", "name": "fp32", "precision": "fp32", "default": True},
        {"model": "all-MiniLM-L6-v2", "name": "canary", "precision": "fp32"},
    ]
    return render(given)


def as_user(env: dict[str, str], server: dict[str, str], role: str) -> dict[str, str]:
    """Credentials are files of JWTs in a cluster; here a role's user has a password."""
    return env | {"NATS_USER": role, "NATS_PASSWORD": server[f"{role.upper()}_PASSWORD"]}


@pytest.fixture(scope="module")
def initialized(server: dict[str, str], release: list[Resource], folder: Path) -> dict[str, Any]:
    """What the server tells of streams after the job has run: twice, as in an upgrade."""
    (pod,) = [pod for pod in pods(release) if pod.name.endswith("-init")]
    command, env, _ = prepare(pod, release, {}, folder)
    for _ in range(2):
        run(command, as_user(env, server, "init"))
    answer = get(f"http://{server['monitor']}/jsz?accounts=true&consumers=true&config=true")
    assert answer is not None
    read: dict[str, Any] = json.loads(answer)
    return read


def test_the_job_makes_what_the_autoscaler_looks_at(
    initialized: dict[str, Any], release: list[Resource]
) -> None:
    there = {
        (account["name"], stream["name"], consumer["name"])
        for account in initialized["account_details"]
        for stream in account["stream_detail"]
        for consumer in stream.get("consumer_detail", [])
    }
    wanted = set()
    for scaled in of_kind(release, "ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            if trigger["type"] == "nats-jetstream":
                data = trigger["metadata"]
                wanted.add((data["account"], data["stream"], data["consumer"]))
    assert len(wanted) == 4
    assert wanted <= there


@pytest.mark.usefixtures("initialized")
def test_a_worker_runs_as_in_the_chart_and_its_probes_tell(
    server: dict[str, str], release: list[Resource], folder: Path
) -> None:
    (pod,) = [pod for pod in pods(release) if pod.name.endswith("-blue")]
    command, env, mounts = prepare(pod, release, {}, folder)
    env = as_user(env, server, "worker")
    with Process(command, folder / "worker.log", env) as worker:
        alive, ready = probe_url(pod, "startupProbe"), probe_url(pod, "readinessProbe")
        assert probe_url(pod, "livenessProbe") == alive
        worker.said("it to be alive", lambda _: well(alive))
        worker.said("it to be ready", lambda _: well(ready, timeout=6))
        assert get(ready, timeout=pod.container["readinessProbe"]["timeoutSeconds"]) is not None
        # Without its server it takes no work, and is not restarted for that.
        os.kill(int(server["pid"]), signal.SIGSTOP)
        try:
            wait_for(
                "it to say that it is not ready", lambda: well(ready, timeout=6) is None or None
            )
            assert well(alive)
        finally:
            os.kill(int(server["pid"]), signal.SIGCONT)
        worker.said("it to be ready again", lambda _: well(ready, timeout=6))
        if has_gateway():
            answers_calls(server, release, folder)
        # It is called after its pod, and serves what its configuration says.
        asked = as_user({"NATS_URL": server["url"]}, server, "operator")
        asked |= {"NATS_INBOX_PREFIX": "_INBOX.operator", "HOME": str(folder)}
        listed = json.loads(
            run([binary("embed"), "models", "list", "--json"], environment(**asked))
        )
        assert f"{pod.name}-abc12" in json.dumps(listed)
        assert {"fp32", "canary"} <= set(json.dumps(listed).replace('"', " ").split())
        begun = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - begun < pod.spec["terminationGracePeriodSeconds"]
    assert "cache" in " ".join(mounts.folders)


def answers_calls(server: dict[str, str], release: list[Resource], folder: Path) -> None:
    """The gateway as in the chart, with a worker behind it."""
    (pod,) = [pod for pod in pods(release) if pod.name.endswith("-gateway")]
    command, env, _ = prepare(pod, release, {}, folder)
    with Process(command, folder / "gateway.log", as_user(env, server, "gateway")) as gateway:
        ready = probe_url(pod, "readinessProbe")
        gateway.said("the gateway to be ready", lambda _: well(ready))
        assert well(probe_url(pod, "livenessProbe"))
        base = ready.removesuffix(pod.container["readinessProbe"]["httpGet"]["path"])
        body = json.dumps({"input": "hello", "model": MODEL}).encode()
        asked = urllib.request.Request(f"{base}/v1/embeddings", body)  # noqa: S310
        with urllib.request.urlopen(asked, timeout=30) as answer:  # noqa: S310
            assert json.load(answer)["data"][0]["embedding"]


@pytest.mark.usefixtures("initialized")
def test_a_controller_of_rollouts_runs_as_in_the_chart(
    server: dict[str, str], release: list[Resource], folder: Path
) -> None:
    (pod,) = [pod for pod in pods(release) if pod.name.endswith("-rollout")]
    mappings = folder / "embed-mappings.conf"
    route = (
        f'server = "{server["url"]}"\nsys_user = "routes-sys"\n'
        f'sys_password = "{server["ROUTES_SYS_PASSWORD"]}"\nmappings_files = ["{mappings}"]\n'
    )
    secrets = {"embed-route": {"route.toml": route}}
    command, env, _ = prepare(pod, release, secrets, folder)
    env = as_user(env, server, "rollouts")
    with Process(command, folder / "rollout.log", env) as controller:
        alive = probe_url(pod, "livenessProbe")
        controller.said("its metrics", lambda _: well(alive))
        assert controller.stop() == 0, controller.text()


def test_metrics_are_where_the_service_monitor_looks(release: list[Resource]) -> None:
    monitor = named(release, "ServiceMonitor", "-worker")
    service = named(release, "Service", "-worker-metrics")
    (port,) = service["spec"]["ports"]
    assert monitor["spec"]["endpoints"][0]["port"] == port["name"]
    (pod,) = [pod for pod in pods(release) if pod.name.endswith("-blue")]
    assert {p["name"]: p["containerPort"] for p in pod.container["ports"]}[
        port["targetPort"]
    ] == port["port"]
