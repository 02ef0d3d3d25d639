"""The commands of the `nats` program in all pages do what is said of them.

They are run with the program where it is installed. Otherwise, what each would send is sent by a
plain client of NATS, and what comes back is looked at in the same way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from conftest import MODEL, PATIENCE, ROOT, binary
from nats.aio.client import Client as Nats
from nats.aio.msg import Msg

FOLDERS = ["deploy", "loadtest", "producer", "schemas", "worker"]
PROGRAM = shutil.which("nats")


def pages() -> list[Path]:
    """All pages of ours."""
    found = [path for name in FOLDERS for path in (ROOT / name).rglob("*.md")]
    return [*ROOT.glob("*.md"), *(path for path in found if "node_modules" not in path.parts)]


def commands() -> list[str]:
    """What stands in the fenced blocks, each once; what ends a worker comes last."""
    found: dict[str, None] = {}
    for page in pages():
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
            for line in block.splitlines():
                if line.startswith("nats "):
                    found[shlex.join(shlex.split(line, comments=True))] = None
    return sorted(found, key=lambda line: ".drain." in line)


@pytest.fixture(scope="module")
def own_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A stack of this module's own, whose worker it ends."""
    folder = tmp_path_factory.mktemp("own")
    command = [binary("embed"), "dev", "--json", "--port", "0", "--data-dir", str(folder / "data")]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline()) | {"process": process}
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


async def several(client: Nats, subject: str, body: bytes = b"") -> list[Msg]:
    """The answers of all who listen, until none has come for a while."""
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    inbox = client.new_inbox()
    await client.subscribe(inbox, cb=answers.put)
    await client.publish(subject, body, reply=inbox)
    found = [await asyncio.wait_for(answers.get(), PATIENCE)]
    try:
        while True:
            found.append(await asyncio.wait_for(answers.get(), 0.3))
    except TimeoutError:
        return found


async def as_plain_client(url: str, command: str) -> list[str]:
    """Sends what the program would send: what it would print of the answers."""
    words = shlex.split(command)[1:]
    client = await nats.connect(url)
    try:
        match words:
            case ["req", subject, body]:
                answers = [await client.request(subject, body.encode(), timeout=PATIENCE)]
            case ["req", subject, body, "--replies=0"]:
                answers = await several(client, subject, body.encode())
            case ["req", subject, body, "-H", header]:
                name, _, value = header.partition(":")
                answers = [
                    await client.request(
                        subject, body.encode(), timeout=PATIENCE, headers={name: value}
                    )
                ]
            case ["stream", "get", stream, "--last-for", subject]:
                question = json.dumps({"last_by_subj": subject}).encode()
                call = f"$JS.API.STREAM.MSG.GET.{stream}"
                answers = [await client.request(call, question, timeout=PATIENCE)]
            case ["micro", "ls"]:
                answers = await several(client, "$SRV.INFO")
            case ["micro", "info", name]:
                answers = await several(client, f"$SRV.INFO.{name}")
            case ["micro", "stats", name]:
                answers = await several(client, f"$SRV.STATS.{name}")
            case _:
                pytest.fail(f"nobody knows what this sends: {command}")
        for answer in answers:
            status = (answer.headers or {}).get("Status")
            assert status is None, f"{command}: {status}"
        return [answer.data.decode() for answer in answers]
    finally:
        await client.close()


def with_program(url: str, command: str) -> list[str]:
    assert PROGRAM is not None
    words = [PROGRAM, "--server", url, "--timeout", f"{PATIENCE:.0f}s", *shlex.split(command)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=PATIENCE)
    return [done.stdout]


async def result_is_there(url: str) -> None:
    """The job of the READMEs is done."""
    client = await nats.connect(url)
    stream, subject = f"EMBED_RESULTS_{MODEL}", f"embed.result.{MODEL}.my-job-1"
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(nats.errors.Error):
                    place = f"$JS.API.DIRECT.GET.{stream}.{subject}"
                    answer = await client.request(place, timeout=5)
                    if (answer.headers or {}).get("Status") is None:
                        return
                await asyncio.sleep(0.02)
    finally:
        await client.close()


def test_every_command_does_what_is_said_of_it(own_stack: dict[str, Any]) -> None:
    url, model = own_stack["nats_url"], own_stack["models"][0]
    [info] = asyncio.run(as_plain_client(url, "nats micro info embed-worker"))
    worker = json.loads(info)["id"]
    assert len(commands()) >= 12, "the commands are found at all"
    for command in commands():
        if command.startswith("nats stream get"):
            asyncio.run(result_is_there(url))
        line = command.replace("WORKER", worker)
        said = with_program(url, line) if PROGRAM else asyncio.run(as_plain_client(url, line))
        text = "\n".join(said)
        assert text.strip(), command
        # What each is for.
        wanted = {
            "embed.rpc": ['"vectors"', '"dim":384'],
            "embed.job": [f'"stream":"EMBED_{MODEL}"'],
            "stream get": ["my-job-1"],
            "micro ls": ["embed-worker", worker],
            "micro info": [f"embed.rpc.{MODEL}.fp32", f"embed.control.drain.{worker}", "provider"],
            "micro stats": [f"embed.rpc.{MODEL}", f"embed.control.status.{worker}"],
            "control.status": [worker, '"serving"', model["version"], '"provider":"', MODEL],
            "control.reload": [worker, '"serving"', MODEL],
            "control.drain": [worker, '"draining"'],
        }
        [words] = [words for part, words in wanted.items() if part in command]
        compact = re.sub(r'(?<=[:,"{])\s+(?=["\d{\[])', "", text.replace("\\/", "/"))
        for word in words:
            assert word in text or word in compact, f"{command}: {word} is not in {text:.2000}"
    # The worker is drained, and its stack ends with it.
    own_stack["process"].wait(PATIENCE)


def test_the_program_of_the_readme_runs(url: str, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    [program] = [block for block in blocks if "import asyncio, json, nats" in block]
    (tmp_path / "plain.py").write_text(program.replace("nats://127.0.0.1:4222", url))
    command = [sys.executable, str(tmp_path / "plain.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    vector, space = done.stdout.splitlines()
    assert len(json.loads(vector)) == 4
    assert space.startswith("sha256:")
