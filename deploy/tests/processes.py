"""Processes that a test starts, on ports of their own, and that are gone when it is over."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

from conftest import ROOT

# What is waited for comes within this on two slow, busy cores.
PATIENCE = 90.0
BINARIES = Path(os.environ.get("EMBED_BIN_DIR", ROOT / "target" / "release"))
REGISTRY = Path(os.environ.get("EMBED_REGISTRY", ROOT / "build" / "registry")).resolve()
MODEL = "all-minilm-l6-v2"

T = TypeVar("T")


def binary(name: str) -> str:
    """One of ours, or of the virtual environment's (`nats-server`, `weed`)."""
    for folder in (BINARIES, ROOT / ".venv" / "bin"):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is neither in {BINARIES} (`make build`) nor on the PATH")
    return found


def environment(**more: str) -> dict[str, str]:
    """Of a program of ours: nothing of whoever runs the test, but where libraries are."""
    kept = ("PATH", "LD_LIBRARY_PATH", "TMPDIR")
    base = {name: os.environ[name] for name in kept if name in os.environ}
    return base | {"VIRTUAL_ENV": str(ROOT / ".venv"), "ORT_DISABLE_TELEMETRY": "1"} | more


# So that none is given twice.
_GIVEN: set[int] = set()


def free_port() -> int:
    """A port below those that the kernel gives to whoever asks for any."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            if port not in _GIVEN:
                _GIVEN.add(port)
                return port


def wait_for(what: str, look: Callable[[], T | None], patience: float = PATIENCE) -> T:
    """What `look` finds, as soon as it finds something."""
    end = time.monotonic() + patience
    while True:
        found = look()
        if found is not None:
            return found
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience:.0f} s for {what}")
        time.sleep(0.1)


def get(url: str, timeout: float = 5.0) -> bytes | None:
    """The answer to a request, if it is a good one."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:  # noqa: S310 -- tests' own
            read: bytes = answer.read()
            return read
    except (OSError, urllib.error.URLError):
        return None


def well(url: str, timeout: float = 5.0) -> str | None:
    """The address, if what is there answers that it is well."""
    return None if get(url, timeout) is None else url


class Process:
    """A process, with its output in a file. Stopped at the end of the `with`."""

    def __init__(self, command: list[str], log: Path, env: dict[str, str] | None = None) -> None:
        self.log = log
        with log.open("wb") as output:
            self.child = subprocess.Popen(  # noqa: S603
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment() if env is None else env,
                cwd=log.parent,
            )

    def __enter__(self) -> Self:
        """It runs already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Ends it."""
        self.stop()

    def stop(self) -> int:
        """Asks it to end, and waits; its exit code."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGCONT)
            self.child.send_signal(signal.SIGTERM)
        try:
            return self.child.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.child.kill()
            return self.child.wait()

    def kill(self) -> None:
        """Ends it at once: what it keeps is thrown away anyhow."""
        self.child.kill()
        self.child.wait()

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def said(self, what: str, look: Callable[[str], str | None]) -> str:
        """What `look` finds in its output; an error with all of it, if it ends before."""

        def find() -> str | None:
            found = look(self.text())
            if found is None and self.child.poll() is not None:
                raise RuntimeError(f"it ended before {what}:\n{self.text()}")
            return found

        return wait_for(what, find)


def run(command: list[str], env: dict[str, str] | None = None, patience: float = PATIENCE) -> str:
    """Runs a program to its end; what it printed, or an error with all that it said."""
    done = subprocess.run(  # noqa: S603
        command,
        env=environment() if env is None else env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=patience,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def has_gateway() -> bool:
    """Whether `embed` knows the gateway."""
    asked = subprocess.run(  # noqa: S603
        [binary("embed"), "gateway", "--help"], capture_output=True, check=False
    )
    return asked.returncode == 0


def first_json(text: str) -> str | None:
    """The first line that is an object of JSON."""
    return next((line for line in text.splitlines() if line.startswith("{")), None)


@contextlib.contextmanager
def dev_stack(
    folder: Path, registry: Path, arguments: list[str], **env: str
) -> Iterator[dict[str, Any]]:
    """`embed dev`: a server, streams and a worker, as it says itself when they are ready."""
    command = [binary("embed"), "dev", "--json", "--port=0", f"--data-dir={folder / 'dev'}"]
    command += [f"--registry={registry}", *arguments]
    programs = {
        "NATS_SERVER_BIN": binary("nats-server"),
        "EMBED_WORKER_BIN": binary("embed-worker"),
        "HOME": str(folder),
    }
    with Process(command, folder / "dev.log", environment(**programs, **env)) as process:
        yield json.loads(process.said("the stack to be ready", first_json))
