"""Every command of every page is one that there is, and does what it is there for.

Each is run as it stands, in a folder that looks like a checkout, against one stack; `page_rules.py`
says what is put in place of names, and what is not run, with the reason. Of what is not run, and of
calls of our programs in the running text, the arguments are read by the programs.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import page_rules
import pages
import pytest
from conftest import ROOT
from page_stack import Secured, Shell, checkout, objects, rows, secured, stack
from processes import REGISTRY, binary, environment

# That of the runbooks has a test of its own, which breaks what they mend.
OTHERS = ("deploy/runbooks.md",)
PAGES = [page for page in pages.pages() if pages.commands(page) and page not in OTHERS]
# What a reader puts something of theirs in place of.
PLACEHOLDER = re.compile(r"…|^[A-Z][A-Z_0-9:]*$|^\$|^[A-Z_]+=")


def is_placeholder(said: str) -> bool:
    """Whether a program does not take a value that is only the name of one."""
    found = re.search(r"invalid value '([^']*)'", said)
    return bool(found and (PLACEHOLDER.search(found[1]) or not found[1]))


def refused(words: list[str]) -> str | None:
    """What a program has against its arguments; it does nothing else."""
    done = subprocess.run(  # noqa: S603
        [binary(words[0]), *words[1:], "--help"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0 or is_placeholder(done.stderr):
        return None
    # An option at the end of its name in the running text.
    if words[-1].startswith("--") and "a value is required for" in done.stderr:
        return None
    return done.stderr


# `argparse` reads the rest of a line only where it does not end in `--help`.
_PARSE = """
import json, sys
from embed_models.cli import _parser
for words in json.load(sys.stdin):
    try:
        _parser().parse_args(words)
    except SystemExit as end:
        print(json.dumps([words, end.code]))
"""


def refused_by_models(calls: list[list[str]]) -> list[str]:
    """Calls of `embed-models` whose arguments it does not take."""
    done = subprocess.run(  # noqa: S603
        [ROOT / ".venv/bin/python", "-c", _PARSE],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        check=True,
    )
    # Without all that it takes, as in the running text, is no mistake; what there is not, is.
    said = re.split(r"^usage: ", done.stderr, flags=re.MULTILINE)
    return [one for one in said if "unrecognized arguments" in one or "invalid choice" in one]


def test_all_arguments_are_those_of_the_programs() -> None:
    found: dict[tuple[str, ...], str] = {}
    for page in pages.pages():
        for command in [*pages.commands(page), *pages.spans(page)]:
            for words in pages.calls(command.text):
                found.setdefault(tuple(words), command.where)
    assert len(found) > 150
    ours = {words: where for words, where in found.items() if words[0] != "embed-models"}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        said = dict(zip(ours, pool.map(lambda words: refused(list(words)), ours), strict=True))
    wrong = [f"{ours[words]}\n{why}" for words, why in said.items() if why]
    wrong += refused_by_models([list(words[1:]) for words in found if words[0] == "embed-models"])
    assert not wrong, "\n".join(wrong)


def test_what_is_not_run_names_what_is_there() -> None:
    """Targets of make, stages of the Dockerfile, files of the repository."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    docker = (ROOT / "deploy/docker/Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM .* AS (\S+)$", docker, re.MULTILINE))
    for page in PAGES:
        for command in pages.commands(page):
            text = pages.bare(command.text)
            for called in re.findall(r"(?:^|&& )(?:\w+=\S+ )*make ((?:[a-z-]+ ?)+)", text):
                assert set(called.split()) <= targets, command.where
            for stage in re.findall(r"docker build .*--target (\S+)", text):
                assert stage in stages, command.where
            for path in re.findall(r"(?<![\w/.:-])((?:deploy|loadtest|fuzz)/[\w./-]+)", text):
                made = path.startswith(("deploy/samples", "loadtest/results", "deploy/models/"))
                assert made or (ROOT / path).exists(), f"{command.where}: {path}"


def test_no_rule_is_there_in_vain() -> None:
    all_commands = [command for page in PAGES for command in pages.commands(page)]
    for rule in page_rules.RULES:
        assert any(rule.fits(command) for command in all_commands), rule


