"""The runbooks: what is broken is broken here, on a real stack, and the commands of the page are
run as they stand there and print what it says.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pages
import pytest
from conftest import ROOT
from page_stack import LONG, Shell, reached
from processes import (
    MODEL,
    REGISTRY,
    Process,
    binary,
    dev_stack,
    environment,
    first_json,
    free_port,
    run,
    wait_for,
)
from test_pages import not_printed

PAGE = "deploy/runbooks.md"
JOBS = f"embed.job.{MODEL}"
# Its output, for whoever writes the page anew.
RECORD = os.environ.get("RECORD_RUNBOOKS")


@dataclasses.dataclass
class Broken:
    """What is broken, and what is put in place of the page's names."""

    variables: dict[str, str]
    instead: dict[str, str] = dataclasses.field(default_factory=dict)
    # What a cluster would do: by the beginning of a command.
    actions: dict[str, Callable[[], None]] = dataclasses.field(default_factory=dict)
    # Waited for, with what a command prints, before it is compared: by the command.
    until: dict[str, Callable[[str], bool]] = dataclasses.field(default_factory=dict)
    # Exit codes, by the command; 0 otherwise.
    codes: dict[str, int] = dataclasses.field(default_factory=dict)


def link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def registry(folder: Path) -> Path:
    """A registry whose model has a second version, which is the current one."""
    shutil.copytree(REGISTRY, folder, copy_function=link)
    first = folder / "models" / MODEL / "v1.0.0"
    second = first.with_name("v1.1.0")
    shutil.copytree(first, second, copy_function=link)
    metadata = json.loads((first / "metadata.json").read_text(encoding="utf-8"))
    (second / "metadata.json").unlink()
    text = json.dumps(metadata | {"version": "v1.1.0"})
    (second / "metadata.json").write_text(text, encoding="utf-8")
    return folder


class Site:
    """Servers and workers, each a process that can be lost."""

    def __init__(self, folder: Path, running: contextlib.ExitStack, servers: int = 1) -> None:
        self.folder, self.running = folder, running
        self.registry = REGISTRY
        self.ports = [free_port() for _ in range(servers)]
        routes = [free_port() for _ in range(servers)]
        self.password = folder / "sys.password"
        self.password.write_text("secret", encoding="utf-8")
        for number, port in enumerate(self.ports):
            home = folder / f"n{number + 1}"
            home.mkdir()
            (home / "embed-mappings.conf").touch()
            lines = [
                f"server_name: n{number + 1}",
                f'listen: "127.0.0.1:{port}"',
                'ping_interval: "2s"',
                "ping_max: 2",
                f'jetstream {{ store_dir: "{home}", sync_interval: always }}',
                'authorization { users: [ {user: "embed", password: "embed"} ] }',
                'no_auth_user: "embed"',
                'accounts { $SYS { users: [ {user: "sys", password: "secret"} ] } }',
                'mappings { include "embed-mappings.conf" }',
            ]
            if servers > 1:
                others = ", ".join(f'"nats://127.0.0.1:{one}"' for one in routes)
                own = f'"127.0.0.1:{routes[number]}"'
                lines.append(f"cluster {{ name: c, listen: {own}, routes: [{others}] }}")
            (home / "nats.conf").write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.servers = [self.start_server(number) for number in range(servers)]
        for port in self.ports:
            wait_for("a server to listen", functools.partial(reached, port))
        self.url = ",".join(f"nats://127.0.0.1:{port}" for port in self.ports)
        route = {
            "server": self.url,
            "sys_user": "sys",
            "sys_password_file": str(self.password),
            "mappings_files": [
                str(folder / f"n{number + 1}" / "embed-mappings.conf") for number in range(servers)
            ],
        }
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in route.items())
        (folder / "route.toml").write_text(text, encoding="utf-8")
        self.variables = {
            "NATS_URL": self.url,
            "EMBED_REGISTRY": str(self.registry),
            "EMBED_ROUTE_CONFIG": str(folder / "route.toml"),
            "EMBED_SYS_USER": "sys",
            "EMBED_SYS_PASSWORD_FILE": str(self.password),
        }
        self.env = environment(HOME=str(folder), **self.variables)
        self.workers = 0

    def start_server(self, number: int) -> Process:
        home = self.folder / f"n{number + 1}"
        command = [binary("nats-server"), "-c", str(home / "nats.conf")]
        return self.running.enter_context(Process(command, home / "log"))

    def init(self, *more: str) -> None:
        command = [binary("embed"), "init", *more]

        # A cluster takes streams once its servers have found each other.
        def made() -> bool | None:
            with contextlib.suppress(RuntimeError):
                run(command, self.env)
                return True
            return None

        wait_for("streams", made)

    def worker(self, *more: str, **variables: str) -> tuple[Process, str]:
        """A worker that is ready, and where its metrics are."""
        self.workers += 1
        command = [binary("embed-worker"), "run", "--json", "--metrics-addr=127.0.0.1:0", *more]
        cache = {"EMBED_WORKER__MODELS__CACHE_DIR": str(self.folder / "cache")}
        log = self.folder / f"worker-{self.workers}.log"
        process = self.running.enter_context(Process(command, log, self.env | cache | variables))
        ready = json.loads(process.said("a worker to be ready", first_json))
        return process, ready["metrics_url"].removeprefix("http://")

    def embed(self, *words: str) -> str:
        return run([binary("embed"), *words], self.env)


