"""Intervals: bootstrap over documents for means and their differences, Wilson for shares.

Owns resampling and nothing else. Does not know models, texts or conditions.

Decisions
- Windows of one document resemble each other, so whole documents are resampled; a window counts as a document of its
  own where there are too few documents to resample (`MIN_CLUSTERS`), and the result says which unit was used.
- Resampling is by multinomial counts: one matrix product instead of ten thousand index arrays.
- All conditions of a window are drawn together, so every difference is paired.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
MIN_CLUSTERS = 5
_CHUNK = 1_000


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the whole interval lies on one side of zero."""
        return self.low > 0 or self.high < 0

    def to_dict(self) -> dict[str, float]:
        """Plain numbers, for JSON."""
        return {"estimate": self.estimate, "low": self.low, "high": self.high}


def resampling_unit(documents: np.ndarray) -> tuple[np.ndarray, str]:
    """What to resample: cluster number of each row (n,) and its name, "document" or "window".

    `documents` (n,) is the document of each row.
    """
    names, clusters = np.unique(documents, return_inverse=True)
    if len(names) >= MIN_CLUSTERS:
        return clusters, "document"
    return np.arange(len(documents)), "window"


def resampled_means(values: np.ndarray, clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Mean of each column in each resample: `values` (n, k), `clusters` (n,) -> (resamples, k).

    Clusters are drawn with replacement; a cluster brings all its rows each time it is drawn.
    """
    count = int(clusters.max()) + 1
    sums = np.zeros((count, values.shape[1]))
    np.add.at(sums, clusters, values)
    sizes = np.bincount(clusters, minlength=count).astype(float)
    rng, means = np.random.default_rng(seed), []
    for start in range(0, resamples, _CHUNK):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(_CHUNK, resamples - start))
        means.append((drawn @ sums) / (drawn @ sizes)[:, None])
    return np.concatenate(means)


def interval(estimate: float, resampled: np.ndarray) -> Interval:
    """The middle 95 % of the resampled values around an estimate; values that are not finite are left out.

    An estimate that is not a number has no interval either.
    """
    finite = resampled[np.isfinite(resampled)] if math.isfinite(estimate) else resampled[:0]
    low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (math.nan, math.nan)
    return Interval(float(estimate), float(low), float(high))


def wilson(hits: int, trials: int) -> Interval:
    """Wilson's 95 % interval of a share; holds at 0 % and 100 % too, where the bootstrap would have no width."""
    if trials == 0:
        return Interval(math.nan, 0.0, 1.0)
    z = 1.959963984540054
    share, spread = hits / trials, z * z / trials
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / trials + spread / (4 * trials)) / (1 + spread)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))
