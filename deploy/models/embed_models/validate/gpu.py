"""Runs a version's graphs on a GPU and compares them with its float32 graph on the CPU.

The other checks of this package need no GPU and so cannot know what a device's kernels compute,
which of a graph's nodes they take, and whether the packed graph runs at all. What does not run here
is said not to have run, with the reason; it is never counted as passed.
"""

import ctypes
import json
import os
import platform
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from embed_models.attention import ATTENTION_MASK, PackedAttention, PlainAttention
from embed_models.batches import pad
from embed_models.errors import ValidationError
from embed_models.graph import EMBEDDING, INPUT_IDS
from embed_models.inference import cpu_session, embed_sequences, run_batch
from embed_models.kernels import KernelForm
from embed_models.metadata import Artefact, Metadata
from embed_models.tokenizer import load_tokenizer
from embed_models.validate.agreement import cosines
from embed_models.validate.run import check_files

Report = Callable[[str], None]

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_TENSORRT_LIBRARY = "libnvinfer.so.10"

PASS, FAIL, NOT_RUN = "pass", "fail", "not run"

# The operators that do the work of a graph. Where another provider runs them, the graph has not
# been tried out on this one, whatever its vectors are.
_PRODUCTS = frozenset(
    {
        *("Attention", "FusedMatMul", "Gemm", "MatMul", "MatMulInteger", "MatMulIntegerToFloat"),
        *("MultiHeadAttention", "PackedAttention", "PackedMultiHeadAttention", "QAttention"),
        *("DynamicQuantizeMatMul", "MatMulNBits", "QGemm", "QLinearMatMul"),
        # The worker's own.
        *("Attend", "AttendQuantize", "Linear", "LinearFromQuantized", "LinearQuantized"),
    }
)

# The least cosine to the float32 vector that any text may have. Below it something is wrong with
# the kernel or the graph; rounding alone stays far above.
_LEAST_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.98, "fp8": 0.98}
# What a batch may change of a component. Kernels are chosen by shape and add in another order: in
# halves 3e-4 was the most on an H100, in float32 3e-8. In 8 bits, a sum that falls on the other
# side of a step moves by all of it: 4e-3 on a CPU.
_MOST_DIFFERENCE = {"fp32": 1e-4, "fp16": 1e-3, "int8": 1e-2, "fp8": 1e-2}
# Texts and tokens of each run that is timed.
SHAPES = ((1, 16), (64, 128), (256, 128), (512, 64))
# The length from which packed attention is FlashAttention. ONNX Runtime looks at it whenever a
# session is made, and has a default that depends on what else the CUDA provider is told.
FLASH_ATTENTION_FROM = "ORT_MIN_SEQ_LEN_FLASH_ATTENTION_PACKED_QKV"
_NEVER = 2**31 - 1
_ERRORS_ONLY = 3


@dataclass
class Outcome:
    """What one artefact did on the device."""

    file: str
    precision: str
    form: str
    # Whether it was to use FlashAttention, always or never; None where there is no choice.
    flash_attention: bool | None = None
    # ONNX Runtime's name of what was to run it.
    provider: str | None = None
    verdict: str = FAIL
    # Why the verdict is not pass.
    reason: str | None = None
    cosine_min: float | None = None
    cosine_mean: float | None = None
    largest_difference: float | None = None
    batch_difference: float | None = None
    # Nodes by provider, and operators of the graph as it is run.
    nodes: dict[str, int] = field(default_factory=dict)
    # Products and attention that another provider ran.
    products_elsewhere: int | None = None
    operators: dict[str, int] = field(default_factory=dict)
    # Texts per second by shape, from memory to memory, the median of some runs.
    texts_per_second: dict[str, float] = field(default_factory=dict)


def require_cuda() -> None:
    """Refuse to go on where ONNX Runtime has no CUDA provider."""
    if hasattr(ort, "preload_dlls"):
        # CUDA's and cuDNN's libraries are often those of Python packages, which nothing else finds.
        ort.preload_dlls()
    if CUDA not in ort.get_available_providers():
        raise ValidationError(
            f"onnxruntime {ort.__version__} has no {CUDA}; install onnxruntime-gpu instead of "
            "onnxruntime, on a machine with an NVIDIA GPU"
        )


