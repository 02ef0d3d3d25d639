"""Recipes: those that come along are complete, and mistakes are named."""

import re

import pytest

from embed_models.errors import RecipeError
from embed_models.recipe import load_recipe, parse_recipe, recipe_names
from embed_models.slug import slug

GOOD = """
name = "Tiny"
model_id = "org/tiny"
pooling = "mean"
max_seq_length = 24
[architecture]
hidden_size = 32
intermediate_size = 64
num_attention_heads = 4
num_hidden_layers = 2
vocab_size = 64
max_position_embeddings = 48
type_vocab_size = 2
"""


def test_the_six_models() -> None:
    assert recipe_names() == [
        "all-minilm-l6-v2",
        "bert-base-uncased",
        "bge-small-en-v1.5",
        "distilled-minilm-l3-v2",
        "e5-small",
        "uae-large-v1",
    ]
    recipes = [load_recipe(name) for name in recipe_names()]
    assert len({slug(recipe.name) for recipe in recipes}) == 6
    for recipe in recipes:
        assert recipe.max_seq_length <= recipe.architecture.max_position_embeddings
        assert recipe.artefacts[0] == "fp32"
        assert recipe.thresholds["int8"].batch_invariance == 1e-5
        if recipe.teacher:
            assert load_recipe(recipe.teacher.recipe).teacher is None


def test_what_the_default_model_has_to_reach() -> None:
    thresholds = load_recipe("all-minilm-l6-v2").thresholds
    assert (thresholds["fp16"].mean_cosine, thresholds["fp16"].min_cosine) == (0.9999, 0.999)
    assert (thresholds["int8"].mean_cosine, thresholds["int8"].min_cosine) == (0.998, 0.98)
    assert (thresholds["int8"].speedup, thresholds["int8"].size_ratio) == (2.5, 0.30)
    assert thresholds["int8-tensorrt"].mean_cosine == 0.997
    assert thresholds["fp8-tensorrt"].min_cosine == 0.99


def test_defaults_fill_in_what_is_left_out() -> None:
    recipe = parse_recipe(GOOD + "[thresholds.int8]\nmean_cosine = 0.5\n", "tiny.toml")
    assert recipe.version == "v1.5.0"
    assert recipe.source is None
    assert recipe.thresholds["int8"].mean_cosine == 0.5
    assert recipe.thresholds["int8"].min_cosine == 0.95
    assert recipe.thresholds["fp8-tensorrt"].mean_cosine == 0.99


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "tiny.toml is not valid TOML"),
        (GOOD.replace('name = "Tiny"', ""), "tiny.toml: `name` is missing"),
        (GOOD.replace("24", '"24"'), "`max_seq_length` is '24' but has to be a int"),
        (GOOD.replace('"mean"', '"sum"'), "`pooling` is 'sum'; it has to be one of mean, cls"),
        ("polling = 1\n" + GOOD, "unknown key `polling`; did you mean `pooling`?"),
        (GOOD + "[thresholds.int8]\nmean_cosin = 1\n", "did you mean `mean_cosine`?"),
        (GOOD + "[thresholds.int4]\n", "unknown key `thresholds.int4`"),
        ('artefacts = ["fp32", "int4"]\n' + GOOD, "`artefacts` names 'int4'; known are fp32"),
        ('artefacts = ["int8"]\n' + GOOD, "lacks fp32, which all others are compared with"),
        (GOOD + "[quantization.strengths]\nint8 = [1.5]\n", "numbers from 0 (no smoothing)"),
        (
            GOOD + '[quantization.excluded]\nint8-tensorrt = ["layer0/inner"]\n',
            "`quantization.excluded.int8-tensorrt` names layer0/inner, but in that kind",
        ),
        (GOOD.replace("vocab_size = 64", ""), "`architecture.vocab_size` is missing"),
    ],
)
def test_mistakes_are_named(text: str, words: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(words)):
        parse_recipe(text, "tiny.toml")


@pytest.mark.parametrize("name", ["all-minilm", "defaults", "missing.toml"])
def test_unknown_recipe(name: str) -> None:
    with pytest.raises(RecipeError, match="the recipes are all-minilm-l6-v2, bert-base-uncased"):
        load_recipe(name)
