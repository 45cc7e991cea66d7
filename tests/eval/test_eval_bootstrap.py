"""Intervals against plain loops and published figures."""

from __future__ import annotations

import numpy as np
import pytest

from vist.eval.bootstrap import interval, resampled_means, resampling_unit, wilson


def slow_bootstrap(values: np.ndarray, clusters: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Draw whole clusters by index, gather their rows, take the mean."""
    rng, names, means = np.random.default_rng(seed), np.unique(clusters), []
    for _ in range(resamples):
        rows = np.concatenate([np.flatnonzero(clusters == name) for name in rng.choice(names, len(names))])
        means.append(values[rows].mean(0))
    return np.array(means)


def test_bootstrap_agrees_with_a_plain_loop_over_clusters() -> None:
    rng = np.random.default_rng(0)
    clusters = rng.integers(0, 12, 60)
    values = rng.normal(size=(60, 2)) + clusters[:, None] * [0.3, 0.1]
    fast = resampled_means(values, clusters, 10_000, seed=1)
    slow = slow_bootstrap(values, clusters, 3_000, seed=2)
    assert fast.shape == (10_000, 2)
    np.testing.assert_allclose(fast.mean(0), slow.mean(0), atol=0.03)
    np.testing.assert_allclose(fast.std(0), slow.std(0), rtol=0.06)
    difference = np.percentile(fast[:, 0] - fast[:, 1], [2.5, 97.5])
    np.testing.assert_allclose(difference, np.percentile(slow[:, 0] - slow[:, 1], [2.5, 97.5]), atol=0.06)


def test_windows_of_one_document_move_together() -> None:
    clusters = np.repeat(np.arange(10), 30)
    values = clusters[:, None].astype(float)  # all windows of a document are alike: 10 facts, not 300
    by_document = resampled_means(values, clusters, 2_000)
    by_window = resampled_means(values, np.arange(300), 2_000)
    assert by_document.std() > 4 * by_window.std()


def test_few_documents_are_resampled_by_window() -> None:
    assert resampling_unit(np.array([0, 0, 1, 1]))[1] == "window"
    clusters, unit = resampling_unit(np.repeat(np.arange(10, 18), 2))
    assert unit == "document"
    assert clusters.tolist() == np.repeat(np.arange(8), 2).tolist()


def test_bootstrap_is_the_same_for_the_same_seed() -> None:
    values = np.random.default_rng(0).normal(size=(20, 1))
    first, second, other = (resampled_means(values, np.arange(20), 1_500, seed=seed) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


def test_interval_leaves_out_ratios_that_do_not_exist() -> None:
    found = interval(1.0, np.array([np.inf, np.nan, 0.5, 1.5]))
    assert 0.5 <= found.low < found.high <= 1.5


@pytest.mark.parametrize(
    ("hits", "trials", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (81, 263, 0.2553, 0.3662), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_matches_published_intervals(hits: int, trials: int, low: float, high: float) -> None:
    found = wilson(hits, trials)  # the last two: Newcombe 1998, table I
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))
    assert found.estimate == hits / trials
