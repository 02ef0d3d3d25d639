"""Heads whose channels are mixed: the same products, which lose less by rounding."""

import numpy as np
import pytest

from embed_models.quantize.mixing import head_mixtures, mixed

HEADS, SIZE = 3, 8


def head_values(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return values of few directions and of very different sizes, and a weight."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((3000, HEADS, SIZE)) * np.geomspace(0.05, 5, SIZE)
    values = np.einsum("rhi,hij->rhj", values, random.standard_normal((HEADS, SIZE, SIZE)))
    weight = random.standard_normal((20, HEADS * SIZE)) * np.geomspace(0.1, 3, HEADS * SIZE)
    return values.reshape(3000, -1).astype(np.float32) + 1, weight.astype(np.float32)


def rounding_loss(values: np.ndarray, weight: np.ndarray) -> float:
    """Return what rounding loses where each channel has a window as wide as its values."""
    return float((values.var(axis=0) * np.square(weight).sum(axis=0)).sum())


@pytest.mark.parametrize("seed", range(3))
def test_the_products_stay_and_rounding_loses_less(seed: int) -> None:
    values, weight = head_values(seed)
    mixtures, inverses = head_mixtures(values, weight, HEADS)
    others, other_weight = mixed(values, mixtures), mixed(weight, inverses.swapaxes(1, 2))
    exact = values @ weight.T
    np.testing.assert_allclose(others @ other_weight.T, exact, atol=2e-4 * np.abs(exact).max())
    assert rounding_loss(others, other_weight) < 0.7 * rounding_loss(values, weight)


def test_it_is_the_least_that_there_is() -> None:
    values, weight = head_values()
    mixtures, inverses = head_mixtures(values, weight, HEADS)
    found = rounding_loss(mixed(values, mixtures), mixed(weight, inverses.swapaxes(1, 2)))
    least = 0.0
    for head in range(HEADS):
        channels = slice(head * SIZE, (head + 1) * SIZE)
        products = values[:, channels] @ weight[:, channels].T
        deviations = np.linalg.svd(products - products.mean(axis=0), compute_uv=False)
        least += deviations.sum() ** 2 / SIZE / len(values)
    assert found == pytest.approx(least, rel=0.05)


def test_a_head_that_never_changes_does_no_harm() -> None:
    values, weight = head_values()
    values[:, :SIZE] = 0.5
    mixtures, inverses = head_mixtures(values, weight, HEADS)
    assert np.isfinite(mixtures).all()
    others = mixed(values, mixtures) @ mixed(weight, inverses.swapaxes(1, 2)).T
    exact = values @ weight.T
    np.testing.assert_allclose(others, exact, atol=1e-3 * np.abs(exact).max())
