"""Reads what packages of programs say of themselves: README files, comments, docstrings, and code.

Only packages are read whose licence asks for no more than a notice.
"""

import ast
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from itertools import islice
from pathlib import Path

from embed_models.distill.documents import markdown, source_text
from embed_models.distill.entries import entry
from embed_models.distill.licences import is_permissive, spdx
from embed_models.distill.texts import Group, Text

# So that no package says most of what there is: files and texts of a package, stretches of code of
# a file, and the size of a file beyond which it is a table, or generated.
_FILES, _TEXTS, _CODE, _BYTES = 50, 6000, 12, 200_000

_COMMENT = re.compile(r"(?:^[ \t]*//[/!](?!/)[^\n]*\n)+", re.M)
_CLASSIFIER = "License :: OSI Approved :: "
# Copies of other packages, under other licences.
_FOREIGN = frozenset({"_vendor", "vendor", "vendored", "_distutils", "third_party", "_internal"})
_TESTS = frozenset({"test", "tests", "testing", "benches"})
# Bindings, generated from headers.
_BINDINGS = re.compile(r"(?:windows|winapi|linux-raw-sys|web-sys|libc)\b")


@dataclass(frozen=True)
class Package:
    """A package with what it says."""

    name: str
    version: str
    licence: str
    groups: Iterator[Group]


def read_crates(directory: Path) -> Iterator[Package]:
    """Yield the crates below a folder of unpacked sources, such as Cargo's registry/src/*."""
    for manifest in sorted(directory.glob("*/Cargo.toml")):
        about = tomllib.loads(manifest.read_text(encoding="utf-8")).get("package", {})
        licence = about.get("license")
        if _BINDINGS.match(manifest.parent.name):
            continue
        if isinstance(licence, str) and is_permissive(licence):
            groups = _limited(_crate(manifest.parent, about.get("description")))
            yield Package(str(about["name"]), str(about["version"]), licence, groups)


def read_python(directory: Path) -> Iterator[Package]:
    """Yield the distributions in a site-packages folder."""
    found = {found.name: found for found in distributions(path=[str(directory)])}
    for _, distribution in sorted(found.items()):
        licence = _licence(distribution)
        if is_permissive(licence):
            groups = _limited(_distribution(distribution))
            yield Package(distribution.name, distribution.version, licence, groups)


def _crate(directory: Path, description: object) -> Iterator[Group]:
    readme = [
        text
        for path in sorted(directory.glob("README*"))
        for text in markdown(_read(path), "readme")
    ]
    summary = description if isinstance(description, str) else ""
    name = re.sub(r"-\d[^-]*(?:-.*)?$", "", directory.name)
    yield from _group(f"crate {directory.name}", _described(name, summary, readme))
    paths = sorted(directory.glob("src/**/*.rs"))
    shown = [path for path in paths if not _TESTS & set(path.relative_to(directory).parts)]
    for path in shown[:_FILES]:
        yield from _group(f"{directory.name} {path.name}", _rust(_read(path)))


def _described(name: str, summary: str, readme: list[Text]) -> Iterator[Text]:
    """Yield the summary, it with the README's beginning, as in a catalogue, and the README."""
    summary = " ".join(summary.split())
    beginning = [text.text for text in readme if text.kind == "readme"]
    if summary:
        yield Text("software", summary)
        for text in entry(name, summary, beginning):
            if text.kind == "entry":
                yield text
    yield from readme


def _rust(content: str) -> Iterator[Text]:
    """Yield the documentation of a file, and stretches of its code."""
    for comment in _COMMENT.finditer(content):
        said = re.sub(r"^[ \t]*//[/!] ?", "", comment[0], flags=re.M)
        yield from markdown(said, "documentation")
    for stretch in islice(source_text(_COMMENT.sub("", content)), _CODE):
        yield Text("code", stretch)


def _distribution(distribution: Distribution) -> Iterator[Group]:
    body = distribution.metadata.get_payload()  # type: ignore[attr-defined]
    readme = list(markdown(str(body or ""), "readme"))
    texts = _described(distribution.name, distribution.metadata["Summary"] or "", readme)
    yield from _group(f"python {distribution.name}", texts)
    files = sorted(distribution.files or [], key=str)
    left_out = _FOREIGN | _TESTS | {".."}
    shown = [file for file in files if file.suffix == ".py" and not left_out & set(file.parts)]
    # From all over the package.
    for file in shown[:: max(1, len(shown) // _FILES)]:
        path = Path(str(distribution.locate_file(file)))
        if path.is_file():
            yield from _group(f"{distribution.name} {file}", _python(_read(path)))


def _python(content: str) -> Iterator[Text]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            said = ast.get_docstring(node)
            if said:
                yield from markdown(said, "documentation")
    for stretch in islice(source_text(content), _CODE):
        yield Text("code", stretch)


def _licence(distribution: Distribution) -> str:
    metadata = distribution.metadata
    if expression := metadata["License-Expression"]:
        return str(expression)
    named = [
        spdx(classifier.removeprefix(_CLASSIFIER))
        for classifier in metadata.get_all("Classifier") or []
        if classifier.startswith(_CLASSIFIER)
    ]
    return " AND ".join(named) if named else spdx(str(metadata["License"] or ""))


def _group(key: str, texts: Iterable[Text]) -> Iterator[Group]:
    found = tuple(texts)
    if found:
        yield Group(key, found)


def _limited(groups: Iterator[Group]) -> Iterator[Group]:
    """Yield the groups up to the most texts of a package."""
    count = 0
    for group in groups:
        yield group
        count += len(group.texts)
        if count >= _TEXTS:
            return


def _read(path: Path) -> str:
    if path.stat().st_size > _BYTES:
        return ""
    return path.read_text(encoding="utf-8", errors="replace")
