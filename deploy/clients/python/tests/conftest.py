"""Servers and workers for the tests: real ones, on free ports, gone when the tests are over."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[4]
MODEL = "all-minilm-l6-v2"
#: Long, for slow and busy machines; what is waited for comes in a fraction of it.
PATIENCE = 120.0


def binary(name: str) -> str:
    """A program of this checkout."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / name
    if not target.exists():
        pytest.fail(f"{target} is missing: run `make build` first")
    return str(target)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A nats-server, streams, and a worker with the real model: what `embed dev` says of them."""
    folder = tmp_path_factory.mktemp("stack")
    command = [binary("embed"), "dev", "--json", "--port", "0", "--data-dir", str(folder / "data")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the stack did not start:\n{(folder / 'log').read_text()}"
        yield json.loads(line)
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


@pytest.fixture(scope="session")
def url(stack: dict[str, Any]) -> str:
    """The server of the stack."""
    return str(stack["nats_url"])


@contextlib.contextmanager
def nats_server(folder: Path, config: str = "") -> Iterator[str]:
    """A nats-server alone, with JetStream."""
    program = shutil.which("nats-server", path=f"{ROOT / '.venv/bin'}:{os.environ['PATH']}")
    assert program is not None, "nats-server is missing: run `make setup` first"
    ports = folder / "ports"
    ports.mkdir()
    file = folder / "nats.conf"
    file.write_text(
        f'port: -1\nports_file_dir: "{ports}"\n'
        f'jetstream {{ store_dir: "{folder / "store"}" }}\n{config}'
    )
    with (folder / "nats.log").open("w") as log:
        process = subprocess.Popen([program, "-c", str(file)], stdout=log, stderr=log)
    try:
        until = time.monotonic() + PATIENCE
        while True:
            url = ""
            for written in ports.glob("*.ports"):
                # It may be half written.
                with contextlib.suppress(ValueError):
                    url = str(json.loads(written.read_text())["nats"][0])
            if url:
                break
            assert process.poll() is None, (folder / "nats.log").read_text()
            assert time.monotonic() < until, "the server does not listen"
            time.sleep(0.01)
        yield url
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A nats-server alone."""
    with nats_server(tmp_path_factory.mktemp("nats")) as found:
        yield found
