"""Statistics are those of all tokens, whatever the batches, and memory does not grow with texts."""

import numpy as np
import pytest
from tiny_bert import random_sequences, tiny_checkpoint

from embed_models.batches import equal_length_batches, pad, sorted_batches
from embed_models.quantize.calibration import (
    Reservoir,
    SiteStatistics,
    calibrate,
    calibrations,
)


def test_statistics_equal_those_of_everything_at_once() -> None:
    values = np.random.default_rng(0).standard_normal((1000, 6)).astype(np.float32)
    statistics = SiteStatistics(6, 64)
    reservoir = Reservoir(64, seed=1)
    for start in range(0, 1000, 37):
        part = values[start : start + 37]
        statistics.add(part, *reservoir.choose(len(part)))
    np.testing.assert_array_equal(statistics.low, values.min(axis=0))
    np.testing.assert_array_equal(statistics.high, values.max(axis=0))
    np.testing.assert_allclose(statistics.mean, values.mean(axis=0), atol=1e-6)
    assert statistics.sample.shape == (64, 6)
    rows = {row.tobytes() for row in values}
    assert all(row.tobytes() in rows for row in statistics.sample)


def test_reservoir_is_uniform_and_bounded() -> None:
    counts = np.zeros(200)
    for seed in range(400):
        kept = np.full(20, -1)
        reservoir, start = Reservoir(20, seed), 0
        for size in (7, 50, 1, 142):
            chosen, places = reservoir.choose(size)
            kept[places] = start + chosen
            start += size
        assert len(set(kept)) == 20
        counts[kept] += 1
    # 40 expected of each row; 6 standard deviations.
    assert np.abs(counts - 40).max() < 6 * np.sqrt(40 * 0.9)


def test_fewer_rows_than_the_reservoir_holds() -> None:
    statistics = SiteStatistics(3, 64)
    statistics.add(np.ones((5, 3), np.float32), *Reservoir(64, 0).choose(5))
    assert statistics.sample.shape == (5, 3)


def test_calibration_sees_every_site_and_every_text() -> None:
    sequences = random_sequences(60)
    told: list[int] = []
    calibration = calibrate(
        tiny_checkpoint(), sequences, threads=1, seed=1, rows=32, progress=told.append
    )
    assert set(calibration.sites) == {
        f"layer{layer}/{site}"
        for layer in range(2)
        for site in ("attention_input", "attention_output", "inner", "outer")
    }
    assert calibration.texts == told[-1] == 60
    assert calibration.tokens == sum(map(len, sequences))
    for name, site in calibration.sites.items():
        assert site.sample.shape == (32, 64 if name.endswith("outer") else 32)
        assert (site.low < site.high).all()


def test_samples_of_several_sizes_are_those_that_each_would_be_alone() -> None:
    sequences = random_sequences(60)
    sizes = (16, 48)
    together = calibrations(tiny_checkpoint(), sequences, sizes, threads=1, seed=3)
    for rows, found in zip(sizes, together, strict=True):
        alone = calibrate(tiny_checkpoint(), sequences, threads=1, seed=3, rows=rows)
        assert (found.texts, found.tokens) == (alone.texts, alone.tokens)
        for name, site in alone.sites.items():
            other = found.sites[name]
            np.testing.assert_array_equal(site.sample, other.sample)
            assert len(site.sample) == rows
            np.testing.assert_array_equal(site.low, other.low)
            np.testing.assert_array_equal(site.high, other.high)
            np.testing.assert_array_equal(site.mean, other.mean)
            assert site.count == other.count


@pytest.mark.parametrize("seed", range(5))
def test_batches_cover_everything_once(seed: int) -> None:
    sequences = random_sequences(100, seed=seed)
    for batches in (
        list(equal_length_batches(sequences, seed=seed, tokens=64)),
        list(sorted_batches(sequences, tokens=64)),
    ):
        assert sorted(index for batch in batches for index in batch) == list(range(100))
        for batch in batches:
            longest = max(len(sequences[index]) for index in batch)
            assert len(batch) == 1 or len(batch) * longest <= 64
    for batch in equal_length_batches(sequences, seed=seed):
        assert len({len(sequences[index]) for index in batch}) == 1


def test_padding_is_on_the_right() -> None:
    ids, mask = pad([[5, 6], [7]])
    assert ids.tolist() == [[5, 6], [7, 0]]
    assert mask.tolist() == [[1, 1], [1, 0]]
