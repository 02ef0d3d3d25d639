"""The command line: parses arguments, prints steps and errors to stderr, sets the exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import getpass
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from embed_models.distill import commands as distill
from embed_models.errors import EmbedModelsError, UsageError
from embed_models.importer import ImportRequest, import_model
from embed_models.registry import Registry, check_version
from embed_models.wordnet import sample_items, write_jsonl

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits with 2."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.run
    try:
        command(options)
    except UsageError as error:
        return _fail(error, USAGE)
    except (EmbedModelsError, OSError) as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted", FAILED)
    return DONE


def _report(line: str) -> None:
    print(line, file=sys.stderr)


def _fail(error: object, code: int) -> int:
    _report(f"embed-models: error: {error}")
    return code


def _import(options: argparse.Namespace) -> None:
    metadata = import_model(
        ImportRequest(
            source=options.source,
            registry=Registry(options.registry),
            version=check_version(options.version),
            who=_user(),
            model_name=options.name,
            model_id=options.model_id,
            pooling=options.pooling,
            max_seq_length=options.max_seq_length,
            license=options.license,
            make_current=not options.no_current,
        ),
        _report,
    )
    _report(f"imported {metadata.model_name} {metadata.version} as {metadata.slug}")


def _sample_wordnet(options: argparse.Namespace) -> None:
    items = sample_items(options.dict, count=options.count, seed=options.seed)
    write_jsonl(items, options.out)
    _report(f"wrote {len(items)} texts to {options.out}")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        # A container may run under a user id that has no name.
        return "unknown"


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


# argparse names the type in its message: "invalid positive integer value: '0'".
_positive.__name__ = "positive integer"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="embed-models", description="Offline model pipeline of akidb-embed."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    importer = commands.add_parser(
        "import",
        help="import a BERT checkpoint into a registry directory",
        description="Import a Hugging Face BERT checkpoint as a version in a registry directory.",
    )
    importer.set_defaults(run=_import)
    importer.add_argument(
        "source",
        metavar="SOURCE",
        help="a checkpoint directory, or package:NAME for one inside an installed Python package",
    )
    importer.add_argument("--registry", type=Path, required=True, metavar="DIR")
    importer.add_argument("--name", help="model name (default: from the model id or the source)")
    importer.add_argument("--model-id", help="where the model comes from (default: the source)")
    importer.add_argument("--version", default="v1.0.0", help="default: %(default)s")
    importer.add_argument(
        "--pooling", choices=("mean", "cls"), help="default: from 1_Pooling/config.json"
    )
    importer.add_argument(
        "--max-seq-length",
        type=_positive,
        metavar="N",
        help="default: from sentence_bert_config.json, else max_position_embeddings",
    )
    importer.add_argument("--license", help="default: from the front matter of README.md")
    importer.add_argument(
        "--no-current", action="store_true", help="publish without moving current.json"
    )

    sampler = commands.add_parser(
        "sample-wordnet",
        help="draw a reproducible sample of English texts from WordNet",
        description="Draw a reproducible sample of example sentences and definitions from WordNet.",
    )
    sampler.set_defaults(run=_sample_wordnet)
    sampler.add_argument(
        "--dict", type=Path, required=True, metavar="DIR", help="directory with data.noun etc."
    )
    sampler.add_argument("--count", type=_positive, default=2000, help="default: %(default)s")
    sampler.add_argument("--seed", type=int, default=1, help="default: %(default)s")
    sampler.add_argument("--out", type=Path, required=True, metavar="FILE")

    distill.add_commands(commands, _report)
    return parser
