"""The plot of a search: every style that was read, and the front of those that none beats.

Owns axes and marks. Does not know how a style was scored.
"""

from __future__ import annotations

import io
import math

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from vist.tune.archive import Found
from vist.tune.run import Outcome

FRONT = "#0b7bc1"


def front_plot(outcome: Outcome, reader: str, marked: dict[str, Found]) -> bytes:
    """Return a PNG: tokens for 1,000 characters against accuracy; `marked` styles are named."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained", dpi=100)
    axes = figure.add_subplot()
    shown = [each for each in outcome.found if each.score.tokens < math.inf]
    points = axes.scatter(
        [each.score.tokens for each in shown],
        [each.score.accuracy for each in shown],
        c=[each.generation for each in shown],
        cmap="cividis_r",
        s=16,
    )
    figure.colorbar(points, label="generation", ticks=MaxNLocator(integer=True))
    front = outcome.archive.front
    tokens, accuracy = [each.score.tokens for each in front], [each.score.accuracy for each in front]
    axes.step(tokens, accuracy, where="post", color=FRONT, marker="o", markersize=4, label="not beaten")
    for name, each in marked.items():
        if each.score.tokens < math.inf:
            place = (each.score.tokens, each.score.accuracy)
            axes.plot(*place, marker="x", color="#d9822b")
            axes.annotate(name, place, (5, -10), textcoords="offset points", color="#d9822b")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("tokens for 1,000 characters")
    axes.set_ylabel("characters read right")
    axes.set_title(reader, fontsize=10, loc="left")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
