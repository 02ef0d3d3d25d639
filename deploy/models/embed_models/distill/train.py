"""Trains the 3-layer student: `python -m embed_models.distill.train --help`. Needs torch.

The teacher runs beside the student, so that every batch can be of texts never seen before. Batches
depend on the seed alone; the result also depends on the GPU, on torch, and on how many steps fit
into the time that is given.
"""

import argparse
import json
import math
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from embed_models.checkpoint import BertConfig, read_config, read_tensors
from embed_models.distill.batches import (
    DOCUMENT,
    QUERY,
    Sampler,
    build_corpus,
    special_token,
    tokenize,
)
from embed_models.distill.corpus import HELD_OUT, TRAIN, read_rows
from embed_models.distill.encoder import Layer, Weights, bert_layer, embed_tokens, encode
from embed_models.distill.evaluation import Vectors, choose, compare, tested
from embed_models.distill.objective import Weighting, objective, retrieval
from embed_models.distill.pairs import pairs
from embed_models.distill.student import rounded_words, save_layers
from embed_models.errors import UsageError

TEACHER_LAYERS = (0, 4, 5)
TEACHER = "sentence-transformers/all-MiniLM-L6-v2"
MAX_SEQ_LENGTH = 256

_EVALUATED_TOKENS = 32768
_WARM_UP, _CLIP = 0.03, 1.0
_SAVED_EVERY_S = 60.0


@dataclass(frozen=True)
class Run:
    """What the steps of a training need."""

    config: BertConfig
    teacher: Weights
    student: Weights
    sampler: Sampler
    weighting: Weighting
    dtype: torch.dtype
    layer: Layer


def main() -> None:
    """Train until the time is up; write layers.safetensors and log.jsonl."""
    parser = _parser()
    options = parser.parse_args()
    if problem := _problem(options):
        parser.error(problem)
    options.out.mkdir(parents=True, exist_ok=True)
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    # The teacher's float32 products in the evaluation; tf32 would cost 1e-3 of accuracy.
    torch.set_float32_matmul_precision("highest")
    with (options.out / "log.jsonl").open("w", encoding="utf-8") as file:

        def log(**fields: Any) -> None:
            line = json.dumps(fields)
            print(line, file=file, flush=True)
            print(line, file=sys.stderr, flush=True)

        _train(options, device, log)


def _problem(options: argparse.Namespace) -> str | None:
    """Return what is wrong with options that only make sense together."""
    weighted = options.ranking > 0 or options.found > 0
    if weighted and not options.pairs:
        return "--ranking and --found are of pairs alone: give --pairs a share of the batches"
    if options.pairs and not weighted:
        return "--pairs has no effect without --ranking or --found"
    if options.pairs and options.batch_tokens < QUERY + DOCUMENT:
        return f"--batch-tokens: a pair has {QUERY + DOCUMENT} tokens"
    return None


def _train(options: argparse.Namespace, device: torch.device, log: Callable[..., None]) -> None:
    began = time.monotonic()
    config = read_config(options.teacher / "config.json")
    stored = read_tensors(options.teacher / "model.safetensors", config)
    teacher = {name: torch.from_numpy(tensor.copy()).to(device) for name, tensor in stored.items()}
    words = {name: torch.from_numpy(w).to(device) for name, w in rounded_words(stored).items()}
    student = _start(teacher, words, options.resume, device)
    tokenizer = Tokenizer.from_file(str(options.teacher / "tokenizer.json"))
    rows = read_rows(options.data / TRAIN)
    texts = [row.text for row in rows]
    corpus = build_corpus(texts, tokenizer, device, pairs(rows) if options.pairs else ())
    if options.pairs and not corpus.has_pairs:
        raise UsageError("--pairs: the texts of --data have too few pairs")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    run = Run(
        config,
        teacher,
        student,
        Sampler(corpus, options.batch_tokens, options.seed),
        Weighting(options.similarity, options.states, options.ranking, options.found),
        dtype,
        torch.compile(bert_layer, dynamic=True) if options.compile else bert_layer,
    )
    evaluate = _evaluation(options, run, tokenizer, corpus.pad)
    log(
        event="start",
        settings={
            name: value for name, value in vars(options).items() if not isinstance(value, Path)
        }
        | {"resume": options.resume and sha256(options.resume.read_bytes()).hexdigest()},
        torch=torch.__version__,
        device=torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        texts=len(texts),
        tokens=len(corpus.ids),
        pairs=len(corpus.pairs),
        seconds=round(time.monotonic() - began, 1),
    )
    log(event="held-out", step=0, **evaluate())
    layers = {name: weight for name, weight in student.items() if weight.requires_grad}

    def save() -> None:
        arrays = {name: weight.detach().cpu().numpy() for name, weight in layers.items()}
        path = options.out / "layers.safetensors"
        save_layers(arrays, path, teacher=TEACHER, embeddings=stored)

    for entry in _steps(run, options, layers, deadline=began + options.max_seconds):
        if entry.pop("save", False):
            save()
            log(event="held-out", step=entry["step"], **evaluate())
        log(event="step", seconds=round(time.monotonic() - began, 1), **entry)
    save()
    log(event="held-out", step="end", seconds=round(time.monotonic() - began, 1), **evaluate())
    with torch.no_grad():
        for weight in layers.values():
            weight.copy_(weight.half().float())
    log(event="held-out", step="end, stored as float16", **evaluate())


