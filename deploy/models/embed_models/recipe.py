"""Recipes: what a model is made from, which artefacts are wanted, and how good they have to be.

A recipe is a TOML file; those that come with the package stand in `recipes/`, and what they leave
out stands in `recipes/defaults.toml`. Unknown keys are refused by name.
"""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from embed_models.checkpoint import BertConfig
from embed_models.errors import RecipeError
from embed_models.kinds import KINDS, TENSORRT_INT8
from embed_models.metadata import Pooling

RECIPES = Path(__file__).parent / "recipes"
_DEFAULTS = "defaults"
# config.json of BERT says so unless it says otherwise.
_LAYER_NORM_EPS = 1e-12


@dataclass(frozen=True)
class Thresholds:
    """What an artefact has to reach; None: not asked for."""

    # Cosine to the float32 graph over the held-out texts.
    mean_cosine: float | None = None
    min_cosine: float | None = None
    # Cosine to the golden vectors, the least over the golden texts.
    golden_cosine: float | None = None
    # Recall@1 divided by that of the float32 graph.
    recall_at_1_ratio: float | None = None
    # Share of the float32 graph's ten nearest documents that are among the artefact's ten.
    top10_overlap: float | None = None
    # Largest absolute difference of a component when a text is embedded among others.
    batch_invariance: float | None = None
    # File size divided by that of the float32 graph.
    size_ratio: float | None = None
    # Texts per second of CPU time divided by those of the float32 graph, at 32 tokens.
    speedup: float | None = None


@dataclass(frozen=True)
class Teacher:
    """What a student is compared with, and what it has to reach against it."""

    recipe: str
    mean_cosine: float
    recall_at_1_ratio: float
    speedup: float


@dataclass(frozen=True)
class Recipe:
    """Everything that a build needs to know of a model."""

    name: str
    model_id: str
    source: str | None
    # The hub's commit, and the SHA-256 of model.safetensors; None: whatever is found.
    revision: str | None
    weights_sha256: str | None
    version: str
    license: str | None
    pooling: Pooling
    max_seq_length: int
    artefacts: tuple[str, ...]
    prompts: Mapping[str, str]
    strengths: Mapping[str, tuple[float, ...]]
    most_excluded: int
    # By kind, activations whose products stay in floating point whatever the target.
    excluded: Mapping[str, frozenset[str]]
    # Mean cosine below which layers are left out, where it is not the threshold.
    targets: Mapping[str, float]
    architecture: BertConfig
    thresholds: Mapping[str, Thresholds]
    teacher: Teacher | None
    # The file as it was read, to be kept beside what was made from it.
    text: str


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with the package."""
    return sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem != _DEFAULTS)


def load_recipe(name: str) -> Recipe:
    """Load a recipe by its name, or by the path of its file."""
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file() or path.stem == _DEFAULTS:
        raise RecipeError(
            f"there is no recipe {name!r}; the recipes are {', '.join(recipe_names())}, "
            "or give the path of a .toml file"
        )
    return parse_recipe(path.read_text(encoding="utf-8"), str(path))


def parse_recipe(text: str, origin: str) -> Recipe:
    """Parse a recipe; `origin` is what errors call it."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{origin} is not valid TOML: {error}") from error
    defaults = tomllib.loads((RECIPES / f"{_DEFAULTS}.toml").read_text(encoding="utf-8"))
    raw = _Table(_merged(defaults, given), origin, "")
    recipe = Recipe(
        name=raw.take("name", str),
        model_id=raw.take("model_id", str),
        source=raw.take("source", str, optional=True),
        revision=raw.take("revision", str, optional=True),
        weights_sha256=raw.take("weights_sha256", str, optional=True),
        version=raw.take("version", str),
        license=raw.take("license", str, optional=True),
        pooling=_pooling(raw),
        max_seq_length=raw.take("max_seq_length", int),
        artefacts=artefacts(raw.take("artefacts", list), origin),
        prompts=raw.take("prompts", dict, optional=True) or {},
        **_quantization(raw.table("quantization")),
        architecture=_architecture(raw.table("architecture")),
        thresholds=_thresholds(raw.table("thresholds")),
        teacher=_teacher(raw),
        text=text,
    )
    raw.finish()
    return recipe