class Machine:
    """What commands find: made when the first asks for it."""

    def __init__(self, folder: Path, running: contextlib.ExitStack) -> None:
        self.folder, self.running = folder, running
        (folder / "stack").mkdir()
        checkout(folder / "stack")
        self.ready: dict[str, Any] = running.enter_context(stack(folder / "stack"))
        (folder / "objects").mkdir()
        self.objects: dict[str, str] = running.enter_context(objects(folder / "objects"))
        self._secured: Secured | None = None

    def secured(self) -> Secured:
        """A server with users; made by the page that says how."""
        if self._secured is None:
            (self.folder / "secured").mkdir()
            self._secured = self.running.enter_context(secured(self.folder / "secured"))
        return self._secured

    def variables(self) -> dict[str, str]:
        return {
            "NATS_URL": self.ready["nats_url"],
            "EMBED_ROUTE_CONFIG": self.ready["route_config"],
            **self.objects,
        }

    def here(self, page: str, text: str) -> str:
        """A command with names as they are here."""
        own = re.sub(r"\W", "-", page)
        for pattern, name in (
            (r"nats://(host:4222|nats:4222|…)", self.ready["nats_url"]),
            (r"(http://)?127\.0\.0\.1:8080", self.ready["gateway_url"]),
            (r"https://s3\.example\.com", self.objects["AWS_ENDPOINT_URL"]),
            (r"AWS_ACCESS_KEY_ID=…", f"AWS_ACCESS_KEY_ID={self.objects['AWS_ACCESS_KEY_ID']}"),
            (
                r"AWS_SECRET_ACCESS_KEY=…",
                f"AWS_SECRET_ACCESS_KEY={self.objects['AWS_SECRET_ACCESS_KEY']}",
            ),
            (r"s3://(bucket|models)/", rf"s3://\1/{own}/"),
        ):
            text = re.sub(pattern, name, text)
        return text


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with contextlib.ExitStack() as running:
        yield Machine(tmp_path_factory.mktemp("pages"), running)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_run(page: str, machine: Machine, tmp_path: Path) -> None:
    folder = checkout(tmp_path / "checkout", machine.folder / "stack/build/registry")
    rows(folder)
    shell = Shell(folder, machine.variables())
    for block in pages.blocks(page):
        if block.language in pages.SHELLS:
            shell.forget()
            for number, command in enumerate(block.commands()):
                played(shell, machine, command, f"{block.line}-{number}")
    for text in page_rules.AFTER.get(page, ()):
        code, _, said = shell.run(text)
        assert code == 0, f"{text}: {said}"


def played(shell: Shell, machine: Machine, command: pages.Command, name: str) -> None:
    """Runs a command as its rules say."""
    rules = [rule for rule in page_rules.RULES if rule.fits(command)]
    if any(rule.skip for rule in rules):
        return
    if command.text.startswith("curl ") and shutil.which("curl") is None:
        return
    text = pages.bare(command.text)
    for rule in rules:
        for pattern, instead in rule.instead:
            assert re.search(pattern, text), f"{command.where}: {pattern} is not in it"
            text = re.sub(pattern, instead, text)
        text = f"{text} {rule.more}".strip()
        if rule.secured:
            text = machine.secured().as_user(text)
    text = machine.here(command.page, text)
    for rule in rules:
        for first in rule.before:
            code, printed, said = shell.run(machine.here(command.page, first))
            assert code == 0, f"{command.where}: before it, {first}:\n{printed}{said}"
    ready = next((rule.ready for rule in rules if rule.ready), None)
    if ready is not None:
        with shell.start(text, name) as process:
            process.said(ready, lambda log: log if re.search(ready, log) else None)
        return
    code, printed, said = shell.run(text)
    allowed = {code for rule in rules for code in rule.codes} | {0}
    assert code in allowed, f"{command.where}: {code}\nrun as: {text}\n{printed}{said}"
    wanted = [line for line in command.output if line.strip() != "…"]
    missing = not_printed(wanted, f"{printed}{said}")
    assert missing is None, f"{command.where}: {missing!r} is not in\n{printed}{said}"


@pytest.mark.parametrize("page", ["README.md", "producer/client/README.md"])
def test_programs_in_rust_are_compiled(page: str) -> None:
    """What stands there is part of an example, which is."""
    example = (ROOT / "producer/client/examples/readme.rs").read_text(encoding="utf-8")
    lines = iter([line.strip() for line in example.splitlines()])
    (block,) = (block for block in pages.blocks(page) if block.language == "rust")
    for line in block.lines:
        wanted = re.sub(r"\s+// .*$", "", line).strip()
        assert any(wanted == other for other in lines), f"{page}: {line}"


def test_the_demo_prints_what_the_page_says() -> None:
    block = next(one for one in pages.blocks("README.md") if one.lines[:1] == ("$ make demo",))
    done = subprocess.run(  # noqa: S603
        [binary("examples/demo")],
        cwd=ROOT,
        env=environment(EMBED_REGISTRY=str(REGISTRY)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    missing = not_printed([line for line in block.lines[1:] if line], done.stdout)
    assert missing is None, f"{missing!r} is not in\n{done.stdout}"


def not_printed(wanted: list[str], printed: str) -> str | None:
    """The first line that is not printed, behind those before it; what differs from run to run
    aside."""
    lines = iter([blurred(line) for line in printed.splitlines()])
    for line in wanted:
        # What a line goes on with may be left out.
        begins, is_cut, _ = blurred(line).partition("…")
        if not any(other.startswith(begins) if is_cut else other == begins for other in lines):
            return line
    return None


def blurred(line: str) -> str:
    """Without what is another each time: figures, addresses, ids, people, columns' widths."""
    line = re.sub(r"\b(w[0-9a-f]+-)?[0-9a-f]{8,}\b|\b[\w-]+@[\w.-]+", "#", line)
    line = re.sub(r"\d[\d.,:]*", "#", line)
    return re.sub(r"\s+", " ", line).strip()


def test_figures_are_no_difference() -> None:
    said = "ready in 1.1 s: nats://127.0.0.1:38045\nsecond"
    assert not_printed(["ready in 22.0 s: nats://127.0.0.1:4222"], said) is None
    assert not_printed(["second", "ready in 2 s: nats://127.0.0.1:1"], said) is not None


def test_a_wrong_flag_is_found() -> None:
    assert refused(["embed", "ask", "--no-such-flag", "x"])
    assert refused(["embed", "backfill", "rnu", "x"])
    assert refused(["embed", "ask", "--timeout", "DURATION", "x"]) is None
