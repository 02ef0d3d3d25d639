"""The chart, rendered by Helm as a library, and what is in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import helm_python
import yaml

HELM = Path(__file__).parents[1] / "helm"
CHART = HELM / "akidb-embed"
VALUES = sorted((HELM / "values").glob("*.yaml"))
RELEASE, NAMESPACE = "demo", "prod"

Resource = dict[str, Any]


def values(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


def render(chosen: dict[str, Any], chart: Path = CHART) -> list[Resource]:
    """All resources of a release with these values, which Helm has held to values.schema.json."""
    helm_python.disable_logging()
    with helm_python.Chart.load(str(chart)) as loaded:
        files = loaded.render(chosen, name=RELEASE, namespace=NAMESPACE)
    templates = [text for name, text in sorted(files.items()) if name.endswith(".yaml")]
    documents = (one for text in templates for one in yaml.safe_load_all(text))
    return [one for one in documents if one is not None]


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    return [one for one in resources if one["kind"] == kind]


def named(resources: list[Resource], kind: str, name: str) -> Resource:
    """The resource of that kind whose name ends so."""
    found = [one for one in of_kind(resources, kind) if one["metadata"]["name"].endswith(name)]
    if len(found) != 1:
        raise LookupError(f"{len(found)} {kind}s are called …{name}")
    return found[0]


@dataclasses.dataclass(frozen=True)
class Pod:
    """What a deployment or a job makes."""

    name: str
    labels: dict[str, str]
    spec: dict[str, Any]

    @property
    def container(self) -> dict[str, Any]:
        (only,) = self.spec["containers"]
        found: dict[str, Any] = only
        return found


def pods(resources: list[Resource]) -> Iterator[Pod]:
    for one in resources:
        if one["kind"] in ("Deployment", "Job"):
            template = one["spec"]["template"]
            yield Pod(one["metadata"]["name"], template["metadata"]["labels"], template["spec"])
