"""The steps of making a version in a directory: quantize, validate, report, publish.

`embed-models build` takes all of them inside the registry's staging directory; the single commands
take one each on a working directory, which looks like a version that is not published yet.
"""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from embed_models.arithmetic import Arithmetic
from embed_models.corpus.load import (
    BY_KIND,
    CALIBRATION,
    HELD_OUT,
    ByKind,
    HeldOut,
    data_dir,
    read_by_kind,
    read_held_out,
    read_texts,
)
from embed_models.errors import RegistryError, UsageError, ValidationError
from embed_models.graph import build_graph, serialize
from embed_models.metadata import Metadata
from embed_models.model import Model, from_recipe
from embed_models.quantize.run import Settings, quantize_version
from embed_models.recipe import Recipe, load_recipe, parse_recipe
from embed_models.registry import METADATA, Registry
from embed_models.report.run import write_report
from embed_models.timestamp import timestamp
from embed_models.twin import TwinSettings, twin_model
from embed_models.validate.run import check_files, validate_version
from embed_models.validate.thresholds import missed, unjudged

Report = Callable[[str], None]

# Kept with the version: what it was held to.
RECIPE = "recipe.toml"

# Random weights need no more than plausible ranges.
_TWIN_TEXTS = 200
# Room for the artefacts, relative to the float32 weights: four graphs of half, four of a quarter or
# a little more, and as much again for the reports and what the file system takes.
_ROOM = 6