def device_providers(device: int) -> list[Any]:
    """Return what there is to run graphs on a device with, TensorRT first where it is installed."""
    available = [name for name in (TENSORRT, CUDA) if name in ort.get_available_providers()]
    if TENSORRT in available:
        try:
            # ONNX Runtime names what it was built for, whether the library is there or not.
            ctypes.CDLL(_TENSORRT_LIBRARY)
        except OSError:
            available.remove(TENSORRT)
    options: dict[str, dict[str, Any]] = {
        # As the worker has it: TF32 moves components by 1e-4.
        CUDA: {"use_tf32": 0}
    }
    return [(name, {"device_id": device} | options.get(name, {})) for name in available]


def check_gpu(
    directory: Path,
    metadata: Metadata,
    report: Report,
    *,
    providers: Sequence[Any] = (CUDA,),
    speed: bool = True,
    operators: Path | None = None,
) -> dict[str, Any]:
    """Check every artefact that this device can run; returns what was found, to be written as JSON.

    The verdict is pass if at least one graph ran and none that ran is wrong; `not_run` has the
    others. `operators` is the library of the worker's own, without which the graphs that are made
    of them do not run.
    """
    check_files(directory, metadata)
    sequences = _sequences(directory, metadata)
    reference = embed_sequences(
        cpu_session(directory / metadata.artefacts[0].file, threads=1), sequences
    )
    outcomes = []
    for artefact in metadata.artefacts:
        graph = directory / artefact.file
        chain = _chain(artefact, providers)
        for flash in _kernels(artefact):
            outcome = Outcome(artefact.file, artefact.precision, artefact.form, flash)
            outcome.provider = _name(chain[0])
            if (reason := _not_for(artefact, chain, operators)) is not None:
                outcome.verdict, outcome.reason = NOT_RUN, reason
            else:
                own = operators if artefact.form == KernelForm.name else None
                _check(outcome, graph, sequences, reference, chain, speed=speed, operators=own)
            report(_sentence(outcome))
            outcomes.append(outcome)
    verdicts = {outcome.verdict for outcome in outcomes}
    return {
        "model": metadata.model_name,
        "version": metadata.version,
        "random_weights": metadata.random_weights,
        # Nothing that ran proves nothing.
        "verdict": PASS if PASS in verdicts and FAIL not in verdicts else FAIL,
        "not_run": {o.file: o.reason for o in outcomes if o.verdict == NOT_RUN},
        "texts": len(sequences),
        "onnxruntime": ort.__version__,
        "providers": [_name(provider) for provider in providers],
        "machine": platform.platform(),
        "artefacts": [asdict(outcome) for outcome in outcomes],
    }


def _check(
    outcome: Outcome,
    graph: Path,
    sequences: list[list[int]],
    reference: NDArray[np.float32],
    providers: Sequence[Any],
    *,
    speed: bool,
    operators: Path | None,
) -> None:
    try:
        with _flash_attention(outcome.flash_attention):
            _run(outcome, graph, sequences, reference, providers, operators)
            if speed:
                outcome.texts_per_second = _speed(graph, providers, operators)
    except Exception as error:  # whatever the runtime raises is the finding
        outcome.verdict, outcome.reason = FAIL, f"{type(error).__name__}: {error}"


def _name(provider: Any) -> str:
    return provider if isinstance(provider, str) else str(provider[0])


def _chain(artefact: Artefact, providers: Sequence[Any]) -> list[Any]:
    """Return what is to run an artefact: TensorRT runs the graphs that are made for it.

    With TensorRT in front of CUDA: ONNX Runtime gives the nodes that TensorRT refuses to the next.
    """
    plain = artefact.form == PlainAttention.name
    mine = [p for p in providers if (_name(p) == TENSORRT) == plain]
    others = [p for p in providers if plain and _name(p) != TENSORRT]
    return [*mine, *others] or list(providers)


