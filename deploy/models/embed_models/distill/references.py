"""Reads reference works of packages: what services, commands, checks and classes are for."""

import ast
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from embed_models.distill.entries import entry, paragraphs_of_html, paragraphs_of_text
from embed_models.distill.texts import Group, Text

_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PLACEHOLDER = re.compile(r"\{\w+\}|\[%key:[^\]]*%\]")
_HELP = re.compile(r"helps\[['\"]([^'\"]+)['\"]\]\s*=\s*(?:f|r)?\"\"\"(.*?)\"\"\"", re.S)
_FIELD = re.compile(r"^(\w+-summary): *[>|]?-?\s*(.*(?:\n[ \t]+.*|\n(?=\n))*)", re.M)
_CLASS = re.compile(r'<div class="title">\s*(\w[\w:]*) Class Reference')
_BRIEF = re.compile(r'<div class="contents">\s*<p>(.*?)(?:<a href="[^"]*#details">|</p>)', re.S)
_DETAILS = re.compile(r'Detailed Description</h2>\s*<div class="textblock">(.*?)</div>', re.S)
_ASIDES = re.compile(r"<(pre|dl)\b.*?</\1>|<div class=\"(?:fragment|line).*?</div>", re.S)


def read_service_model(path: Path) -> Iterator[Group]:
    """Yield a service of Amazon and its operations, of a model that botocore carries."""
    model = json.loads(gzip.decompress(path.read_bytes()))
    about = model["metadata"]
    name = str(about.get("serviceFullName") or about["serviceId"])
    yield from _group(name, entry(name, "", paragraphs_of_html(model.get("documentation", ""))))
    for operation, what in model["operations"].items():
        said = paragraphs_of_html(what.get("documentation", ""))
        yield from _group(f"{name} {operation}", entry(_spaced(operation), "", said))


def read_discovery(path: Path) -> Iterator[Group]:
    """Yield an interface of Google, its methods and its types, of a discovery document."""
    about = json.loads(path.read_text(encoding="utf-8"))
    name = str(about.get("title") or about["name"])
    yield from _group(name, entry(name, "", [about.get("description", "")]))
    for method, description in _methods(about):
        said = paragraphs_of_text(description)
        yield from _group(f"{name} {method}", entry(method, "", said))
    for kind, what in about.get("schemas", {}).items():
        said = paragraphs_of_text(what.get("description", ""))
        yield from _group(f"{name} {kind}", entry(_spaced(kind), "", said))


def read_command_help(path: Path) -> Iterator[Group]:
    """Yield the commands of the Azure CLI: help in YAML, or the docstring of a command's class."""
    content = path.read_text(encoding="utf-8", errors="replace")
    for name, said in _HELP.findall(content):
        fields = {field: " ".join(value.split()) for field, value in _FIELD.findall(said)}
        long = fields.get("long-summary", "")
        yield from _group(f"az {name}", entry(name, fields.get("short-summary", ""), [long]))
    found = re.search(r'@register_command(?:_group)?\(\s*"([^"]+)"', content)
    if found:
        for node in ast.parse(content).body:
            if isinstance(node, ast.ClassDef) and (said := ast.get_docstring(node)):
                summary, _, long = said.partition("\n\n")
                said = "" if long.lstrip().startswith(":") else long.split("\n:")[0]
                yield from _group(f"az {found[1]}", entry(found[1], summary, [said]))


def read_check(path: Path) -> Iterator[Group]:
    """Yield a check of prowler: what it looks for, the risk, and what to do."""
    check = json.loads(path.read_text(encoding="utf-8"))
    advice = check["Remediation"]["Recommendation"].get("Text", "")
    said = [
        part
        for text in (check["Description"], check.get("Risk", ""), advice)
        for part in paragraphs_of_text(text)
    ]
    yield from _group(check["CheckTitle"], entry("", check["CheckTitle"], said))


def read_translation(path: Path) -> Iterator[Group]:
    """Yield what an integration of Home Assistant says to people, each thing with its name."""
    strings = json.loads(path.read_text(encoding="utf-8"))
    yield from _group(str(path.parent.name), _said(strings))


def read_features(path: Path) -> Iterator[Group]:
    """Yield the features of the web platform."""
    for feature in json.loads(path.read_text(encoding="utf-8"))["features"].values():
        if description := feature.get("description"):
            yield from _group(feature["name"], entry(feature["name"], "", [description]))


def read_resources(path: Path) -> Iterator[Group]:
    """Yield the databases and vocabularies of the Bioregistry, in its own words only."""
    for prefix, resource in json.loads(path.read_text(encoding="utf-8")).items():
        name, description = str(resource.get("name", prefix)), resource.get("description")
        if description:
            yield from _group(name, entry(name, "", paragraphs_of_text(description)))


def read_doxygen(path: Path) -> Iterator[Group]:
    """Yield a class of a reference made by Doxygen: its brief and its detailed description."""
    page = path.read_text(encoding="utf-8", errors="replace")
    name, brief, details = (part.search(page) for part in (_CLASS, _BRIEF, _DETAILS))
    if name and brief:
        summary = " ".join(paragraphs_of_html(brief[1])).strip()
        said = paragraphs_of_html(_ASIDES.sub("", details[1])) if details else []
        said = [part for part in map(str.strip, said) if part]
        said = [part for part in said if not part.startswith("Definition at line")]
        said = said[1:] if said and said[0].split() == summary.split() else said
        yield from _group(f"{name[1]} {summary}", entry(name[1], summary, said))


def _methods(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for resource, what in about.get("resources", {}).items():
        for method, described in what.get("methods", {}).items():
            yield f"{_spaced(method)} {_spaced(resource)}", described.get("description", "")
        yield from _methods(what)


def _said(strings: dict[str, Any]) -> Iterator[Text]:
    """Yield the name with the description of every part, or a message by itself."""
    description, name = strings.get("description"), strings.get("name") or strings.get("title")
    if isinstance(description, str):
        said = _PLACEHOLDER.sub(" ", description)
        name = name if isinstance(name, str) and not _PLACEHOLDER.search(name) else ""
        yield from entry(name, "", paragraphs_of_text(said))
    for part, value in strings.items():
        if isinstance(value, dict):
            yield from _said(value)
        elif part not in ("description", "name", "title") and not _PLACEHOLDER.search(str(value)):
            yield from entry("", str(value), [])


def _spaced(name: str) -> str:
    return _CAMEL.sub(" ", name)


def _group(key: str, texts: Iterator[Text]) -> Iterator[Group]:
    """Yield a thing as one group: by what it says first, as other documents."""
    found = tuple(texts)
    if found:
        yield Group(f"{key} {found[0].text}", found)
