"""Writes the reports of a version, and of all current versions of a registry.

Everything is taken from metadata.json: a report can be written anew at any time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from embed_models.errors import RegistryError
from embed_models.metadata import Artefact, Metadata
from embed_models.recipe import Recipe
from embed_models.registry import METADATA, Registry
from embed_models.validate.thresholds import missed, unjudged

MARKDOWN, HTML = "report.md", "report.html"


@dataclass(frozen=True)
class Section:
    """One version in a report."""

    metadata: Metadata
    # What it misses of its recipe; None where there is no recipe at hand.
    missed: list[str] | None
    # What could not be judged where it was validated; only where there is a recipe at hand.
    unjudged: list[str]


def write_report(directory: Path, metadata: Metadata, recipe: Recipe) -> None:
    """Write the report of one version into its directory."""
    section = Section(metadata, missed(recipe, metadata), unjudged(recipe, metadata))
    _write(directory, f"{metadata.model_name} {metadata.version}", [section])


def write_overview(registry: Registry, out: Path) -> int:
    """Write a report over the current versions of all models; returns how many there are."""
    sections = [
        Section(Metadata.read(directory / METADATA), None, [])
        for directory in registry.current_versions()
    ]
    if not sections:
        raise RegistryError("the registry has no model with a current version; build one first")
    out.mkdir(parents=True, exist_ok=True)
    _write(out, "All models", sections)
    return len(sections)


def _write(directory: Path, title: str, sections: Sequence[Section]) -> None:
    # Here, because the plotting library takes long to load, and most commands plot nothing.
    from embed_models.report import plots

    environment = Environment(
        loader=PackageLoader("embed_models.report"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["megabytes"] = lambda size: f"{size / 1e6:.1f}"
    environment.filters["or_dash"] = _or_dash
    values = {
        "title": title,
        "sections": sections,
        "measured": measured,
        "plots": [plot for section in sections for plot in plots.of_version(section.metadata)]
        + (plots.of_all([section.metadata for section in sections]) if len(sections) > 1 else []),
    }
    for template, name in (("report.md.j2", MARKDOWN), ("report.html.j2", HTML)):
        text = environment.get_template(template).render(values)
        (directory / name).write_text(text.rstrip() + "\n", encoding="utf-8")


def measured(artefact: Artefact) -> dict[str, Any]:
    """Return all measurements of an artefact in one table."""
    return (artefact.validation or {}) | (artefact.performance or {})


def _or_dash(value: Any, form: str = "{}") -> str:
    return "-" if value is None else form.format(value)
