"""Plots as SVG text that stands inside a page: no fonts, scripts or images from elsewhere."""

import io
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from embed_models.metadata import Artefact, Metadata

_BLUE, _ORANGE, _GREY = "#2b6cb0", "#c05621", "#a0aec0"
_QUANTILES = ("p1", "p5", "p25", "p50", "p75")


@dataclass(frozen=True)
class Plot:
    """A plot, with the sentence that says what it shows."""

    caption: str
    svg: Markup


def of_version(metadata: Metadata) -> list[Plot]:
    """Return the plots of one version: sizes, cosines and speed, as far as they were measured."""
    name = f"{metadata.model_name} {metadata.version}"
    if metadata.random_weights:
        name += " (random weights)"
    plots = [Plot(f"{name}: file size in MB", _bars(metadata.artefacts, _megabytes, "MB"))]
    validated = [a for a in metadata.artefacts if a.validation and a.precision != "fp32"]
    if validated:
        caption = (
            f"{name}: one minus cosine to float32 over the held-out texts; dot: median, "
            "thick: middle half, thin: to the 1st percentile, cross: the worst text"
        )
        plots.append(Plot(caption, _cosines(validated)))
    timed = [a for a in metadata.artefacts if _is_timed(a)]
    if timed:
        performance = timed[0].performance or {}
        caption = (
            f"{name}: texts per second on a CPU ({performance['cpu']}), "
            f"{performance['batch_size']} texts of {performance['tokens']} tokens a run, "
            f"{performance['callers']} callers"
        )
        plots.append(Plot(caption, _bars(timed, _throughput, "texts/s")))
    return plots


def of_all(versions: Sequence[Metadata]) -> list[Plot]:
    """Return the plots that compare models: speed against size."""
    with _style():
        figure = Figure(figsize=(7, 3.6))
        axes = figure.add_subplot()
        for metadata in versions:
            for artefact in metadata.artefacts:
                if not _is_timed(artefact):
                    continue
                x, y = _megabytes(artefact), _throughput(artefact)
                colour = _ORANGE if artefact.precision == "int8" else _BLUE
                axes.plot(x, y, "o", color=colour)
                label = f"{metadata.model_name} {artefact.precision}"
                axes.annotate(label, (x, y), xytext=(5, 3), textcoords="offset points")
        axes.set_xlabel("file size, MB")
        axes.set_ylabel("texts/s on a CPU")
        axes.margins(x=0.25, y=0.15)
        return [Plot("All models: speed on a CPU against file size", _svg(figure))]


def _style() -> AbstractContextManager[None]:
    return mpl.rc_context(
        {
            "svg.fonttype": "none",
            # Fixed, so that the same numbers give the same bytes.
            "svg.hashsalt": "embed-models",
            "font.family": "sans-serif",
            "font.size": 9,
            "axes.spines.top": False,
            "axes.spines.right": False,
        }
    )


def _bars(artefacts: Sequence[Artefact], value: Callable[[Artefact], float], unit: str) -> Markup:
    with _style():
        figure, axes = _rows(artefacts)
        values = [value(artefact) for artefact in artefacts]
        bars = axes.barh(range(len(values)), values, height=0.6, color=_BLUE)
        axes.bar_label(bars, fmt="%.1f", padding=3)
        axes.set_xlabel(unit)
        axes.margins(x=0.12)
        return _svg(figure)


def _cosines(artefacts: Sequence[Artefact]) -> Markup:
    with _style():
        figure, axes = _rows(artefacts)
        for row, artefact in enumerate(artefacts):
            validation = artefact.validation or {}
            p1, _, p25, p50, p75 = (
                _distance(validation["cosine_quantiles"][key]) for key in _QUANTILES
            )
            axes.plot([p75, p1], [row, row], color=_GREY, linewidth=1.5)
            axes.plot([p75, p25], [row, row], color=_BLUE, linewidth=6, solid_capstyle="butt")
            axes.plot(p50, row, "o", color="white", markeredgecolor=_BLUE, markersize=5)
            axes.plot(_distance(validation["cosine_min"]), row, "x", color=_ORANGE)
        axes.set_xscale("log")
        axes.set_xlabel("1 - cosine")
        return _svg(figure)


def _distance(cosine: float) -> float:
    # A cosine of exactly one has no place on a logarithmic axis.
    return float(np.maximum(1 - cosine, 1e-7))


def _rows(artefacts: Sequence[Artefact]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 0.6 + 0.36 * len(artefacts)), layout="constrained")
    axes = figure.add_subplot()
    axes.set_yticks(range(len(artefacts)), [a.file.removesuffix(".onnx") for a in artefacts])
    axes.set_ylim(len(artefacts) - 0.5, -0.5)
    return figure, axes


def _megabytes(artefact: Artefact) -> float:
    return artefact.bytes / 1e6


def _throughput(artefact: Artefact) -> float:
    return float((artefact.performance or {})["throughput_qps"])


def _svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    # From the element on: a page has no room for a second document type.
    inline = text[text.index("<svg") :]
    return Markup(re.sub(r"<metadata>.*?</metadata>", "", inline, flags=re.DOTALL))  # noqa: S704


def _is_timed(artefact: Artefact) -> bool:
    return (artefact.performance or {}).get("throughput_qps") is not None
