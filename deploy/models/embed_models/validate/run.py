"""Validates a version: embeds held-out text with each artefact and compares with float32."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embed_models.attention import PackedAttention, PlainAttention
from embed_models.corpus.load import ByKind, HeldOut
from embed_models.errors import ValidationError
from embed_models.golden import decode_vector
from embed_models.inference import cpu_session, embed_sequences
from embed_models.kernel_parts import check_kernels, take_apart
from embed_models.kernels import KernelForm
from embed_models.kinds import KINDS, REFERENCE
from embed_models.metadata import Artefact, FileRef, Metadata
from embed_models.packing import STRUCTURE_ONLY, check_packed, unpack
from embed_models.progress import tenths
from embed_models.prompts import default_prompt, document_prompt, query_prompt
from embed_models.tokenizer import load_tokenizer
from embed_models.validate import speed
from embed_models.validate.agreement import agreement, cosines
from embed_models.validate.claims import UNMEASURED, accuracy_loss, not_run
from embed_models.validate.invariance import batch_difference
from embed_models.validate.kinds import by_kind
from embed_models.validate.lee import LeeDocuments, lee_documents
from embed_models.validate.retrieval import Retrieval, retrieve
from embed_models.validate.tensorrt import refuse_for_tensorrt

Report = Callable[[str], None]


@dataclass(frozen=True)
class Vectors:
    """What one graph makes of the held-out text."""

    held_out: NDArray[np.float32]
    golden: NDArray[np.float32]
    lee: NDArray[np.float32] | None
    # Only of graphs that lose something worth telling apart.
    by_kind: NDArray[np.float32] | None
    retrieval: Retrieval
    batch_difference: float


class Validator:
    """Embeds the same texts with one graph after the other."""

    def __init__(
        self,
        directory: Path,
        metadata: Metadata,
        held_out: HeldOut,
        kinds: ByKind | None,
        *,
        threads: int,
    ) -> None:
        self._directory = directory
        self._threads = threads
        self._held_out = held_out
        path = directory / metadata.tokenizer.file
        tokenizer = load_tokenizer(path.read_text(encoding="utf-8"))
        tokenizer.enable_truncation(metadata.max_seq_length)

        def ids(texts: Sequence[str]) -> list[list[int]]:
            return [encoding.ids for encoding in tokenizer.encode_batch(list(texts))]

        # Each kind of text gets its prompt, as a caller would ask for it or a worker would add it.
        usual, query, document = (
            find(metadata) for find in (default_prompt, query_prompt, document_prompt)
        )
        self.sequences = ids(
            [
                *(usual + text for text in held_out.sentences),
                *(query + text for text in held_out.queries),
                *(document + text for text in held_out.documents),
            ]
        )
        golden = json.loads((directory / metadata.golden.file).read_text(encoding="utf-8"))
        self._golden = ids([item["text"] for item in golden["items"]])
        self.golden_vectors = np.stack(
            [decode_vector(item["vector_f32_base64"]) for item in golden["items"]]
        )
        self.lee: LeeDocuments | None = lee_documents()
        self._lee = ids([usual + text for text in self.lee.documents]) if self.lee else []
        self.kinds = kinds
        self._kinds = ids([usual + item.text for item in kinds.items]) if kinds else []

    def embed(
        self,
        graph: Path | bytes,
        name: str,
        *,
        as_written: bool,
        by_kind: bool = False,
        report: Report,
    ) -> Vectors:
        """Embed everything with one graph."""
        session = cpu_session(graph, threads=self._threads, as_written=as_written)
        progress = tenths(report, f"{name}: embedded, texts", len(self.sequences))
        vectors = embed_sequences(session, self.sequences, progress)
        first = len(self._held_out.sentences)
        second = first + len(self._held_out.queries)
        return Vectors(
            held_out=vectors,
            # One by one, as a worker does before it serves a version.
            golden=np.concatenate([embed_sequences(session, [ids]) for ids in self._golden]),
            lee=embed_sequences(session, self._lee) if self._lee else None,
            by_kind=embed_sequences(session, self._kinds) if by_kind and self._kinds else None,
            retrieval=retrieve(vectors[first:second], vectors[second:]),
            batch_difference=batch_difference(session, self.sequences[:: max(1, first // 16)]),
        )


def validate_version(
    directory: Path,
    metadata: Metadata,
    held_out: HeldOut,
    *,
    kinds: ByKind | None = None,
    threads: int,
    vocabulary: int,
    report: Report,
    teacher: bytes | None = None,
) -> Metadata:
    """Return the metadata with `validation` and `performance` as measured now."""
    if metadata.random_weights:
        raise ValidationError(
            f"{metadata.model_name} has random weights: its vectors mean nothing, so there is "
            "nothing to validate. It serves to try out speed and plumbing"
        )
    check_files(directory, metadata)
    validator = Validator(directory, metadata, held_out, kinds, threads=threads)
    reference: Vectors | None = None
    validated: list[Artefact] = []
    for artefact in metadata.artefacts:
        name = artefact.file.removesuffix(".onnx")
        as_written = artefact.form == PlainAttention.name and artefact.quantization is not None
        graph: Path | bytes = directory / artefact.file
        packed = artefact.form == PackedAttention.name
        if packed:
            graph = _unpacked(directory, artefact, metadata)
        elif artefact.form == KernelForm.name:
            graph = _taken_apart(directory, artefact, metadata)
        if artefact.form == PlainAttention.name:
            refuse_for_tensorrt(directory / artefact.file)
        vectors = validator.embed(
            graph,
            name,
            as_written=as_written,
            by_kind=reference is None or artefact.quantization is not None,
            report=report,
        )
        reference = reference or vectors
        result = _compare(vectors, reference, validator, held_out)
        if packed or artefact.form == KernelForm.name:
            result["packing"] = STRUCTURE_ONLY
        result["size_ratio"] = round(artefact.bytes / metadata.artefacts[0].bytes, 4)
        result["not_run"] = not_run(artefact)
        quantization = artefact.quantization
        if quantization is not None:
            loss = accuracy_loss(result["cosine_similarity_vs_fp32"])
            quantization = quantization | {"accuracy_loss": loss}
        validated.append(
            dataclasses.replace(artefact, quantization=quantization, validation=result)
        )
        report(
            f"{name}: cosine mean {result['cosine_similarity_vs_fp32']:.5f}, "
            f"min {result['cosine_min']:.4f}, recall@1 {result['recall_at_1']:.3f}, "
            f"top-10 overlap {result['top10_overlap']:.3f}: {result['verdict']}"
        )
    if teacher is not None and reference is not None:
        taught = validator.embed(teacher, "teacher", as_written=False, by_kind=True, report=report)
        known = len(held_out.sentences)
        validated[0] = _with_teacher(validated[0], reference, taught, known, report)
    measured = _with_speed(directory, validated, vocabulary, teacher, report)
    return dataclasses.replace(metadata, artefacts=measured)


def _unpacked(directory: Path, artefact: Artefact, metadata: Metadata) -> bytes:
    """Check a packed graph as far as a CPU goes, and return it with its packing taken out."""
    content = (directory / artefact.file).read_bytes()
    exact = (directory / metadata.artefacts[0].file).read_bytes()
    check_packed(content, exact, artefact.file)
    return unpack(content, artefact.file)


def _taken_apart(directory: Path, artefact: Artefact, metadata: Metadata) -> bytes:
    """Check a graph of the worker's own operators, and return it in those that a CPU has."""
    content = (directory / artefact.file).read_bytes()
    exact = (directory / metadata.artefacts[0].file).read_bytes()
    check_kernels(content, exact, artefact.file)
    return take_apart(content, artefact.file)


