"""The steps of an import: checkpoint -> graph, tokenizer, golden vectors -> registry version."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from embed_models.arithmetic import Arithmetic
from embed_models.attention import ContribAttention
from embed_models.checkpoint import read_checkpoint
from embed_models.golden import TEXTS, golden_json
from embed_models.graph import build_graph, serialize
from embed_models.inference import TextEncoder
from embed_models.metadata import Artefact, FileRef, Metadata, Pooling
from embed_models.registry import GOLDEN, METADATA, TOKENIZER, Registry
from embed_models.slug import slug
from embed_models.sources import resolve_source
from embed_models.space import space_fingerprint
from embed_models.tokenizer import registry_tokenizer

PRECISION = "fp32"


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
    make_current: bool = True


def import_model(request: ImportRequest, report: Callable[[str], None]) -> Metadata:
    """Import a checkpoint, telling `report` about each step, and return the version's metadata."""
    source = resolve_source(
        request.source, model_name=request.model_name, model_id=request.model_id
    )
    model_slug = slug(source.model_name)
    registry = request.registry
    registry.check_name(model_slug, source.model_name)

    checkpoint = read_checkpoint(
        source.directory, pooling=request.pooling, max_seq_length=request.max_seq_length
    )
    config = checkpoint.config
    report(
        f"read {request.source}: {config.num_hidden_layers} layers, "
        f"hidden size {config.hidden_size}, {checkpoint.pooling} pooling, "
        f"at most {checkpoint.max_seq_length} tokens"
    )
    if not checkpoint.sentence.normalizes:
        report("the checkpoint does not normalise its vectors; the imported model does")
    tokenizer = registry_tokenizer(checkpoint)
    space = space_fingerprint(config, checkpoint.tensors, checkpoint.pooling, tokenizer)
    report(f"embedding space {space}")

    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with registry.staging(model_slug, request.version) as staged:
        model_path = staged / f"{PRECISION}.onnx"
        model = build_graph(config, Arithmetic(checkpoint.tensors), checkpoint.pooling)
        model_path.write_bytes(serialize(model))
        nodes, size = len(model.graph.node), model_path.stat().st_size
        report(
            f"built {model_path.name}: {ContribAttention.name} form, {nodes} nodes, {size} bytes"
        )

        tokenizer_path = staged / TOKENIZER
        tokenizer_path.write_text(tokenizer, encoding="utf-8")
        encoder = TextEncoder(model_path, tokenizer_path, checkpoint.max_seq_length)
        golden_path = staged / GOLDEN
        golden_path.write_text(golden_json(encoder), encoding="utf-8")
        report(f"computed {golden_path.name}: {len(TEXTS)} texts")

        metadata = Metadata(
            model_name=source.model_name,
            slug=model_slug,
            model_id=source.model_id,
            version=request.version,
            dimension=config.hidden_size,
            max_seq_length=checkpoint.max_seq_length,
            pooling=checkpoint.pooling,
            normalized=True,
            dimensions=[],
            prompts=checkpoint.sentence.prompts,
            space=space,
            tokenizer=FileRef.of(tokenizer_path),
            golden=FileRef.of(golden_path),
            artefacts=[
                Artefact.of(model_path, precision=PRECISION, form=ContribAttention.name),
            ],
            license=request.license or checkpoint.license,
            created_at=now,
        )
        (staged / METADATA).write_text(metadata.to_json(), encoding="utf-8")
        published = registry.publish(staged, model_slug, request.version)
    place = registry.version_dir(model_slug, request.version)
    if published:
        report(f"published {place}")
    else:
        report(f"{place} holds the same content already; left as it is")

    if request.make_current:
        moved = registry.set_current(model_slug, request.version, who=request.who, when=now)
        verb = "now points" if moved else "already points"
        report(f"current.json of {model_slug} {verb} at {request.version}")
    return metadata
