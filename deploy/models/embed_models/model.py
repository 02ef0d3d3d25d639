"""A model ready to be written: what an import has found out, before any file exists."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embed_models import batch_dependence
from embed_models.arithmetic import Arithmetic
from embed_models.attention import ContribAttention
from embed_models.checkpoint import Checkpoint, read_checkpoint
from embed_models.errors import CheckpointError
from embed_models.golden import TEXTS, golden_json
from embed_models.graph import build_graph, serialize
from embed_models.head import Head
from embed_models.inference import TextEncoder
from embed_models.json_files import read_object_if_present
from embed_models.limits import check_limits
from embed_models.metadata import Artefact, FileRef, Metadata, Pooling
from embed_models.opening import open_source
from embed_models.recipe import Recipe
from embed_models.registry import GOLDEN, TOKENIZER
from embed_models.rotary import RotaryCheckpoint, is_rotary, read_rotary_checkpoint
from embed_models.rotary_graph import build_rotary_graph
from embed_models.sentence_config import sequence_limit
from embed_models.slug import slug
from embed_models.sources import Source, pinned
from embed_models.space import space_fingerprint
from embed_models.tokenizer import check_ends, registry_tokenizer
from embed_models.weights import WEIGHTS, digests

Report = Callable[[str], None]

PRECISION = "fp32"


@dataclass(frozen=True)
class Model:
    """A graph with all that metadata.json says of a version, but for its artefacts."""

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
    # None for what can only be served as it is: an ONNX file, or an encoder that none is built of.
    checkpoint: Checkpoint | None = None
    normalized: bool = True
    # Smaller numbers of components that a vector may be cut to.
    dimensions: tuple[int, ...] = ()
    default_prompt: str | None = None
    weights: Mapping[str, Any] | None = None
    precision: str = PRECISION
    random_weights: bool = False
    teacher: str | None = None

    def write(self, directory: Path, *, version: str, now: str, report: Report) -> Metadata:
        """Write graph, tokenizer and golden vectors, and return the metadata that fits them."""
        graph = directory / f"{self.precision}.onnx"
        graph.write_bytes(self.graph)
        tokenizer = directory / TOKENIZER
        tokenizer.write_text(self.tokenizer, encoding="utf-8")
        report(f"wrote {graph.name}: {self.form} form, {len(self.graph)} bytes")
        golden = directory / GOLDEN
        encoder = TextEncoder(graph, tokenizer, self.max_seq_length)
        golden.write_text(golden_json(encoder), encoding="utf-8")
        report(f"computed {golden.name}: {len(TEXTS)} texts")
        artefact = Artefact.of(graph, precision=self.precision, form=self.form)
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
            normalized=self.normalized,
            dimensions=list(self.dimensions),
            prompts=dict(self.prompts),
            space=self.space,
            tokenizer=FileRef.of(tokenizer),
            golden=FileRef.of(golden),
            artefacts=[artefact],
            license=self.license,
            created_at=now,
            default_prompt=self.default_prompt,
            weights=dict(self.weights) if self.weights else None,
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
    normalize: bool = False,
    dimensions: Sequence[int] = (),
) -> Model:
    """Read a checkpoint directory and build its float32 graph.

    `normalize` makes unit vectors of whatever the checkpoint says; `dimensions` are the smaller
    numbers of components that it was trained for, beside those that config.json names.
    """
    directory = source.directory
    read = read_rotary_checkpoint if is_rotary(directory) else read_checkpoint
    checkpoint: Checkpoint | RotaryCheckpoint = read(
        directory, pooling=pooling, max_seq_length=max_seq_length
    )
    check_ends(directory, json.dumps(checkpoint.tokenizer))
    said = None if max_seq_length else sequence_limit(directory)
    by = said[1] if said and said[0] == checkpoint.max_seq_length else "config.json"
    longer = f" ({said[1]} says {said[0]})" if said and said[0] > checkpoint.max_seq_length else ""
    report(
        f"texts have at most {checkpoint.max_seq_length} tokens, by "
        f"{'--max-seq-length' if max_seq_length else by}{longer}"
    )
    head = checkpoint.head
    if normalize:
        head = dataclasses.replace(head, normalize=True)
    if not head.normalize:
        report(
            "modules.json has no Normalize: vectors keep their length, as sentence-transformers "
            "would have it; --normalize divides by it"
        )
    elif not checkpoint.sentence.normalizes:
        report("the checkpoint does not normalise its vectors; the imported model does")
    model = model_of(
        checkpoint,
        source.model_name,
        source.model_id,
        report,
        head=head,
        license_name=license_name,
    )
    return dataclasses.replace(
        model,
        dimensions=smaller_dimensions(directory, dimensions, model.dimension),
        weights=_origin(source),
    )


def model_of(
    checkpoint: Checkpoint | RotaryCheckpoint,
    name: str,
    model_id: str,
    report: Report,
    *,
    head: Head | None = None,
    license_name: str | None = None,
    prompts: Mapping[str, str] | None = None,
    random_weights: bool = False,
    teacher: str | None = None,
) -> Model:
    """Build the float32 graph of a checkpoint that has been read.

    Without a `head` the states are pooled, and the vectors have unit length.
    """
    config = checkpoint.config
    head = head or Head(checkpoint.pooling)
    report(
        f"read {name}: {config.num_hidden_layers} layers, hidden size {config.hidden_size}, "
        f"{head.pooling} pooling, at most {checkpoint.max_seq_length} tokens"
    )
    for setting in ("padding", "truncation"):
        if checkpoint.tokenizer.get(setting):
            report(f"tokenizer.json asks for {setting}; switched off, since the worker does that")
    tokenizer = registry_tokenizer(checkpoint)
    default = checkpoint.sentence.default_prompt if prompts is None else None
    prefix = "" if default is None else checkpoint.sentence.prompts[default]
    space = space_fingerprint(config, checkpoint.tensors, head, tokenizer, prefix)
    report(f"embedding space {space}")
    try:
        if isinstance(checkpoint, RotaryCheckpoint):
            graph = serialize(build_rotary_graph(checkpoint.config, checkpoint.tensors, head))
        else:
            arithmetic = Arithmetic(checkpoint.tensors)
            graph = serialize(build_graph(checkpoint.config, arithmetic, head))
    except CheckpointError as error:
        raise CheckpointError(f"{name} in float32: {error}") from error
    if default is not None:
        report(f"texts without a prompt get that of the name {default!r}")
    return Model(
        name=name,
        slug=slug(name),
        model_id=model_id,
        dimension=head.dimension(config.hidden_size),
        max_seq_length=checkpoint.max_seq_length,
        pooling=head.pooling,
        prompts=checkpoint.sentence.prompts if prompts is None else prompts,
        space=space,
        license=license_name or checkpoint.license,
        tokenizer=tokenizer,
        graph=graph,
        form=ContribAttention.name,
        checkpoint=checkpoint if isinstance(checkpoint, Checkpoint) else None,
        normalized=head.normalize,
        default_prompt=default,
        random_weights=random_weights,
        teacher=teacher,
    )


def from_recipe(recipe: Recipe, source: str | None, report: Report) -> Model:
    """Read the checkpoint that a recipe names, or `source` instead, and hold it to the recipe."""
    wanted = source or pinned(recipe.source, recipe.revision)
    if wanted is None:
        raise CheckpointError(
            f"the recipe of {recipe.name} names no source; "
            "give the directory of its checkpoint with --source"
        )
    with open_source(wanted, model_name=recipe.name, model_id=recipe.model_id) as found:
        checkpoint = read_checkpoint(
            found.directory, pooling=recipe.pooling, max_seq_length=recipe.max_seq_length
        )
        check_ends(found.directory, json.dumps(checkpoint.tokenizer))
        weights = _origin(found)
    for field in ("hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size"):
        has, should = getattr(checkpoint.config, field), getattr(recipe.architecture, field)
        if has != should:
            raise CheckpointError(
                f"{wanted} has {field} {has}, but the recipe of {recipe.name} says "
                f"{should}; it is the checkpoint of another model"
            )
    if checkpoint.sentence.dense or checkpoint.config.relative_attention_num_buckets:
        raise CheckpointError(
            f"{wanted} has a Dense module, or a bias of the attention by distance, of which only "
            "float32 graphs can be made; use `embed-models import`"
        )
    _check_weights(recipe, weights["sha256"], wanted, report, given=source is not None)
    model = model_of(
        checkpoint,
        recipe.name,
        recipe.model_id,
        report,
        license_name=recipe.license,
        prompts=dict(recipe.prompts) or None,
        teacher=recipe.teacher.recipe if recipe.teacher else None,
    )
    return dataclasses.replace(model, weights=weights)


def _origin(source: Source) -> dict[str, Any]:
    """Say where weights came from, and the digests of their files."""
    origin: dict[str, Any] = {"source": source.origin}
    if source.revision:
        origin["revision"] = source.revision
    return origin | {"sha256": digests(source.directory / WEIGHTS)}


def _check_weights(
    recipe: Recipe, found: Mapping[str, str], wanted: str, report: Report, *, given: bool
) -> None:
    """Hold the weights to the recipe's digest; those that the caller chose may be others."""
    if recipe.weights_sha256 is None or list(found.values()) == [recipe.weights_sha256]:
        return
    difference = (
        f"the weights of {wanted} have the SHA-256 {', '.join(found.values())}, and the recipe of "
        f"{recipe.name} names {recipe.weights_sha256}"
    )
    if not given:
        raise CheckpointError(
            f"{difference}: they are not those that it was made for; if they are wanted, name them "
            "with --source"
        )
    report(difference)


def smaller_dimensions(directory: Path, given: Sequence[int], dimension: int) -> tuple[int, ...]:
    """Return what vectors may be cut to: by the caller, and by config.json where there is one."""
    path = directory / "config.json"
    value = read_object_if_present(path).get("matryoshka_dimensions") or []
    if not isinstance(value, list) or not all(isinstance(size, int) for size in value):
        raise CheckpointError(f"{path}: matryoshka_dimensions is {value!r} but has to be a list")
    smaller = [*given, *value]
    for size in smaller:
        if not 1 <= size <= dimension:
            raise CheckpointError(
                f"vectors of {dimension} components cannot be cut to {size}; "
                "--dimensions takes smaller numbers"
            )
    return tuple(sorted(set(smaller) - {dimension}, reverse=True))