def check_files(directory: Path, metadata: Metadata) -> None:
    """Refuse a directory whose files are not those that its metadata describes."""
    files: list[FileRef | Artefact] = [metadata.tokenizer, metadata.golden, *metadata.artefacts]
    for file in files:
        path = directory / file.file
        if not path.is_file():
            raise ValidationError(f"{path} is missing, but metadata.json lists it; make it again")
        if FileRef.of(path).sha256 != file.sha256:
            raise ValidationError(
                f"{path} is not the file that metadata.json describes (its SHA-256 differs); "
                "make the version again"
            )


def _compare(
    vectors: Vectors, reference: Vectors, validator: Validator, held_out: HeldOut
) -> dict[str, Any]:
    found, wanted = vectors.retrieval, reference.retrieval
    result = agreement(vectors.held_out, reference.held_out).to_json()
    golden = cosines(vectors.golden, validator.golden_vectors)
    result |= {
        # By these a worker tells whether a graph runs as it was validated.
        "golden_cosine_min": round(float(golden.min()), 6),
        "golden_cosine_mean": round(float(golden.mean()), 6),
        "recall_at_1": round(found.recall_at_1, 4),
        "recall_at_10": round(found.recall_at_10, 4),
        "recall_at_k": round(found.recall_at_10, 4),
        "k": 10,
        "mrr_at_10": round(found.mrr_at_10, 4),
        "recall_at_1_ratio": round(found.recall_at_1 / max(wanted.recall_at_1, 1e-9), 4),
        "top10_overlap": round(found.overlap(wanted), 4),
        "batch_difference": float(f"{vectors.batch_difference:.3g}"),
        "test_dataset": held_out.name,
        "test_sha256": held_out.sha256,
        "test_texts": len(vectors.held_out),
        "test_queries": len(held_out.queries),
    }
    if validator.lee and vectors.lee is not None:
        result["human_similarity_pearson"] = round(validator.lee.correlation(vectors.lee), 4)
    if (
        validator.kinds is not None
        and vectors is not reference
        and vectors.by_kind is not None
        and reference.by_kind is not None
    ):
        result["by_kind"] = by_kind(validator.kinds, vectors.by_kind, reference.by_kind)
    return result


