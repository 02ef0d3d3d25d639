"""What the commands of a page find: servers, workers, an object store, files; and a shell to run
them in, which goes on from one to the next.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pages
from conftest import ROOT
from processes import (
    MODEL,
    REGISTRY,
    Process,
    binary,
    dev_stack,
    environment,
    first_json,
    free_port,
    well,
)

TLS = ROOT / "producer/tests/support/tls"
SAMPLE = ROOT / "deploy/samples/wordnet/sentences.jsonl"
# A version is loaded at the lowest priority: it waits for whatever else the machine does.
LONG = 300.0
PORTS = ("master", "volume", "filer", "s3")


@contextlib.contextmanager
def objects(folder: Path) -> Iterator[dict[str, str]]:
    """An object store with the buckets of the pages: the variables with which one reaches it."""
    ports = {f"{name}.port{kind}": free_port() for name in PORTS for kind in ("", ".grpc")}
    identities = json.loads((ROOT / "deploy/compose/s3.json").read_text(encoding="utf-8"))
    credentials = identities["identities"][0]["credentials"][0]
    (folder / "store").mkdir()
    (folder / "s3.json").write_text(json.dumps(identities), encoding="utf-8")
    command = [binary("weed"), "-logtostderr=true", "server", "-filer", "-s3", "-s3.iam=false"]
    command += [f"-{name}={port}" for name, port in ports.items()]
    command += [f"-dir={folder / 'store'}", f"-s3.config={folder / 's3.json'}"]
    command += [f"-{name}.localSocket={folder / name}" for name in ("filer", "s3")]
    command += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false"]
    command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.electionTimeout=1s"]
    command += [
        "-volume.max=100",
        "-master.volumeSizeLimitMB=64",
        "-master.heartbeatInterval=100ms",
    ]
    process = Process(command, folder / "objects.log")
    try:
        address = f"127.0.0.1:{ports['s3.port']}"
        process.said("the object store to be well", lambda _: well(f"http://{address}/healthz"))
        for bucket in ("bucket", "models"):
            made = f"http://127.0.0.1:{ports['filer.port']}/buckets/{bucket}/"
            urllib.request.urlopen(urllib.request.Request(made, method="POST"), timeout=30).close()
        yield {
            "AWS_ACCESS_KEY_ID": credentials["accessKey"],
            "AWS_SECRET_ACCESS_KEY": credentials["secretKey"],
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": f"http://{address}",
            "AWS_ALLOW_HTTP": "true",
        }
    finally:
        process.kill()
        for name in PORTS:
            # Sockets whose place cannot be chosen.
            left = Path("/tmp", f"seaweedfs-{name}-grpc-{ports[f'{name}.port.grpc']}.sock")  # noqa: S108
            left.unlink(missing_ok=True)


def checkout(folder: Path, registry: Path | None = None) -> Path:
    """A folder in which paths lead where they lead in a checkout, and what is written is no part of
    one. Its models are those of another's registry, if there is one."""
    (folder / "build").mkdir(parents=True)
    for name in (".venv", "deploy", "loadtest", "producer", "schemas", "worker"):
        (folder / name).symlink_to(ROOT / name)
    if registry is None:
        shutil.copytree(REGISTRY, folder / "build/registry")
    else:
        (folder / "build/registry").symlink_to(registry)
    return folder