def _start(teacher: Weights, words: Weights, resume: Path | None, device: torch.device) -> Weights:
    """Return the student: the teacher's embeddings but for `words`, and three layers to train."""
    student = {name: w for name, w in teacher.items() if name.startswith("embeddings.")} | words
    for to, origin in enumerate(TEACHER_LAYERS):
        prefix = f"encoder.layer.{origin}."
        for name, weight in teacher.items():
            if name.startswith(prefix):
                student[f"encoder.layer.{to}.{name.removeprefix(prefix)}"] = weight.clone()
    if resume is not None:
        from safetensors.torch import load_file

        student |= {name: w.float().to(device) for name, w in load_file(resume).items()}
    for name, weight in student.items():
        weight.requires_grad_(name.startswith("encoder."))
    return student


def _steps(
    run: Run, options: argparse.Namespace, layers: Weights, *, deadline: float
) -> Iterator[dict[str, Any]]:
    """Train, and yield what to log every so many steps; the schedule ends at the deadline."""
    began = saved = time.monotonic()
    optimizers = _optimizers(layers, options)
    step, sequences, progress = 0, 0, 0.0
    parts_of_steps = defaultdict[str, list[Tensor]](list)
    while progress < 1.0 and step < options.max_steps:
        # By time or by steps, whichever ends first. The clock is the CPU's, which runs ahead of the
        # GPU by no more than `log_every` steps: there it waits for the means.
        progress = max(
            (time.monotonic() - began) / max(deadline - began, 1e-3), step / options.max_steps
        )
        rate = _rate(progress)
        for optimizer, peak in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * rate
        parts, size = _step(run, layers, [optimizer for optimizer, _ in optimizers], options.pairs)
        step, sequences = step + 1, sequences + size
        for name, value in parts.items():
            parts_of_steps[name].append(value.detach())
        if step % options.log_every == 0:
            now = time.monotonic()
            entry: dict[str, Any] = {"step": step, "sequences": sequences, "rate": round(rate, 4)}
            entry |= {
                name: round(torch.stack(values).mean().item(), 5)
                for name, values in parts_of_steps.items()
            }
            parts_of_steps.clear()
            if now - saved > _SAVED_EVERY_S:
                entry["save"], saved = True, now
            yield entry


def _rate(progress: float) -> float:
    if progress < _WARM_UP:
        return progress / _WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - _WARM_UP) / (1 - _WARM_UP))))


def _step(
    run: Run, layers: Weights, optimizers: list[Any], share: float
) -> tuple[dict[str, Tensor], int]:
    """Train on one batch; return what is logged of its loss, and its number of sequences.

    Of an ordinary batch the parts of its loss; of pairs what they add to it, and all of theirs as
    `pairs_loss`: that of their texts, queries and documents by halves, and what they add.
    """
    batches = run.sampler.pairs() if run.sampler.is_pairs(share) else (run.sampler.batch(),)
    encoded = [_encode(run, ids, mask) for ids, mask in batches]
    objectives = [
        objective(got, wanted, mask, run.weighting)
        for (got, wanted), (_, mask) in zip(encoded, batches, strict=True)
    ]
    if len(encoded) == 1:
        parts = objectives[0]
        loss = parts["loss"]
    else:
        (query, wanted_query), (document, wanted_document) = encoded
        wanted = wanted_query[0], wanted_document[0]
        parts = retrieval(query[0], document[0], wanted, run.weighting)
        loss = (objectives[0]["loss"] + objectives[1]["loss"]) / 2 + parts["retrieval"]
        parts["pairs_loss"] = loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(list(layers.values()), _CLIP)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return parts, sum(len(ids) for ids, _ in batches)