def _with_teacher(
    artefact: Artefact, mine: Vectors, teacher: Vectors, known: int, report: Report
) -> Artefact:
    """Compare with the teacher, on all texts but the first `known` ones of the held-out set.

    Those are sentences of WordNet, and students are trained on others of it.
    """
    close = agreement(_unknown(mine, known), _unknown(teacher, known))
    ratio = mine.retrieval.recall_at_1 / max(teacher.retrieval.recall_at_1, 1e-9)
    comparison = {
        "cosine_similarity_vs_teacher": round(close.mean, 6),
        "cosine_min_vs_teacher": round(close.minimum, 6),
        "teacher_recall_at_1": round(teacher.retrieval.recall_at_1, 4),
        "recall_at_1_ratio_to_teacher": round(ratio, 4),
        "top10_overlap_with_teacher": round(mine.retrieval.overlap(teacher.retrieval), 4),
        "texts_vs_teacher": len(_unknown(mine, known)),
    }
    report(
        f"against the teacher: cosine mean {close.mean:.4f}, min {close.minimum:.4f}, recall@1 "
        f"{mine.retrieval.recall_at_1:.3f} of {teacher.retrieval.recall_at_1:.3f} ({ratio:.1%})"
    )
    return dataclasses.replace(artefact, validation=(artefact.validation or {}) | comparison)


def _unknown(vectors: Vectors, known: int) -> NDArray[np.float32]:
    parts = [vectors.held_out[known:], vectors.by_kind]
    return np.concatenate([part for part in parts if part is not None])


def _with_speed(
    directory: Path,
    artefacts: Sequence[Artefact],
    vocabulary: int,
    teacher: bytes | None,
    report: Report,
) -> list[Artefact]:
    graphs: dict[str, Path | bytes] = {
        artefact.file: directory / artefact.file
        for artefact in artefacts
        if any(kind.for_cpu and kind.file == artefact.file for kind in KINDS.values())
    }
    if teacher is not None:
        graphs["teacher"] = teacher
    speeds = speed.measure(graphs, vocabulary=vocabulary, report=report)
    exact = speeds[KINDS[REFERENCE].file][speed.JUDGED]
    measured = []
    for artefact in artefacts:
        performance = UNMEASURED
        if artefact.file in speeds:
            performance = UNMEASURED | speed.to_json(speeds[artefact.file])
            mine = speeds[artefact.file][speed.JUDGED]
            performance["speedup_vs_fp32"] = round(mine.ratio_to(exact), 2)
            performance["integer_instructions"] = speed.has_integer_instructions()
            if teacher is not None:
                taught = speeds["teacher"][speed.JUDGED]
                performance["speedup_vs_teacher_fp32"] = round(mine.ratio_to(taught), 2)
            of = ", ".join(f"{k} {v}" for k, v in performance.items() if k.startswith("speedup"))
            report(f"{artefact.file}: {of}, in CPU time, round by round")
        measured.append(dataclasses.replace(artefact, performance=performance))
    return measured