class Shell:
    """Runs commands one after the other: variables and folders stay, as where somebody types."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self.folder = folder
        self.base = environment(HOME=str(folder / "home"), **variables)
        programs = folder / "bin"
        programs.mkdir(exist_ok=True)
        for name in ("embed", "embed-worker", "embed-loadtest", "embed-models", "nats-server"):
            if not (programs / name).exists():
                (programs / name).symlink_to(binary(name))
        # What a page has its own program read.
        taker = programs / "load-into-index"
        taker.write_text("#!/bin/sh\ncat >/dev/null\n", encoding="utf-8")
        taker.chmod(0o755)
        self.base["PATH"] = f"{programs}:{ROOT / '.venv/bin'}:{self.base['PATH']}"
        self.state = folder / "state"
        self.forget()

    def forget(self) -> None:
        """As in a new terminal."""
        self.state.write_text(f"cd {self.folder}\n", encoding="utf-8")

    def _script(self, text: str, keep: bool) -> list[str]:
        kept = f'\ncode=$?; {{ export -p; echo cd "$PWD"; }} > {self.state}; exit $code'
        return ["bash", "-o", "pipefail", "-c", f". {self.state}\n{text}{kept if keep else ''}"]

    def run(self, text: str, patience: float = LONG) -> tuple[int, str, str]:
        """Runs a command to its end: its exit code, what it printed, and what it said. 124: it did
        not end in time."""
        # All that it has started goes with it, or else what holds its output is waited for.
        script = ["timeout", "--kill-after=10", str(patience), *self._script(text, keep=True)]
        done = subprocess.run(  # noqa: S603
            script,
            env=self.base,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def start(self, text: str, name: str) -> Process:
        """Starts one that goes on until it is stopped."""
        # The shell is to become the program, so that it is the one that is stopped.
        script = self._script(re.sub(r"^((?:\w+=\S* )*)", r"\1exec ", text), keep=False)
        if text.startswith(tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")):
            script = self._script(re.sub(r"^((?:\w+=\S* )*)", r"exec env \1", text), keep=False)
        return Process(script, self.folder / f"{name}.log", self.base)


def rows(folder: Path) -> None:
    """Files of rows under the names that pages give them."""
    sentences = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()]
    some = [
        {
            "id": row["id"],
            "text": row["text"],
            "doc_id": row["id"],
            "title": "a title",
            "year": 1900,
        }
        for row in sentences[:40]
    ]
    lines = "".join(json.dumps(row) + "\n" for row in some)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    changed = [*some[:30], {"id": "new", "text": "something else", "doc_id": "new"}]
    text = "".join(json.dumps(row) + "\n" for row in changed)
    (folder / "new.jsonl").write_text(text, encoding="utf-8")
    book = {"id": "book", "text": " ".join(row["text"] for row in sentences[:60])}
    (folder / "books.jsonl").write_text(json.dumps(book) + "\n", encoding="utf-8")
    subprocess.run(["gzip", "-k", "rows.jsonl"], cwd=folder, check=True)  # noqa: S607


@contextlib.contextmanager
def stack(folder: Path) -> Iterator[dict[str, Any]]:
    """`embed dev` with the variants of the pages, HTTP, and a controller of rollouts."""
    variants = [f"--variant={MODEL}={name}" for name in ("fp32", "canary", "int8")]
    more = {
        "EMBED_WORKER__MODELS__CACHE_DIR": str(folder / "cache"),
        "EMBED_WORKER__WORKER__STATS_WINDOW": "1s",
    }
    arguments = [*variants, "--gateway=127.0.0.1:0"]
    with dev_stack(folder, folder / "build/registry", arguments, **more) as ready:
        env = environment(HOME=str(folder), NATS_URL=ready["nats_url"])
        command = [binary("embed"), "rollout", "--route-config", ready["route_config"], "run"]
        with Process(command, folder / "controller.log", env):
            yield ready


class Secured:
    """A server with a user for each role, as the page of deploy/nats has one made, and a worker."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def password_file(self, user: str) -> Path:
        """Where the password is that the page has made."""
        name = f"{user.upper()}_PASSWORD="
        text = (self.folder / "passwords.env").read_text(encoding="utf-8")
        (line,) = (line for line in text.splitlines() if line.startswith(name))
        path = self.folder / f"{user}.password"
        path.write_text(line.removeprefix(name), encoding="utf-8")
        return path

    def connection(self, user: str) -> str:
        """The options of somebody who comes with a password."""
        return (
            f"--server tls://localhost:{self.port} --user {user} --password-file "
            f"{self.password_file(user)} --tlsca {TLS / 'ca.pem'} --inbox-prefix _INBOX.{user}"
        )

    def as_user(self, text: str) -> str:
        """A command of a page, by the user that it names, on this server."""
        found = re.search(r"--user (\w+)", text)
        assert found, text
        for option in ("user", "password-file", "tlsca", "inbox-prefix"):
            text = re.sub(rf" --{option} \S+", "", text)
        return f"{text} {self.connection(found[1])}"


def making(folder: Path, port: int) -> list[str]:
    """The commands with which the page of deploy/nats makes a server, with names as they are
    here."""
    block = next(block for block in pages.blocks("deploy/nats/README.md") if block.language == "sh")
    made = []
    for command in block.commands():
        text = pages.bare(command.text).replace("/etc/nats", str(folder))
        text = text.replace("--model MODEL --model ANOTHER", f"--model {MODEL} --model another")
        text = text.replace("/var/lib/nats", str(folder / "store"))
        for name in ("server.pem", "server-key.pem"):
            text = re.sub(rf"={name}\b", f"={TLS / name}", text)
        made.append(text)
    made[-1] += f" -a 127.0.0.1 -p {port} -m -1"
    return made


@contextlib.contextmanager
def secured(folder: Path) -> Iterator[Secured]:
    """That server, streams, and a worker."""
    shell, port = Shell(checkout(folder / "checkout"), {}), free_port()
    *commands, last = making(folder / "nats", port)
    for text in commands:
        code, printed, said = shell.run(text)
        assert code == 0, f"{text}: {printed}{said}"
    found = Secured(folder / "nats", port)
    with shell.start(last, "nats") as server:
        server.said(
            "it to listen", lambda log: "Server is ready" if "Server is ready" in log else None
        )
        shell.forget()
        code, printed, said = shell.run(f"embed init {found.connection('init')}")
        assert code == 0, printed + said
        worker = f"embed-worker run {found.connection('worker')} --metrics-addr 127.0.0.1:0"
        worker += " --registry build/registry --json"
        with shell.start(worker, "worker") as process:
            process.said("it to be ready", first_json)
            yield found


def reached(port: int) -> bool | None:
    """Whether somebody listens there."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return None
