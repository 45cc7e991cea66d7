"""The report's plots as SVG text, one for a light page and one for a dark page.

Owns colours and axes. Does not know where the figures come from: it reads the rows of `report.json`.

Decisions
- Figures are made without pyplot: no window system, nothing global.
- The four conditions have one colour each in every plot, told apart also by colour-blind readers and by position.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

COLORS = {"none": "#8a8f98", "visual": "#0b7bc1", "wrong": "#d9822b", "full": "#2f9e6e"}
OTHER = "#7b5ea7"  # a method beside the four conditions
INK = {"light": "#22252a", "dark": "#e6e8eb"}
DIAL_COLORS = {"nested": "#0b7bc1", "adaptive": "#8a4fbf", "all": "#2f9e6e", "fixed": "#7a5c00"}
DIAL_COLORS |= {"wrong": COLORS["wrong"], "none": COLORS["none"]}
COSTS = (
    ("flops", 1e-9, "GFLOPs to read"),
    ("peak_bytes", 2**-20, "peak memory, MiB"),
    ("ttft_s", 1e3, "first token, ms"),
    ("tokens_per_s", 1, "tokens per second"),
)
OTHERS = ("#8a5fb0", "#b5473c", "#8c6d31", "#d46a9f", "#1f8fa6", "#7f9a1a", "#5b6b8c", "#4d7c3a", "#b08d00", "#4a4fc4")
Rows = Sequence[dict[str, Any]]
Themes = dict[str, str]


def both_themes(draw: Callable[[Figure], None], size: tuple[float, float]) -> dict[str, str]:
    """The plot as SVG text under "light" and "dark"; `draw` fills an empty figure of `size` inches."""
    drawn = {}
    for theme, ink in INK.items():
        settings: Any = {"text.color": ink, "axes.labelcolor": ink, "xtick.color": ink, "ytick.color": ink}
        settings |= {"axes.edgecolor": ink, "svg.fonttype": "path", "svg.hashsalt": "vist", "font.size": 10}
        with rc_context(settings):
            figure = Figure(figsize=size, layout="constrained")
            draw(figure)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        drawn[theme] = buffer.getvalue()
    return drawn


def colors_of(methods: Iterable[str]) -> dict[str, str]:
    """A colour for each method: a condition's own, for the others one each in the order of their names.

    The same methods have the same colours in every plot; colours repeat beyond ten others.
    """
    others = sorted(set(methods) - set(COLORS))
    return COLORS | {name: OTHERS[place % len(OTHERS)] for place, name in enumerate(others)}


def perplexity_plot(methods: Rows) -> dict[str, str]:
    """Perplexity by condition with its interval; points, since the axis does not begin at zero."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for place, row in enumerate(methods):
            errors = [[max(0, row["ppl"] - row["ppl_low"])], [max(0, row["ppl_high"] - row["ppl"])]]
            axes.errorbar(
                place,
                row["ppl"],
                yerr=errors,
                fmt="o",
                markersize=9,
                color=COLORS.get(row["name"], OTHER),
                capsize=5,
                linewidth=2,
            )
            axes.annotate(f"{row['ppl']:.1f}", (place, row["ppl"]), (10, -4), textcoords="offset points")
        _name_conditions(axes, methods)
        axes.set_ylabel("perplexity")
        axes.set_xlim(-0.5, len(methods) - 0.4)
        axes.margins(y=0.12)

    return both_themes(draw, (6.4, 3.7))


def recall_plot(rows: Rows) -> dict[str, str]:
    """Exact recall by condition and kind of fact, with intervals."""
    kinds = [kind for kind in dict.fromkeys(row["kind"] for row in rows) if kind != "all"]
    methods = list(dict.fromkeys(row["method"] for row in rows))

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        width = 0.8 / len(methods)
        for number, method in enumerate(methods):
            chosen = [row for kind in kinds for row in rows if row["method"] == method and row["kind"] == kind]
            places = [place + (number - (len(methods) - 1) / 2) * width for place in range(len(kinds))]
            _shares(axes, chosen, places, width * 0.92, COLORS.get(method, OTHER), chosen[0]["label"])
        axes.set_xticks(range(len(kinds)), [f"{kind}s" for kind in kinds])
        _share_axis(axes)
        _legend(figure)

    return both_themes(draw, (6.4, 3.6))