def _encode(
    run: Run, ids: Tensor, mask: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Return (vectors, last states) of the student, and the teacher's."""
    with torch.no_grad():
        embedded = embed_tokens(run.teacher, run.config, ids)
        # float16 keeps three more bits of the teacher's vectors than bfloat16.
        half = torch.float16 if run.dtype is torch.bfloat16 else run.dtype
        count = run.config.num_hidden_layers
        wanted = encode(run.teacher, run.config, count, embedded.to(half), mask, run.layer)
        embedded = embed_tokens(run.student, run.config, ids).to(run.dtype)
    got = encode(run.student, run.config, len(TEACHER_LAYERS), embedded, mask, run.layer)
    return got, wanted


def _optimizers(layers: Weights, options: argparse.Namespace) -> list[tuple[Any, float]]:
    """Return optimizers with their peak learning rates."""
    fused = next(iter(layers.values())).is_cuda
    matrices = [weight for weight in layers.values() if weight.ndim == 2]
    others = [weight for weight in layers.values() if weight.ndim != 2]
    adam = {"betas": (0.9, 0.98), "fused": fused}
    if options.optimizer == "adamw":
        groups = [
            {"params": matrices, "weight_decay": 0.01},
            {"params": others, "weight_decay": 0.0},
        ]
        return [(torch.optim.AdamW(groups, lr=options.lr, **adam), options.lr)]
    muon = torch.optim.Muon(
        matrices, lr=options.lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(others, lr=options.lr, weight_decay=0.0, **adam)
    return [(muon, options.lr), (adamw, options.lr)]


def _evaluation(
    options: argparse.Namespace, run: Run, tokenizer: Tokenizer, pad: int
) -> Callable[[], dict[str, float]]:
    """Return a function that measures the student; the teacher's vectors are computed once."""
    texts = choose(read_rows(options.data / HELD_OUT), options.held_out) | tested()
    tokens = {kind: with_specials(held.texts, tokenizer) for kind, held in texts.items()}

    def vectors(weights: Weights, layers: int) -> dict[str, Vectors]:
        def embed(ids: Tensor, mask: Tensor) -> Tensor:
            embedded = embed_tokens(weights, run.config, ids)
            return encode(weights, run.config, layers, embedded, mask)[0]

        device = run.sampler.device
        with torch.no_grad():
            return {
                kind: embed_all(ids, embed, pad=pad, device=device) for kind, ids in tokens.items()
            }

    teacher = vectors(run.teacher, run.config.num_hidden_layers)
    return lambda: compare(vectors(run.student, len(TEACHER_LAYERS)), teacher, texts)


def with_specials(texts: list[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Return token ids with [CLS] and [SEP], cut at the teacher's limit."""
    cls, sep = special_token(tokenizer, "[CLS]"), special_token(tokenizer, "[SEP]")
    return [[cls, *ids[: MAX_SEQ_LENGTH - 2], sep] for ids in tokenize(texts, tokenizer)]


def embed_all(
    rows: list[list[int]],
    embed: Callable[[Tensor, Tensor], Tensor],
    *,
    pad: int,
    device: torch.device,
) -> Vectors:
    """Return unit vectors in the order of the rows; batches hold rows of similar length."""
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    vectors: list[Tensor] = []
    begin = 0
    while begin < len(order):
        # Counted by the shortest row of the batch, hence only half the tokens of a training batch.
        size = max(1, _EVALUATED_TOKENS // len(rows[order[begin]]))
        chosen = [rows[index] for index in order[begin : begin + size]]
        width = len(chosen[-1])
        lengths = torch.tensor([len(row) for row in chosen], device=device)
        mask = torch.arange(width, device=device) < lengths[:, None]
        padded = [row + [pad] * (width - len(row)) for row in chosen]
        vectors.append(embed(torch.tensor(padded, device=device), mask))
        begin += size
    restored = np.empty_like(order)
    restored[order] = np.arange(len(order))
    result: Vectors = torch.cat(vectors).cpu().numpy()[restored]
    return result


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m embed_models.distill.train", description=__doc__
    )
    parser.add_argument("--data", type=Path, required=True, help="what distill-data wrote")
    parser.add_argument("--teacher", type=Path, required=True, help="its checkpoint directory")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", type=Path, help="layers.safetensors to go on from")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--max-seconds", type=float, default=570.0, help="all in all")
    parser.add_argument("--max-steps", type=int, default=1_000_000)
    parser.add_argument("--batch-tokens", type=int, default=65536)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--similarity", type=float, default=0.1, help="weight of that part")
    parser.add_argument("--states", type=float, default=1.0, help="weight of that part")
    parser.add_argument(
        "--pairs", type=float, default=0.0, help="share of the batches that are pairs"
    )
    parser.add_argument(
        "--ranking", type=float, default=0.0, help="weight of the order of documents, of pairs"
    )
    parser.add_argument(
        "--found", type=float, default=0.0, help="weight of finding the own document, of pairs"
    )
    parser.add_argument("--held-out", type=int, default=1_000_000, help="texts to measure on")
    parser.add_argument("--compile", action="store_true", help="compile the layers")
    parser.add_argument("--log-every", type=int, default=100)
    return parser


if __name__ == "__main__":
    main()
