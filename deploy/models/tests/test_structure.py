"""Which modules may know which."""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import embed_models

ROOT = Path(embed_models.__file__).parent
NAME = embed_models.__name__


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path, known: set[str]) -> Iterator[str]:
    """Yield the modules of ours that a file imports anywhere, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                if inner in known or node.module in known:
                    yield inner if inner in known else node.module


def cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Return a way from a node back to itself, or nothing."""
    done: set[str] = set()

    def follow(way: list[str]) -> list[str]:
        for after in sorted(graph.get(way[-1], ())):
            if after in way:
                return [*way[way.index(after) :], after]
            if after not in done and (found := follow([*way, after])):
                return found
        done.add(way[-1])
        return []

    for node in sorted(graph):
        if node not in done and (found := follow([node])):
            return found
    return []


@pytest.fixture(scope="module")
def modules() -> dict[str, set[str]]:
    paths = {module_of(path): path for path in ROOT.rglob("*.py")}
    known = set(paths)
    return {
        name: {other for other in imported(path, known) if other not in (name, NAME)}
        for name, path in paths.items()
    }


def test_cycles_are_found() -> None:
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert cycle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_no_two_modules_import_each_other(modules: dict[str, set[str]]) -> None:
    assert modules[f"{NAME}.cli"], "imports are found at all"
    assert cycle(modules) == []


@pytest.mark.parametrize(("package", "other"), [("corpus", "distill"), ("distill", "corpus")])
def test_what_trains_and_what_measures_do_not_know_each_other(
    modules: dict[str, set[str]], package: str, other: str
) -> None:
    mine = {name: used for name, used in modules.items() if name.startswith(f"{NAME}.{package}.")}
    assert mine
    for name, used in mine.items():
        assert not [one for one in used if one.startswith(f"{NAME}.{other}")], name