def job(job_id: str) -> str:
    """As a producer stores it."""
    return json.dumps({"id": job_id, "texts": ["hello"]})


def publish(port: int, subject: str, headers: dict[str, str], payload: str) -> None:
    """As any client of NATS does."""
    block = (
        "NATS/1.0\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    )
    body = payload.encode()
    total = len(block.encode()) + len(body)
    with socket.create_connection(("127.0.0.1", port), 10) as line:
        head = f"HPUB {subject} {len(block.encode())} {total}\r\n{block}"
        line.sendall(
            b'CONNECT {"headers":true,"verbose":false}\r\n' + head.encode() + body + b"\r\nPING\r\n"
        )
        said = b""
        while b"PONG" not in said:
            part = line.recv(4096)
            assert part, f"the server hung up: {said!r}"
            said += part
        assert b"-ERR" not in said, said


@contextlib.contextmanager
def emergency_rollback(folder: Path) -> Iterator[Broken]:
    """Half of the traffic goes to a canary, a rollout runs, and the current version is new."""
    made = registry(folder / "registry")
    more = {"EMBED_WORKER__MODELS__CACHE_DIR": str(folder / "cache")}
    variants = [f"--variant={MODEL}={name}" for name in ("fp32", "canary")]
    with dev_stack(folder, made, variants, **more) as ready:
        variables = {
            "NATS_URL": ready["nats_url"],
            "EMBED_ROUTE_CONFIG": ready["route_config"],
            "EMBED_REGISTRY": str(made),
        }
        env = environment(HOME=str(folder), **variables)
        run([binary("embed"), "route", "set", MODEL, "fp32=50", "canary=50"], env)

        def rollout() -> None:
            wanted = ["start", MODEL, "--from=fp32", "--to=canary", "--steps=50", "--no-shadow"]
            run([binary("embed"), "rollout", *wanted, "--any-traffic", "--detach"], env)

        def promoted() -> None:
            run([binary("embed-worker"), "models", "promote", MODEL, "v1.1.0"], env)
            run([binary("embed"), "models", "refresh"], env)
            listed = [binary("embed"), "models", "list"]
            is_live = re.compile(r"live +v1\.1\.0")
            wait_for("v1.1.0", lambda: is_live.search(run(listed, env)), LONG)

        actions = {"embed rollout abort": rollout, "embed-worker models rollback": promoted}
        live = {"embed models list": lambda said: len(re.findall(r"live +v1\.0\.0", said)) == 2}
        yield Broken(variables, actions=actions, until=live)


@contextlib.contextmanager
def a_queue_that_is_stuck(folder: Path) -> Iterator[Broken]:
    """A worker hangs while it holds jobs, and jobs wait for a variant that nobody serves."""
    with contextlib.ExitStack() as running:
        site = Site(folder, running)
        site.init()
        hanging, address = site.worker()
        os.kill(hanging.child.pid, signal.SIGSTOP)
        for job_id, subject in (("for-int8", f"embed.job.{MODEL}.int8"), ("held", JOBS)):
            publish(site.ports[0], subject, {"Nats-Msg-Id": job_id}, job(job_id))

        def replaced() -> None:
            os.kill(hanging.child.pid, signal.SIGCONT)
            hanging.kill()
            site.worker()

        yield Broken(
            site.variables,
            instead={"127.0.0.1:9464": address},
            actions={"kubectl -n embed delete pod": replaced},
            until={"embed jobs list@2": lambda said: "held" not in said},
        )


@contextlib.contextmanager
def dead_letters(folder: Path) -> Iterator[Broken]:
    """A caller's mistake, and a failure of ours."""
    with contextlib.ExitStack() as running:
        site = Site(folder, running)
        site.init()
        site.worker()
        letter = {
            "Embed-Dead-Code": "engine_failed",
            "Embed-Dead-Reason": "the engine failed: CUDA failure 700",
            "Embed-Dead-Id": "our-id",
            "Embed-Dead-Subject": f"embed.job.{MODEL}",
            "Embed-Dead-Sequence": "1",
            "Embed-Dead-Attempts": "10",
        }
        publish(site.ports[0], f"embed.dead.{MODEL}.fp32", letter, job("our-id"))
        with contextlib.suppress(RuntimeError):
            site.embed("publish", "--wait", "--prompt=no-such-prompt", "--id=my-id", "a text")
        shown = {"embed jobs show our-id": lambda said: "done" in said}
        yield Broken(site.variables, until=shown)


@contextlib.contextmanager
def a_gpu_is_lost(folder: Path) -> Iterator[Broken]:
    """A worker that wants a GPU on a machine that has none, as after the loss of one. What happens
    at the moment of the loss is in worker/tests/devices.rs."""
    with contextlib.ExitStack() as running:
        site = Site(folder, running)
        site.init()
        _, address = site.worker(EMBED_WORKER__ENGINE__PROVIDERS='["cuda", "cpu"]')
        strict = '[engine]\nproviders = ["cuda"]\nstrict = true\n'
        (folder / "strict.toml").write_text(strict, encoding="utf-8")
        yield Broken(
            site.variables,
            instead={"127.0.0.1:9464": address, "strict.toml": str(folder / "strict.toml")},
            actions={"kubectl": lambda: None},
            codes={"embed-worker check": 1},
        )


def well_off(said: str) -> bool:
    """Whether `embed doctor` finds streams and workers as they should be, and nothing failed but
    servers."""
    lines = said.splitlines()
    fine = {line.split()[1] for line in lines if line.startswith("ok ")}
    failed = {line.split()[1] for line in lines if line.startswith("failed ")}
    return {"streams", "workers"} <= fine and failed <= {"servers"}


@contextlib.contextmanager
def a_nats_server_is_lost(folder: Path) -> Iterator[Broken]:
    """One of three."""
    with contextlib.ExitStack() as running:
        site = Site(folder, running, servers=3)
        site.init("--replicas=3")
        site.worker()
        site.servers[1].kill()

        def back() -> None:
            site.start_server(1)
            wait_for("it to listen", lambda: reached(site.ports[1]))

        yield Broken(
            site.variables,
            actions={"embed route sync": back},
            codes={"embed doctor@1": 1},
            # For a moment nobody leads, and nobody knows who is missing.
            until={
                "embed doctor@1": lambda said: (
                    "n2 does not answer" in said and "n1, n3 do" in said and well_off(said)
                ),
                "embed route sync": lambda said: said.count(": as wanted") == 3,
                "embed doctor@2": lambda said: "all answer" in said and well_off(said),
            },
        )


@contextlib.contextmanager
def a_stream_is_full(folder: Path) -> Iterator[Broken]:
    """Results that nobody fetches."""
    with contextlib.ExitStack() as running:
        site = Site(folder, running)
        site.init("--results-max-bytes=40KiB")
        _, address = site.worker()
        for number in range(40):
            job_id = f"job-{number}"
            publish(site.ports[0], JOBS, {"Nats-Msg-Id": job_id}, job(job_id))
        yield Broken(
            site.variables,
            instead={"127.0.0.1:9464": address},
            until={
                "embed doctor@1": lambda said: "% full" in said,
                "curl": lambda said: "maximum bytes exceeded" in said,
                "embed jobs list": lambda said: "job-" not in said,
            },
        )


FAULTS: dict[str, Callable[[Path], contextlib.AbstractContextManager[Broken]]] = {
    "Emergency rollback": emergency_rollback,
    "A queue that is stuck": a_queue_that_is_stuck,
    "Dead letters": dead_letters,
    "A GPU is lost": a_gpu_is_lost,
    "A NATS server is lost": a_nats_server_is_lost,
    "A stream is full": a_stream_is_full,
}


def test_every_runbook_is_run() -> None:
    assert {block.section for block in pages.blocks(PAGE)} == set(FAULTS)


@pytest.mark.parametrize("section", FAULTS)
def test_the_commands_print_what_the_page_says(section: str, tmp_path: Path) -> None:
    commands = [
        command
        for block in pages.blocks(PAGE)
        if block.section == section
        for command in block.commands()
    ]
    seen: dict[str, int] = {}
    (tmp_path / "site").mkdir()
    with FAULTS[section](tmp_path / "site") as broken:
        (tmp_path / "shell").mkdir()
        shell = Shell(tmp_path / "shell", broken.variables)
        for command in commands:
            seen[command.text] = seen.get(command.text, 0) + 1
            played(shell, broken, command, f"{command.text}@{seen[command.text]}")


def found(by: dict[str, Any], name: str) -> Any:
    """What stands for a command: for this time that it is run, or for any that begins so."""
    exact = by.get(name)
    return next((v for k, v in by.items() if name.startswith(k)), None) if exact is None else exact


def played(shell: Shell, broken: Broken, command: pages.Command, name: str) -> None:
    action = found(broken.actions, name)
    if action is not None:
        action()
    text = pages.bare(command.text)
    if text.startswith("kubectl"):
        return
    if text.startswith("curl ") and shutil.which("curl") is None:
        if os.environ.get("CI"):
            pytest.fail("curl is not here")
        return
    for page, here in broken.instead.items():
        text = text.replace(page, here)
    enough = found(broken.until, name)

    def ran() -> tuple[int, str] | None:
        code, printed, said = shell.run(text)
        return (code, printed + said) if enough is None or enough(printed + said) else None

    begun = time.monotonic()
    code, said = wait_for(name, ran, LONG)
    if RECORD:
        with Path(RECORD).open("a", encoding="utf-8") as record:
            record.write(f"$ {command.text}   [{code}, {time.monotonic() - begun:.1f} s]\n{said}\n")
        return
    assert code == (found(broken.codes, name) or 0), f"{command.where}: {code}\n{said}"
    missing = not_printed([line for line in command.output if line.strip() != "…"], said)
    assert missing is None, f"{command.where}: {missing!r} is not in\n{said}"


def test_alerts_lead_to_runbooks_that_there_are() -> None:
    text = (ROOT / "deploy/prometheus/README.md").read_text(encoding="utf-8")
    anchors = set(re.findall(r"\.\./runbooks\.md#([a-z0-9-]+)", text))
    there = {section.lower().replace(" ", "-") for section in FAULTS}
    assert anchors == there, "each runbook is what some alert leads to"
