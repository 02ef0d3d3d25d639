"""The commands of the pages: what stands in their fenced blocks, and in the running text."""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from conftest import ROOT

# What is ours, and has arguments that can be wrong.
PROGRAMS = ("embed", "embed-worker", "embed-loadtest", "embed-models")
SHELLS = ("sh", "console")
# What others wrote, and notes beside results, which stay as they were.
OTHERS = ("vendor/", "loadtest/results/")
# An operator of the shell between commands, as `shlex` returns them.
_OPERATORS = re.compile(r"[();<>|&]+")
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)$")


@dataclasses.dataclass(frozen=True)
class Command:
    """A command as it stands in a block, with what the page says that it prints."""

    page: str
    line: int
    text: str
    output: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    section: str
    line: int
    language: str
    lines: tuple[str, ...]

    def commands(self) -> list[Command]:
        """What it has somebody type."""
        if self.language == "console":
            return list(self._console())
        return list(self._script())

    def _console(self) -> Iterator[Command]:
        """Lines with a prompt, each with what follows it."""
        found: list[tuple[int, str, list[str]]] = []
        for offset, line in enumerate(self.lines, 1):
            if line.startswith("$ "):
                found.append((self.line + offset, line[2:], []))
            elif found and found[-1][1].endswith("\\") and not found[-1][2]:
                number, text, _ = found[-1]
                found[-1] = (number, f"{text}\n{line}", [])
            elif found:
                found[-1][2].append(line)
        for number, text, output in found:
            said = tuple(line for line in output if line.strip())
            yield Command(self.page, number, joined(text), said)

    def _script(self) -> Iterator[Command]:
        """Lines, but those together that only together are something that a shell reads."""
        taken: list[str] = []
        for offset, line in enumerate(self.lines, 1):
            if not taken and (not line.strip() or line.lstrip().startswith("#")):
                continue
            taken.append(line)
            text = joined("\n".join(taken))
            if line.endswith("\\") or not is_complete(text):
                continue
            yield Command(self.page, self.line + offset - len(taken) + 1, text)
            taken = []
        assert not taken, f"{self.page}:{self.line}: a shell does not read this: {taken}"


def joined(text: str) -> str:
    """Without the ends of lines that go on."""
    return re.sub(r"\\\n\s*", "", text).strip()


@functools.cache
def is_complete(text: str) -> bool:
    """Whether a shell reads it as a command."""
    command = ["/bin/bash", "-n", "-c", text]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0  # noqa: S603


def pages() -> list[str]:
    """All pages of the repository."""
    skipped = {".venv", "build", "target", "node_modules", ".git", ".pytest_cache"}
    found = []
    for folder, folders, names in os.walk(ROOT):
        folders[:] = [name for name in folders if name not in skipped]
        found += [
            str(Path(folder, name).relative_to(ROOT)) for name in names if name.endswith(".md")
        ]
    return sorted(page for page in found if not page.startswith(OTHERS))


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found, section, begin = [], "", -1
    language = indent = ""
    for number, line in enumerate(lines):
        fence = _FENCE.match(line)
        if begin < 0 and line.startswith("#"):
            section = line.lstrip("# ")
        elif begin < 0 and fence:
            begin, language, indent = number, fence["language"], fence["indent"]
        elif begin >= 0 and line == f"{indent}```":
            held = tuple(one.removeprefix(indent) for one in lines[begin + 1 : number])
            found.append(Block(page, section, begin + 1, language, held))
            begin = -1
    assert begin < 0, f"{page}:{begin + 1}: this block has no end"
    return found


def commands(page: str) -> list[Command]:
    """All commands of a page's blocks."""
    return [one for block in blocks(page) if block.language in SHELLS for one in block.commands()]


def spans(page: str) -> list[Command]:
    """Calls of our programs in the running text and its tables, `a | b` of the last word as two."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    found, inside = [], False
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("```"):
            inside = not inside
        if inside:
            continue
        for span in re.findall(r"`([^`]+)`", line):
            if span.split()[0:1] and span.split()[0] in PROGRAMS:
                found += [Command(page, number, text) for text in alternatives(span)]
    return found


def alternatives(span: str) -> list[str]:
    """`a b | c [--d]`: `a b` and `a c --d`."""
    span = re.sub(r"[\[\]]", "", span.replace("\\|", "|"))
    first, *others = [part.strip() for part in span.split(" | ")]
    head = first.split()
    stem = head[: 2 if len(head) > 2 else 1]
    return [first] + [" ".join([*stem, other]) for other in others]


def calls(text: str) -> list[list[str]]:
    """The calls of our programs in a command line: of each its words."""
    found: list[list[str]] = []
    words: list[str] = []
    target = False
    for token in [*_tokens(text), ";"]:
        if _OPERATORS.fullmatch(token):
            if "<" in token or (">" in token):
                target = True
                continue
            found += _call(words)
            words = []
        elif target:
            target = False
        else:
            words.append(token)
    return found


def bare(text: str) -> str:
    """Without what is said about it."""
    return re.sub(r"\s+# .*$", "", text, flags=re.MULTILINE)


def _tokens(text: str) -> list[str]:
    lexer = shlex.shlex(bare(text).replace("\n", ";"), posix=True, punctuation_chars="();<>|&")
    lexer.wordchars += "…{}[]$%!^,:@"
    lexer.commenters = ""
    return list(lexer)


def _call(words: list[str]) -> list[list[str]]:
    # More that a reader adds.
    words = [word for word in words if word != "…"]
    while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] in ("exec", "do", "then")):
        words = words[1:]
    if words[:2] == ["docker", "run"]:
        # What follows our image are arguments of its entry point.
        image = next((n for n, word in enumerate(words) if "akidb-embed-worker:" in word), None)
        if image is None:
            return []
        entry = "embed" if "/usr/local/bin/embed" in words else "embed-worker"
        return [[entry, *words[image + 1 :]]]
    name = Path(words[0]).name if words else ""
    return [[name, *words[1:]]] if name in PROGRAMS else []
