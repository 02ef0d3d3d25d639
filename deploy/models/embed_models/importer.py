"""The steps of an import: checkpoint -> graph, tokenizer, golden vectors -> registry version.

`build` goes further: it quantizes, validates and reports before it publishes.
"""

from dataclasses import dataclass
from pathlib import Path

from embed_models.metadata import Metadata, Pooling
from embed_models.model import Model, Report, from_checkpoint
from embed_models.onnx_import import from_onnx
from embed_models.opening import open_source
from embed_models.registry import METADATA, Registry
from embed_models.timestamp import timestamp


@dataclass(frozen=True)
class ImportRequest:
    """What to import and where to; None means that the checkpoint decides."""

    source: str
    registry: Registry
    version: str
    who: str
    model_name: str | None = None
    model_id: str | None = None
    pooling: Pooling | None = None
    max_seq_length: int | None = None
    license: str | None = None
    # Unit vectors, whatever the checkpoint says.
    normalize: bool = False
    # Smaller numbers of components, beside those that the checkpoint names.
    dimensions: tuple[int, ...] = ()
    make_current: bool = True
    # Only for an ONNX file as the source.
    tokenizer: Path | None = None
    output: str | None = None
    optimize: bool = True


def import_model(request: ImportRequest, report: Report) -> Metadata:
    """Import a model, telling `report` about each step, and return the version's metadata."""
    if request.source.endswith(".onnx"):
        model = from_onnx(
            Path(request.source),
            request.tokenizer,
            report,
            model_name=request.model_name,
            model_id=request.model_id,
            pooling=request.pooling,
            max_seq_length=request.max_seq_length,
            license_name=request.license,
            output=request.output,
            normalize=request.normalize,
            dimensions=request.dimensions,
            optimize=request.optimize,
        )
    else:
        with open_source(
            request.source, model_name=request.model_name, model_id=request.model_id
        ) as source:
            model = from_checkpoint(
                source,
                report,
                pooling=request.pooling,
                max_seq_length=request.max_seq_length,
                license_name=request.license,
                normalize=request.normalize,
                dimensions=request.dimensions,
            )
    registry = request.registry
    registry.check_name(model.slug, model.name)
    now = timestamp()
    with registry.staging(model.slug, request.version) as staged:
        metadata = model.write(staged, version=request.version, now=now, report=report)
        (staged / METADATA).write_text(metadata.to_json(), encoding="utf-8")
        publish_staged(staged, model, request, now, report)
    return metadata


def publish_staged(
    staged: Path, model: Model, request: ImportRequest, now: str, report: Report
) -> None:
    """Move a staged version to its place, and the pointer to it if that is wanted."""
    registry, version = request.registry, request.version
    place = registry.version_dir(model.slug, version)
    if registry.publish(staged, model.slug, version):
        report(f"published {place}")
    else:
        report(f"{place} holds the same content already; left as it is")
    if request.make_current:
        moved = registry.set_current(model.slug, version, who=request.who, when=now)
        verb = "now points" if moved else "already points"
        report(f"current.json of {model.slug} {verb} at {version}")