class _Table:
    """A TOML table that knows its place, and which of its keys nobody has asked for."""

    def __init__(self, values: dict[str, Any], origin: str, path: str) -> None:
        self._values = values
        self.origin = origin
        self.path = path
        self._known: set[str] = set()

    def keys(self) -> list[str]:
        return list(self._values)

    def take(self, key: str, kind: type, *, optional: bool = False) -> Any:
        self._known.add(key)
        value = self._values.get(key)
        if value is None:
            if optional:
                return None
            raise RecipeError(f"{self.origin}: `{self.path}{key}` is missing")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise RecipeError(
                f"{self.origin}: `{self.path}{key}` is {value!r} but has to be a {kind.__name__}"
            )
        return value

    def table(self, key: str) -> "_Table":
        return _Table(self.take(key, dict), self.origin, f"{self.path}{key}.")

    def finish(self) -> None:
        for key in self._values:
            if key not in self._known:
                near = difflib.get_close_matches(key, self._known, n=1)
                hint = f"; did you mean `{near[0]}`?" if near else ""
                raise RecipeError(f"{self.origin}: unknown key `{self.path}{key}`{hint}")


def _merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        inner = merged.get(key)
        both = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = _merged(inner, value) if both and inner is not None else value
    return merged


def _pooling(raw: _Table) -> Pooling:
    value: Pooling = raw.take("pooling", str)
    if value not in get_args(Pooling):
        raise RecipeError(
            f"{raw.origin}: `pooling` is {value!r}; it has to be one of "
            f"{', '.join(get_args(Pooling))}"
        )
    return value


def artefacts(names: list[Any], origin: str) -> tuple[str, ...]:
    """Return the names of kinds in the order in which a version lists them."""
    for name in names:
        if name not in KINDS:
            raise RecipeError(f"{origin}: `artefacts` names {name!r}; known are {', '.join(KINDS)}")
    if "fp32" not in names:
        raise RecipeError(f"{origin}: `artefacts` lacks fp32, which all others are compared with")
    # In the order of KINDS, which is the order in which a worker looks for a precision.
    return tuple(name for name in KINDS if name in names)


def _quantization(raw: _Table) -> dict[str, Any]:
    most = raw.take("most_excluded", int)
    wanted = raw.table("targets")
    targets = {name: wanted.take(name, float) for name in wanted.keys()}  # noqa: SIM118
    table = raw.table("strengths")
    strengths = {}
    for name in table.keys():  # noqa: SIM118 - not a dict
        values = table.take(name, list)
        if not values or not all(isinstance(v, int | float) and 0 <= v < 1 for v in values):
            raise RecipeError(
                f"{raw.origin}: `{table.path}{name}` is {values!r} but has to be a list of "
                "numbers from 0 (no smoothing) to below 1"
            )
        strengths[name] = tuple(float(value) for value in values)
    listed = raw.table("excluded")
    excluded = {name: frozenset(listed.take(name, list)) for name in listed.keys()}  # noqa: SIM118
    if sites := excluded.get(TENSORRT_INT8):
        raise RecipeError(
            f"{raw.origin}: `{listed.path}{TENSORRT_INT8}` names {', '.join(sorted(sites))}, but "
            "in that kind every product is one of integers; leave it out"
        )
    raw.finish()
    return {
        "most_excluded": most,
        "strengths": strengths,
        "targets": targets,
        "excluded": excluded,
    }


def _architecture(raw: _Table) -> BertConfig:
    # Those without a default; relatives of BERT that need more have no recipes.
    names = [
        field.name
        for field in fields(BertConfig)
        if field.default is MISSING and field.name != "layer_norm_eps"
    ]
    config = BertConfig(
        layer_norm_eps=_LAYER_NORM_EPS, **{name: raw.take(name, int) for name in names}
    )
    raw.finish()
    return config


def _thresholds(raw: _Table) -> dict[str, Thresholds]:
    names = [field.name for field in fields(Thresholds)]
    values: dict[str, dict[str, float | None]] = {}
    for kind in ("all", *KINDS):
        if kind not in raw.keys():  # noqa: SIM118 - not a dict
            values[kind] = {}
            continue
        table = raw.table(kind)
        values[kind] = {name: table.take(name, float, optional=True) for name in names}
        table.finish()
    raw.finish()
    common = {k: v for k, v in values["all"].items() if v is not None}
    return {
        kind: Thresholds(**(common | {k: v for k, v in values[kind].items() if v is not None}))
        for kind in KINDS
    }


def _teacher(raw: _Table) -> Teacher | None:
    if raw.take("teacher", dict, optional=True) is None:
        return None
    table = raw.table("teacher")
    teacher = Teacher(
        recipe=table.take("recipe", str),
        mean_cosine=table.take("mean_cosine", float),
        recall_at_1_ratio=table.take("recall_at_1_ratio", float),
        speedup=table.take("speedup", float),
    )
    table.finish()
    return teacher