@dataclass(frozen=True)
class Options:
    """What all steps take from the command line."""

    threads: int = 2
    calibration: Path = dataclasses.field(default_factory=lambda: data_dir() / CALIBRATION)
    held_out: Path = dataclasses.field(default_factory=lambda: data_dir() / HELD_OUT)
    kinds: Path = dataclasses.field(default_factory=lambda: data_dir() / BY_KIND)
    dynamic_int8: bool = False
    # A smaller held-out set, for a quick look; None: all of it.
    held_out_texts: int | None = None

    def read_held_out(self) -> HeldOut:
        held_out = read_held_out(self.held_out)
        return held_out if self.held_out_texts is None else held_out.first(self.held_out_texts)

    def read_kinds(self) -> ByKind:
        kinds = read_by_kind(self.kinds)
        if self.held_out_texts is None:
            return kinds
        return kinds.first(max(1, self.held_out_texts // 50))


@dataclass(frozen=True)
class Target:
    """Where a version is published to."""

    registry: Registry
    version: str
    who: str
    make_current: bool = True


def build(
    recipe: Recipe, source: str | None, target: Target, options: Options, report: Report
) -> Metadata:
    """Go all the way from a checkpoint to a published version, or leave the registry as it was."""
    _check_inputs(options)
    model = from_recipe(recipe, source, report)
    return _make(recipe, model, target, options, report)


def make_twin(
    recipe: Recipe, settings: TwinSettings, target: Target, options: Options, report: Report
) -> Metadata:
    """Publish a model of the recipe's shape with random weights, marked as such."""
    return _make(recipe, twin_model(recipe, settings, report), target, options, report)


def quantize(
    recipe: Recipe, source: str | None, out: Path, options: Options, report: Report
) -> Metadata:
    """Write an unpublished version into a directory of its own."""
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; give a new directory with --work")
    _check_inputs(options)
    model = from_recipe(recipe, source, report)
    out.mkdir(parents=True, exist_ok=True)
    return _write(recipe, model, out, recipe.version, options, report)


def validate(directory: Path, options: Options, report: Report) -> list[str]:
    """Measure a version; write the result into it unless it is published.

    Returns what it misses of its recipe, and tells `report` what could not be judged here.
    """
    metadata, recipe = read_version(directory)
    metadata = _validated(directory, metadata, recipe, options, report)
    if is_published(directory):
        report(f"{directory} is published and never changes; its metadata.json stays as it is")
    else:
        _write_metadata(directory, metadata)
        write_report(directory, metadata, recipe)
    for sentence in unjudged(recipe, metadata):
        report(f"not judged: {sentence}")
    return missed(recipe, metadata)


def publish(directory: Path, target: Target, report: Report) -> Metadata:
    """Copy a validated working directory into the registry."""
    metadata, recipe = read_version(directory)
    metadata = dataclasses.replace(metadata, version=target.version)
    check_files(directory, metadata)
    _refuse_below_thresholds(recipe, metadata)
    registry = target.registry
    registry.check_name(metadata.slug, metadata.model_name)
    with registry.staging(metadata.slug, target.version) as staged:
        for path in sorted(directory.iterdir()):
            if path.is_file() and not path.name.startswith("."):
                shutil.copyfile(path, staged / path.name)
        _write_metadata(staged, metadata)
        _publish(staged, metadata, target, report)
    return metadata


def read_version(directory: Path) -> tuple[Metadata, Recipe]:
    """Read a version's metadata and the recipe that it was made by."""
    metadata = Metadata.read(directory / METADATA)
    path = directory / RECIPE
    if not path.is_file():
        raise ValidationError(
            f"{directory} has no {RECIPE}: it was imported and not built, so nothing says how good "
            "it has to be; make it with `embed-models build`"
        )
    return metadata, parse_recipe(path.read_text(encoding="utf-8"), str(path))


def is_published(directory: Path) -> bool:
    """Say whether a directory is a version in a registry: models/<slug>/<version>."""
    place = directory.resolve()
    return place.parent.parent.name == "models" and not place.name.startswith(".")


def _check_inputs(options: Options) -> None:
    """Find out about missing or empty texts before minutes of work."""
    read_texts(options.calibration)
    options.read_held_out()
    options.read_kinds()


def _make(
    recipe: Recipe, model: Model, target: Target, options: Options, report: Report
) -> Metadata:
    registry = target.registry
    registry.check_name(model.slug, model.name)
    place = registry.version_dir(model.slug, target.version)
    if place.exists():
        raise RegistryError(
            f"{place} is published, and a published version never changes; "
            "give a new one with --version"
        )
    with registry.staging(model.slug, target.version) as staged:
        _check_room(staged, len(model.graph))
        metadata = _write(recipe, model, staged, target.version, options, report)
        if not model.random_weights:
            metadata = _validated(staged, metadata, recipe, options, report)
        _write_metadata(staged, metadata)
        write_report(staged, metadata, recipe)
        _refuse_below_thresholds(recipe, metadata)
        for sentence in unjudged(recipe, metadata):
            report(f"not judged: {sentence}")
        _publish(staged, metadata, target, report)
    return metadata


def _write(
    recipe: Recipe, model: Model, out: Path, version: str, options: Options, report: Report
) -> Metadata:
    if model.checkpoint is None:
        raise UsageError("an ONNX file can be imported, but only a checkpoint can be quantized")
    metadata = model.write(out, version=version, now=timestamp(), report=report)
    texts = read_texts(options.calibration)
    if model.random_weights:
        texts = dataclasses.replace(texts, items=texts.items[:_TWIN_TEXTS])
    settings = Settings(texts, options.threads, dynamic_int8=options.dynamic_int8)
    metadata = quantize_version(out, metadata, model.checkpoint, recipe, settings, report)
    (out / RECIPE).write_text(recipe.text, encoding="utf-8")
    _write_metadata(out, metadata)
    return metadata


def _validated(
    directory: Path, metadata: Metadata, recipe: Recipe, options: Options, report: Report
) -> Metadata:
    return validate_version(
        directory,
        metadata,
        options.read_held_out(),
        kinds=options.read_kinds(),
        threads=options.threads,
        vocabulary=recipe.architecture.vocab_size,
        teacher=_teacher_graph(recipe, report),
        report=report,
    )


def _teacher_graph(recipe: Recipe, report: Report) -> bytes | None:
    if recipe.teacher is None:
        return None
    model = from_recipe(load_recipe(recipe.teacher.recipe), None, report)
    if model.checkpoint is None:
        return None
    checkpoint = model.checkpoint
    arithmetic = Arithmetic(checkpoint.tensors)
    return serialize(build_graph(checkpoint.config, arithmetic, checkpoint.pooling))


def _refuse_below_thresholds(recipe: Recipe, metadata: Metadata) -> None:
    sentences = missed(recipe, metadata)
    if sentences:
        raise ValidationError(
            f"{metadata.model_name} {metadata.version} misses what its recipe asks for and is not "
            "published:\n  " + "\n  ".join(sentences)
        )


def _publish(staged: Path, metadata: Metadata, target: Target, report: Report) -> None:
    registry = target.registry
    place = registry.version_dir(metadata.slug, target.version)
    if registry.publish(staged, metadata.slug, target.version):
        report(f"published {place}")
    else:
        report(f"{place} holds the same content already; left as it is")
    if target.make_current:
        registry.set_current(metadata.slug, target.version, who=target.who, when=timestamp())
        report(f"current.json of {metadata.slug} points at {target.version}")


def _write_metadata(directory: Path, metadata: Metadata) -> None:
    (directory / METADATA).write_text(metadata.to_json(), encoding="utf-8")


def _check_room(directory: Path, graph: int) -> None:
    free, needed = shutil.disk_usage(directory).free, graph * _ROOM
    if free < needed:
        raise RegistryError(
            f"{directory} has {free / 1e6:.0f} MB left on its disk, and this build needs about "
            f"{needed / 1e6:.0f} MB; make room, or give a --registry on another disk"
        )