def depth_plot(rows: Rows, labels: dict[str, str]) -> dict[str, str]:
    """Exact recall by the page on which the fact stands, a line for each condition."""

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        pages = sorted({row["page"] for row in rows})
        for method, label in labels.items():
            chosen = sorted((row for row in rows if row["method"] == method), key=lambda row: row["page"])
            axes.plot(
                [row["page"] for row in chosen],
                [row["exact"] for row in chosen],
                color=COLORS.get(method, OTHER),
                marker="o",
                label=label,
                clip_on=False,
            )
        axes.set_xticks(pages)
        axes.set_xlabel("page of the fact (the last one is the nearest)")
        _share_axis(axes)
        _legend(figure)

    return both_themes(draw, (6.4, 3.6))


def cost_plot(methods: Rows) -> dict[str, str]:
    """FLOPs, memory, time to first token and speed by condition, a panel each."""

    def draw(figure: Figure) -> None:
        for axes, (key, scale, title) in zip(figure.subplots(2, 2).flat, COSTS, strict=True):
            values = [row[key] * scale for row in methods]
            _bars(axes, methods, values)
            for place, value in enumerate(values):
                axes.annotate(
                    f"{value:,.3g}" if value < 1000 else f"{value:,.0f}",
                    (place, value),
                    (0, 3),
                    textcoords="offset points",
                    ha="center",
                )
            axes.set_title(title, fontsize=10, loc="left")
            axes.margins(y=0.15)

    return both_themes(draw, (8.6, 5.2))


def dial_plot(rows: Rows) -> dict[str, str]:
    """Perplexity and exact recall against the ratio that was read: lines for what turns, points for what does not."""

    def draw(figure: Figure) -> None:
        panels = zip(figure.subplots(1, 2), ("perplexity", "exact"), strict=True)
        for number, (axes, metric) in enumerate(panels):
            chosen = [row for row in rows if row["metric"] == metric and row["minus"] is None]
            for method, color in DIAL_COLORS.items():
                _curve(axes, [row for row in chosen if row["method"] == method], color, method if number == 0 else None)
            axes.set_xscale("log", base=2)
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.set_xlabel("text tokens per visual token")
            axes.set_ylabel(metric)
            _clean(axes)
        _share_axis(axes)
        _legend(figure)

    return both_themes(draw, (8.6, 3.8))


def _curve(axes: Axes, rows: Rows, color: str, label: str | None) -> None:
    """A line through the points of a method; a line across where it has no ratio (no context)."""
    points = sorted({(row["ratio"], row["value"], row["low"], row["high"]) for row in rows if row["ratio"]})
    if points:
        x, y, low, high = zip(*points, strict=True)
        errors = [
            [max(0, a - b) for a, b in zip(y, low, strict=True)],
            [max(0, b - a) for a, b in zip(y, high, strict=True)],
        ]
        line = "-" if rows[0]["method"] in ("nested", "adaptive", "wrong") else ""
        axes.errorbar(x, y, yerr=errors, fmt=f"o{line}", markersize=5, color=color, capsize=3, label=label)
    elif rows:
        axes.axhline(rows[0]["value"], color=color, linestyle="--", linewidth=1, label=label)


def _bars(axes: Axes, methods: Rows, values: list[float]) -> None:
    axes.bar(range(len(values)), values, width=0.62, color=[COLORS.get(row["name"], OTHER) for row in methods])
    _name_conditions(axes, methods)


def _name_conditions(axes: Axes, methods: Rows) -> None:
    axes.set_xticks(range(len(methods)), [row["label"].replace(" ", "\n", 1) for row in methods])
    _clean(axes)


def _shares(axes: Axes, rows: Rows, places: list[float], width: float, color: str, label: str) -> None:
    values = [row["exact"] for row in rows]
    errors = [
        [max(0, row["exact"] - row["low"]) for row in rows],
        [max(0, row["high"] - row["exact"]) for row in rows],
    ]
    axes.bar(places, values, width, color=color, label=label)
    axes.errorbar(places, values, yerr=errors, fmt="none", ecolor=axes.spines["left"].get_edgecolor(), capsize=3)


def _share_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1.02)
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.set_ylabel("exact answers")
    _clean(axes)


def _clean(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)


def _legend(figure: Figure) -> None:
    figure.legend(loc="outside lower center", ncols=4, frameon=False)


def finish(figure: Figure, axes: Axes, share: bool, axis: Literal["x", "y"], legend: bool = True) -> None:
    """What every plot of rows ends with: per cent on `axis` where values are shares, a grid, a legend below."""
    if share:
        (axes.xaxis if axis == "x" else axes.yaxis).set_major_formatter(PercentFormatter(1))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=axis, alpha=0.25)
    if legend:
        figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