def _not_for(artefact: Artefact, chain: Sequence[Any], operators: Path | None) -> str | None:
    """Say why a graph is none for this device, or return None."""
    if artefact.form == KernelForm.name:
        if _name(chain[0]) != CUDA:
            return f"made for {CUDA}, which is not here"
        return None if operators else "made of the worker's own operators; give --operators"
    quantized = artefact.quantization is not None
    if (artefact.quantization or {}).get("batch_dependent"):
        return "quantized by what is in a run, so that its vectors are those of no text alone"
    if quantized and artefact.form != PlainAttention.name and _name(chain[0]) != CPU:
        return "made for the integer instructions of CPUs; a device has no kernels for its products"
    if quantized and artefact.form == PlainAttention.name and _name(chain[0]) == CUDA:
        return "made for TensorRT, which is not here; CUDA would round to 8 bits and multiply in 16"
    return None


def _kernels(artefact: Artefact) -> tuple[bool | None, ...]:
    """Say with which kernels of attention to check a graph: with FlashAttention, and without."""
    # ONNX Runtime has it for halves only.
    chosen_by_length = artefact.form == PackedAttention.name and artefact.precision == "fp16"
    return (False, True) if chosen_by_length else (None,)


@contextmanager
def _flash_attention(wanted: bool | None) -> Iterator[None]:
    """Have packed attention use FlashAttention at every length, or at none."""
    before = os.environ.get(FLASH_ATTENTION_FROM)
    if wanted is not None:
        os.environ[FLASH_ATTENTION_FROM] = str(0 if wanted else _NEVER)
    try:
        yield
    finally:
        os.environ.pop(FLASH_ATTENTION_FROM, None)
        if before is not None:
            os.environ[FLASH_ATTENTION_FROM] = before


def _sequences(directory: Path, metadata: Metadata) -> list[list[int]]:
    """Tokenize the golden texts, which have every length up to the model's limit."""
    tokenizer = load_tokenizer((directory / metadata.tokenizer.file).read_text(encoding="utf-8"))
    tokenizer.enable_truncation(metadata.max_seq_length)
    golden = json.loads((directory / metadata.golden.file).read_text(encoding="utf-8"))
    return [tokenizer.encode(item["text"]).ids for item in golden["items"]]


def _session(
    graph: Path,
    providers: Sequence[Any],
    operators: Path | None = None,
    *,
    optimized: Path | None = None,
    profile: str = "",
) -> Any:
    options = ort.SessionOptions()
    if operators is not None:
        options.register_custom_ops_library(str(operators))
    options.log_severity_level = _ERRORS_ONLY
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    session = ort.InferenceSession(graph, options, providers=list(providers))
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise ValidationError(f"the session runs on {session.get_providers()[0]}, not on {wanted}")
    return session


def _run(
    outcome: Outcome,
    graph: Path,
    sequences: list[list[int]],
    reference: NDArray[np.float32],
    providers: Sequence[Any],
    operators: Path | None,
) -> None:
    with tempfile.TemporaryDirectory(prefix="embed-models-") as temporary:
        place = Path(temporary)
        # What TensorRT has compiled cannot be written as a graph.
        optimized = None if _name(providers[0]) == TENSORRT else place / "optimized.onnx"
        session = _session(
            graph, providers, operators, optimized=optimized, profile=str(place / "profile")
        )
        # All in one run, padded to the longest, and each on its own.
        together = run_batch(session, sequences)
        ran = _nodes(Path(session.end_profiling()))
        outcome.nodes = dict(Counter(provider for provider, _ in ran))
        outcome.products_elsewhere = sum(
            operator in _PRODUCTS and provider != _name(providers[0]) for provider, operator in ran
        )
        if optimized is not None:
            outcome.operators = _operators(optimized)
    alone = np.concatenate([run_batch(session, [sequence]) for sequence in sequences])
    near = np.concatenate([cosines(alone, reference), cosines(together, reference)])
    outcome.cosine_min, outcome.cosine_mean = float(near.min()), float(near.mean())
    outcome.largest_difference = float(np.abs(alone - reference).max())
    outcome.batch_difference = float(np.abs(alone - together).max())
    least = _LEAST_COSINE[outcome.precision]
    most = _MOST_DIFFERENCE[outcome.precision]
    if not outcome.nodes.get(_name(providers[0])):
        outcome.reason = f"{_name(providers[0])} ran nothing of it"
    elif outcome.products_elsewhere:
        outcome.reason = f"another provider ran {outcome.products_elsewhere} of its products"
    # Written so that NaN fails.
    elif not outcome.cosine_min >= least:
        outcome.reason = f"the least cosine to float32 is {outcome.cosine_min:.6f}, below {least}"
    elif not outcome.batch_difference <= most:
        outcome.reason = (
            f"batch-mates change a component by {outcome.batch_difference:.4f}, more than {most}"
        )
    else:
        outcome.verdict = PASS


