"""A model ready to be written: what an import has found out, before any file exists."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embed_models import batch_dependence
from embed_models.arithmetic import Arithmetic
from embed_models.attention import ContribAttention
from embed_models.checkpoint import Checkpoint, read_checkpoint
from embed_models.errors import CheckpointError
from embed_models.golden import TEXTS, golden_json
from embed_models.graph import build_graph, serialize
from embed_models.inference import TextEncoder
from embed_models.limits import check_limits
from embed_models.metadata import Artefact, FileRef, Metadata, Pooling
from embed_models.opening import open_source
from embed_models.recipe import Recipe
from embed_models.registry import GOLDEN, TOKENIZER
from embed_models.slug import slug
from embed_models.sources import Source
from embed_models.space import space_fingerprint
from embed_models.tokenizer import registry_tokenizer

Report = Callable[[str], None]

PRECISION = "fp32"


@dataclass(frozen=True)
class Model:
    """A float32 graph with all that metadata.json says of a version, but for its artefacts."""

    name: str
    slug: str
    model_id: str
    dimension: int
    max_seq_length: int
    pooling: Pooling
    prompts: Mapping[str, str]
    space: str
    license: str | None
    tokenizer: str
    graph: bytes
    form: str
    # None for what came as an ONNX file.
    checkpoint: Checkpoint | None = None
    random_weights: bool = False
    teacher: str | None = None

    def write(self, directory: Path, *, version: str, now: str, report: Report) -> Metadata:
        """Write graph, tokenizer and golden vectors, and return the metadata that fits them."""
        graph = directory / f"{PRECISION}.onnx"
        graph.write_bytes(self.graph)
        tokenizer = directory / TOKENIZER
        tokenizer.write_text(self.tokenizer, encoding="utf-8")
        report(f"wrote {graph.name}: {self.form} form, {len(self.graph)} bytes")
        golden = directory / GOLDEN
        encoder = TextEncoder(graph, tokenizer, self.max_seq_length)
        golden.write_text(golden_json(encoder), encoding="utf-8")
        report(f"computed {golden.name}: {len(TEXTS)} texts")
        artefact = Artefact.of(graph, precision=PRECISION, form=self.form)
        # Our own graphs have nothing of the kind.
        found = None if self.checkpoint else batch_dependence.described(self.graph)
        if found is not None:
            counted = ", ".join(f"{count} {name}" for name, count in found["operators"].items())
            report(
                f"{graph.name} is quantized dynamically ({counted}): its vectors depend on what "
                "is in a run, which metadata.json says; a worker runs it one text at a time"
            )
            artefact = dataclasses.replace(artefact, quantization=found)
        metadata = Metadata(
            model_name=self.name,
            slug=self.slug,
            model_id=self.model_id,
            version=version,
            dimension=self.dimension,
            max_seq_length=self.max_seq_length,
            pooling=self.pooling,
            normalized=True,
            dimensions=[],
            prompts=dict(self.prompts),
            space=self.space,
            tokenizer=FileRef.of(tokenizer),
            golden=FileRef.of(golden),
            artefacts=[artefact],
            license=self.license,
            created_at=now,
            random_weights=self.random_weights,
            teacher=self.teacher,
        )
        return check_limits(metadata)


def from_checkpoint(
    source: Source,
    report: Report,
    *,
    pooling: Pooling | None = None,
    max_seq_length: int | None = None,
    license_name: str | None = None,
) -> Model:
    """Read a checkpoint directory and build its float32 graph."""
    checkpoint = read_checkpoint(source.directory, pooling=pooling, max_seq_length=max_seq_length)
    return model_of(
        checkpoint, source.model_name, source.model_id, report, license_name=license_name
    )


def model_of(
    checkpoint: Checkpoint,
    name: str,
    model_id: str,
    report: Report,
    *,
    license_name: str | None = None,
    prompts: Mapping[str, str] | None = None,
    random_weights: bool = False,
    teacher: str | None = None,
) -> Model:
    """Build the float32 graph of a checkpoint that has been read."""
    config = checkpoint.config
    report(
        f"read {name}: {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"{checkpoint.pooling} pooling, at most {checkpoint.max_seq_length} tokens"
    )
    if not checkpoint.sentence.normalizes:
        report("the checkpoint does not normalise its vectors; the imported model does")
    for setting in ("padding", "truncation"):
        if checkpoint.tokenizer.get(setting):
            report(f"tokenizer.json asks for {setting}; switched off, since the worker does that")
    tokenizer = registry_tokenizer(checkpoint)
    space = space_fingerprint(config, checkpoint.tensors, checkpoint.pooling, tokenizer)
    report(f"embedding space {space}")
    graph = build_graph(config, Arithmetic(checkpoint.tensors), checkpoint.pooling)
    return Model(
        name=name,
        slug=slug(name),
        model_id=model_id,
        dimension=config.hidden_size,
        max_seq_length=checkpoint.max_seq_length,
        pooling=checkpoint.pooling,
        prompts=checkpoint.sentence.prompts if prompts is None else prompts,
        space=space,
        license=license_name or checkpoint.license,
        tokenizer=tokenizer,
        graph=serialize(graph),
        form=ContribAttention.name,
        checkpoint=checkpoint,
        random_weights=random_weights,
        teacher=teacher,
    )


def from_recipe(recipe: Recipe, source: str | None, report: Report) -> Model:
    """Read the checkpoint that a recipe names, or `source` instead, and hold it to the recipe."""
    wanted = source or recipe.source
    if wanted is None:
        raise CheckpointError(
            f"the recipe of {recipe.name} names no source; "
            "give the directory of its checkpoint with --source"
        )
    with open_source(wanted, model_name=recipe.name, model_id=recipe.model_id) as found:
        checkpoint = read_checkpoint(
            found.directory, pooling=recipe.pooling, max_seq_length=recipe.max_seq_length
        )
    for field in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"):
        has, should = getattr(checkpoint.config, field), getattr(recipe.architecture, field)
        if has != should:
            raise CheckpointError(
                f"{wanted} has {field} {has}, but the recipe of {recipe.name} says "
                f"{should}; it is the checkpoint of another model"
            )
    return model_of(
        checkpoint,
        recipe.name,
        recipe.model_id,
        report,
        license_name=recipe.license,
        prompts=dict(recipe.prompts) or None,
        teacher=recipe.teacher.recipe if recipe.teacher else None,
    )
