"""From one value per example and method to rows with intervals: the form in which every measure reports.

Owns the estimate, its interval and the paired differences between methods. Does not know what was measured.

Decisions
- A value is a sum over a size: hits over examples, wrong characters over characters. The estimate is the sum of sums
  over the sum of sizes, and so is every resampled one, so long examples weigh as much as they hold.
- All methods of an example are drawn together, so differences are paired.
- A share that is the same in every example has no width under the bootstrap, which would claim certainty: there the
  interval is Wilson's, over the resampled units.
- Differences are visual against its three controls, where they were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vist.errors import VistError
from vist.eval.bootstrap import RESAMPLES, interval, resampled_means, resampling_unit, wilson
from vist.eval.conditions import CONTROLS, LABELS

Row = dict[str, Any]
NAMES = {condition.value: label for condition, label in LABELS.items()}
PAIRS = CONTROLS
BY_DISTANCE = "nats at"  # how the metrics begin that are losses by distance: many, so plots have them and tables not


def score_rows(
    metric: str,
    values: Mapping[str, Sequence[float] | np.ndarray],
    sizes: Mapping[str, Sequence[float] | np.ndarray] | None = None,
    groups: Sequence[Any] | None = None,
    pairs: Sequence[tuple[str, str]] = PAIRS,
    resamples: int = RESAMPLES,
    seed: int = 0,
    **axes: Any,
) -> list[Row]:
    """A row for each method and for each pair of methods that were both measured.

    `values` and `sizes`: for each method (n,) sums and what they are out of (None: 1 each, a mean). `groups` (n,) says
    which examples belong together and are drawn as one. `axes` are added to every row. Keys: docs/evaluation.md.
    Raises VistError when there is no example.
    """
    sums = {name: np.asarray(column, dtype=float) for name, column in values.items()}
    number = len(next(iter(sums.values())))
    if number == 0:
        raise VistError(f"There is no example to compute {metric!r} from; give data that is not empty.")
    out_of = {name: np.ones(number) if sizes is None else np.asarray(sizes[name], dtype=float) for name in sums}
    clusters, unit = resampling_unit(np.arange(number) if groups is None else np.asarray(groups))
    unit = {"document": "example" if groups is None else "group", "window": "example"}[unit]
    both = np.stack([*sums.values(), *out_of.values()], axis=1)
    drawn = resampled_means(both, clusters, resamples, seed).T
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = {name: drawn[place] / drawn[len(sums) + place] for place, name in enumerate(sums)}
        estimates = {name: float(np.divide(sums[name].sum(), out_of[name].sum())) for name in sums}
    head = {"metric": metric, "n": number, "unit": unit, **axes}
    rows = [
        head | {"method": name, "label": NAMES.get(name, name), "minus": None, **_bounds(estimates[name], values_)}
        for name, values_ in resampled.items()
    ]
    units = len(np.unique(clusters))
    for row in rows:
        _widen(row, sums[row["method"]], sizes is None, units)
    for first, second in pairs:
        if first in sums and second in sums:
            bounds = _bounds(estimates[first] - estimates[second], resampled[first] - resampled[second])
            rows.append(head | {"method": first, "label": NAMES.get(first, first), "minus": second, **bounds})
    return rows


def _bounds(estimate: float, resampled: np.ndarray) -> Row:
    found = interval(estimate, resampled)
    return {"value": found.estimate, "low": found.low, "high": found.high}


def _widen(row: Row, values: np.ndarray, is_mean: bool, units: int) -> None:
    """Give a share that never varies Wilson's interval."""
    if is_mean and (values == values[0]).all() and values[0] in (0.0, 1.0):
        bounds = wilson(units if values[0] else 0, units)
        row["low"], row["high"] = bounds.low, bounds.high