def _nodes(profile: Path) -> list[tuple[str, str]]:
    """Return provider and operator of each node that ran."""
    events = json.loads(profile.read_text(encoding="utf-8"))
    seen = {
        (event["name"], event["args"]["provider"], event["args"].get("op_name", ""))
        for event in events
        if event.get("cat") == "Node" and event.get("args", {}).get("provider")
    }
    return [(provider, operator) for _, provider, operator in sorted(seen)]


def _operators(optimized: Path) -> dict[str, int]:
    graph = onnx.load(optimized, load_external_data=False).graph
    return dict(Counter(node.op_type for node in graph.node).most_common())


def _speed(
    graph: Path, providers: Sequence[Any], operators: Path | None = None, seconds: float = 0.5
) -> dict[str, float]:
    session = _session(graph, providers, operators)
    random = np.random.default_rng(0)
    # Which words they are makes no difference to the speed.
    speeds = {}
    for texts, tokens in SHAPES:
        batch = [random.integers(0, 1000, tokens).tolist() for _ in range(texts)]
        speeds[f"{texts}x{tokens}"] = texts / _median(session, batch, seconds)
    lengths = np.clip(random.lognormal(3.45, 0.75, 1024), 3, 256).astype(int)
    mixed = sorted((random.integers(0, 1000, n).tolist() for n in lengths), key=len)
    taken = [_median(session, mixed[i : i + 256], seconds / 4) for i in range(0, 1024, 256)]
    speeds["mixed, sorted into 256s"] = len(mixed) / sum(taken)
    return {shape: round(value, 1) for shape, value in speeds.items()}


def _median(session: Any, batch: Sequence[Sequence[int]], seconds: float) -> float:
    ids, mask = pad(batch)
    feeds = {INPUT_IDS: ids, ATTENTION_MASK: mask}
    for _ in range(3):
        session.run([EMBEDDING], feeds)
    times: list[float] = []
    while sum(times) < seconds or len(times) < 3:
        start = time.perf_counter()
        session.run([EMBEDDING], feeds)
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def _sentence(outcome: Outcome) -> str:
    kernel = {None: "", True: " with FlashAttention", False: " without FlashAttention"}
    graph = outcome.file + kernel[outcome.flash_attention]
    if outcome.cosine_min is None:
        return f"{graph}: {outcome.verdict}: {outcome.reason}"
    nodes = ", ".join(f"{count} on {name}" for name, count in outcome.nodes.items())
    speeds = ", ".join(
        f"{shape} {value:.0f}/s" for shape, value in outcome.texts_per_second.items()
    )
    ending = f": {outcome.reason}" if outcome.reason else ""
    return (
        f"{graph}: cosine min {outcome.cosine_min:.6f}, mean {outcome.cosine_mean:.6f}, "
        f"batch-mates {outcome.batch_difference:.1e}; nodes: {nodes}"
        f"{'; ' + speeds if speeds else ''}: {outcome.verdict}{ending}"
    )
