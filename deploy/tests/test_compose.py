"""compose.yaml: it keeps to the Compose specification, and its services' commands are run as they
stand there. What differs is the machine: hosts and ports are those of the test, what is mounted
lies in folders of the test, and Prometheus is in more of a hurry. Grafana is not to be had here,
and the exporter of NATS is a stand-in.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec.models import ComposeSpecification
from conftest import DEPLOY
from nats_exporter import NatsExporter
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

FILE = DEPLOY / "compose.yaml"
OURS = {"models", "promote", "init", "worker", "gateway"}


def compose() -> dict[str, Any]:
    """The file, with its variables at their defaults."""
    text = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", FILE.read_text(encoding="utf-8"))
    read: dict[str, Any] = yaml.safe_load(text)
    return {key: part for key, part in read.items() if not key.startswith("x-")}


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def test_it_keeps_to_the_specification() -> None:
    ComposeSpecification.model_validate(compose(), extra="forbid")


def test_what_is_named_is_there() -> None:
    read = compose()
    for name, service in read["services"].items():
        for other in service.get("depends_on", []):
            assert other in read["services"], f"{name} depends on {other}"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if not source.startswith("."):
                assert source in read["volumes"], f"{name}: {source}"
            elif "build/" not in source:
                assert (DEPLOY / source).exists(), f"{name}: {source}"


def test_nothing_is_published_beyond_this_machine() -> None:
    for name, service in services().items():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), name


def test_images_of_others_that_can_be_are_pinned() -> None:
    """By a digest that at least four projects pin for the same tag; of one, none was found."""
    unpinned = {"natsio/prometheus-nats-exporter:0.17.3"}
    for name, service in services().items():
        image = service["image"]
        pinned = re.fullmatch(r"\S+:\S+@sha256:[0-9a-f]{64}", image)
        assert pinned or image in unpinned or name in OURS, f"{name}: {image}"


def test_our_services_can_write_to_volumes_alone() -> None:
    for name in OURS:
        assert services()[name]["read_only"] is True
        assert services()[name]["cap_drop"] == ["ALL"]


class Machine:
    """Where hosts, ports and folders of the services are on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts = {
            f"{host}:{port}": f"127.0.0.1:{free_port()}"
            for host, port in (
                ("nats", 4222),
                ("nats", 8222),
                ("objects", 8333),
                ("objects", 8888),
                ("worker", 9464),
                ("gateway", 8080),
                ("gateway", 9466),
                ("prometheus", 9090),
            )
        }

    def here(self, service: str, text: str) -> str:
        """The text with hosts as they are here: others', and what the service listens on itself."""
        for name, address in self.hosts.items():
            host, port = name.split(":")
            text = text.replace(name, address)
            if host == service:
                text = text.replace(f"0.0.0.0:{port}", address)
        return text.replace("interval: 15s", "interval: 1s") if service == "prometheus" else text

    def mounted(self, service: str) -> dict[str, str]:
        """What is mounted, and where it lies here: copies, with hosts as they are here."""
        there = {}
        for volume in services()[service].get("volumes", []):
            source, target = volume.split(":")[:2]
            if source == "../build/registry":
                there[target] = str(REGISTRY)
                continue
            place = self.folder / service / target.strip("/").replace("/", "-")
            place.parent.mkdir(exist_ok=True)
            origin = DEPLOY / source
            if not source.startswith("."):
                place.mkdir()
            elif origin.is_dir():
                shutil.copytree(origin, place)
            else:
                place.write_text(
                    self.here(service, origin.read_text(encoding="utf-8")), encoding="utf-8"
                )
            there[target] = str(place)
        return there

    def prepared(self, service: str, program: str = "") -> tuple[list[str], dict[str, str]]:
        """A service's command and environment."""
        wanted, mounts = services()[service], self.mounted(service)

        def here(text: str) -> str:
            text = self.here(service, text)
            longest = sorted(map(re.escape, mounts), key=len, reverse=True)
            if not longest:
                return text
            paths = rf"(?<![\w/.-])({'|'.join(longest)})(?=[/\s\"]|$)"
            return re.sub(paths, lambda found: mounts[found[1]], text)

        for path in (self.folder / service).glob("*"):
            if path.is_file():
                path.write_text(here(path.read_text(encoding="utf-8")), encoding="utf-8")
        (entry,) = wanted.get("entrypoint", [program])
        command = [binary(Path(entry).name), *(here(str(word)) for word in wanted["command"])]
        env = {name: here(str(text)) for name, text in wanted.get("environment", {}).items()}
        (self.folder / service).mkdir(exist_ok=True)
        return command, environment(HOME=str(self.folder / service), **env)

    def start(self, service: str, program: str = "", *more: str) -> Process:
        command, env = self.prepared(service, program)
        return Process([*command, *more], self.folder / service / "log", env)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, prometheus: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path_factory.mktemp("compose"))
    hosts = machine.hosts
    with contextlib.ExitStack() as running:
        command, env = machine.prepared("nats", "nats-server")
        # The first word of this image's command is its program.
        nats = Process([command[0], *command[2:]], machine.folder / "nats" / "log", env)
        running.enter_context(nats)
        ready = f"http://{hosts['nats:8222']}/healthz"
        nats.said("NATS to be healthy", lambda _: well(ready))
        exporter = running.enter_context(NatsExporter(f"http://{hosts['nats:8222']}"))
        hosts["nats-exporter:7777"] = exporter.address
        ports = {"s3.port": hosts["objects:8333"], "filer.port": hosts["objects:8888"]}
        chosen = [f"-{name}={address.rsplit(':', 1)[1]}" for name, address in ports.items()]
        more = ["master.port", "volume.port"]
        more += [f"{name}.port.grpc" for name in ("master", "volume", "filer", "s3")]
        chosen += [f"-{name}={free_port()}" for name in more]
        chosen += ["-master.telemetry=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
        objects = running.enter_context(machine.start("objects", "weed", *chosen))
        healthy = f"http://{hosts['objects:8333']}/healthz"
        running.callback(end_objects, objects, chosen)
        objects.said("the object store to be healthy", lambda _: well(healthy))
        for service in ("bucket", "models", "promote", "init"):
            command, env = machine.prepared(service)
            run(command, env)
        worker = running.enter_context(machine.start("worker"))
        ready = f"http://{hosts['worker:9464']}/readyz"
        worker.said("the worker to be ready", lambda _: well(ready, timeout=6))
        # Its health check, as the container would be asked.
        check = services()["worker"]["healthcheck"]["test"]
        run([binary("embed-worker"), *check[2:]], worker_env(machine))
        if has_gateway():
            gateway = running.enter_context(machine.start("gateway"))
            ready = f"http://{hosts['gateway:8080']}/readyz"
            gateway.said("the gateway to be ready", lambda _: well(ready))
        address = hosts["prometheus:9090"]
        (machine.folder / "prometheus").mkdir()
        command, env = machine.prepared("prometheus", "true")
        command = [str(prometheus), *command[1:], f"--web.listen-address={address}"]
        running.enter_context(Process(command, machine.folder / "prometheus" / "log", env))
        yield machine


def end_objects(objects: Process, arguments: list[str]) -> None:
    """Ends the object store at once, and removes its sockets, whose place cannot be chosen."""
    objects.kill()
    for port in re.findall(r"port(?:\.grpc)?=(\d+)", " ".join(arguments)):
        for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
            socket.unlink()


def worker_env(machine: Machine) -> dict[str, str]:
    wanted = services()["worker"]["environment"]
    return environment(**{name: machine.here("worker", str(text)) for name, text in wanted.items()})


def test_a_call_is_answered_with_the_model_of_the_object_store(stack: Machine) -> None:
    env = environment(NATS_URL=f"nats://{stack.hosts['nats:4222']}", HOME=str(stack.folder))
    answer = run([binary("embed"), "--json", "ask", "-m", MODEL, "hello"], env)
    assert json.loads(answer.splitlines()[0])


def test_prometheus_scrapes_what_there_is_and_has_the_rules(stack: Machine) -> None:
    url = f"http://{stack.hosts['prometheus:9090']}/api/v1"

    def up() -> set[str] | None:
        answer = get(f"{url}/targets")
        if answer is None:
            return None
        targets = json.loads(answer)["data"]["activeTargets"]
        found = {target["labels"]["job"] for target in targets if target["health"] == "up"}
        return found if found >= {"worker", "nats"} else None

    wait_for("targets that are up", up)
    answer = get(f"{url}/rules")
    assert answer is not None
    groups = {group["name"] for group in json.loads(answer)["data"]["groups"]}
    assert {"akidb-targets", "akidb-alerts", "akidb-backlog"} <= groups


def test_the_gateway_answers(stack: Machine) -> None:
    if not has_gateway():
        pytest.skip("these programs have no gateway")
    body = json.dumps({"input": "hello", "model": MODEL}).encode()
    url = f"http://{stack.hosts['gateway:8080']}/v1/embeddings"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as answer:
        assert json.load(answer)["data"][0]["embedding"]
