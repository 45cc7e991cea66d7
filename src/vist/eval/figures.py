"""Plots of result rows: what each task is looked at for.

Owns which rows become which plot. Colours and themes are `vist.eval.plots`'.

Decisions
- A plot is made of what is there: rows without an axis (ratio, depth, rate) give no plot of it, not an empty one.
- The reference points in the read-back plot are DeepSeek-OCR's published ones (arXiv 2510.18234), another model on
  other pages: they say in what region the question is decided, nothing about who is better.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from vist.eval.modelling_figures import MODELLING_PLOTS, gain_by_length
from vist.eval.plots import COLORS, OTHERS, Themes, both_themes, colors_of, dial_plot, finish
from vist.eval.scores import Row
from vist.eval.tables import is_share

_DEEPSEEK = ((10.0, 0.03), (20.0, 0.40))


def draw_all(rows: Sequence[Row], task: str) -> list[tuple[str, Themes]]:
    """Every plot that these rows of one task and one model allow, with its title."""
    known = [row for row in rows if row["value"] is not None]
    absolute = [row for row in known if row.get("minus") is None]
    drawn = (
        (name, draw(known if draw is gain_by_length else absolute, task)) for name, draw in (*_PLOTS, *MODELLING_PLOTS)
    )
    return [(name, plot) for name, plot in drawn if plot is not None]


def _by_part(rows: list[Row], task: str) -> Themes | None:
    """Estimate and interval of every method, a line for each part: the first metric of the task."""
    if task == "distance" or not rows:
        return None
    metric = rows[0]["metric"]
    chosen = [row for row in rows if row["metric"] == metric and row.get("depth") is None]
    parts, methods = (list(dict.fromkeys(row[key] for row in chosen)) for key in ("part", "method"))
    if not parts:
        return None

    colors = colors_of(methods)

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for number, method in enumerate(methods):
            own = [row for row in chosen if row["method"] == method]
            places = [parts.index(row["part"]) + (number - (len(methods) - 1) / 2) * 0.7 / len(methods) for row in own]
            values = [row["value"] for row in own]
            errors = [
                [max(0.0, row["value"] - _or(row["low"], row["value"])) for row in own],
                [max(0.0, _or(row["high"], row["value"]) - row["value"]) for row in own],
            ]
            label = own[0].get("label") or method
            axes.errorbar(
                values,
                places,
                xerr=errors,
                fmt="o",
                color=colors[method],
                capsize=2,
                markersize=4,
                label=label,
            )
        axes.set_yticks(range(len(parts)), [str(part) for part in parts], fontsize=8)
        axes.set_ylim(len(parts) - 0.5, -0.5)
        axes.set_xlabel(metric)
        finish(figure, axes, is_share(metric), axis="x", legend=len(methods) > 1)

    return both_themes(draw, (7.6, 1.6 + 0.34 * len(parts)))


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _against_ratio(rows: list[Row], task: str) -> Themes | None:
    """The first metric against text tokens per visual token, where parts differ in it."""
    if task not in ("readback", "recall", "icl", "qa") or not rows:
        return None
    metric = rows[0]["metric"]
    chosen = [row for row in rows if row["metric"] == metric and row.get("ratio") and row["method"] == "visual"]
    if len({round(row["ratio"], 3) for row in chosen}) < 2:
        return None
    chosen.sort(key=lambda row: row["ratio"])
    series = sorted({str(row["part"]).partition(":")[0] if task == "recall" else "" for row in chosen})
    colors = colors_of(series) | {series[0]: COLORS["visual"]}

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        for name in series:
            own = [row for row in chosen if not name or str(row["part"]).startswith(f"{name}:")]
            ratios, values = [row["ratio"] for row in own], [row["value"] for row in own]
            lows, highs = ([_or(row[key], row["value"]) for row in own] for key in ("low", "high"))
            color = colors[name]
            label = f"visual context, {name}" if name else "visual context"
            axes.plot(ratios, values, "o-" if task in ("readback", "recall") else "o", color=color, label=label)
            axes.vlines(ratios, lows, highs, color=color, linewidth=1)
        for row in chosen:
            axes.annotate(
                str(row["part"]), (row["ratio"], row["value"]), (4, 4), textcoords="offset points", fontsize=7
            )
        if metric == "cer":
            axes.plot(*zip(*_DEEPSEEK, strict=True), "x", color=COLORS["none"], label="DeepSeek-OCR, as published")
        axes.set_xlabel("text tokens per visual token")
        axes.set_ylabel(metric)
        finish(figure, axes, is_share(metric), axis="y")

    return both_themes(draw, (6.4, 3.8))


def _by_kind(rows: list[Row], task: str) -> Themes | None:
    """Exact recall of every kind of needle against the ratio: where which kind breaks."""
    chosen = [row for row in rows if task == "recall" and row["metric"].startswith("exact:") and row.get("ratio")]
    chosen = sorted((row for row in chosen if row["method"] == "visual"), key=lambda row: row["ratio"])
    kinds = list(dict.fromkeys(row["metric"].partition(":")[2] for row in chosen))
    if len({round(row["ratio"], 3) for row in chosen}) < 2:
        return None

    def draw(figure: Figure) -> None:
        panels = list(figure.subplots(-(-len(kinds) // 4), 4, sharex=True, sharey=True, squeeze=False).flat)
        for kind, axes in zip(kinds, panels, strict=False):
            own = [row for row in chosen if row["metric"] == f"exact:{kind}"]
            ratios = [row["ratio"] for row in own]
            axes.plot(ratios, [row["value"] for row in own], "o-", markersize=4, color=COLORS["visual"])
            lows, highs = ([_or(row[key], row["value"]) for row in own] for key in ("low", "high"))
            axes.fill_between(ratios, lows, highs, color=COLORS["visual"], alpha=0.15, linewidth=0)
            axes.set_title(kind, fontsize=9, loc="left")
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(PercentFormatter(1))
            axes.grid(alpha=0.25)
        for axes in panels[len(kinds) :]:
            axes.set_axis_off()
        figure.supxlabel("text tokens per visual token", fontsize=9)

    return both_themes(draw, (8.4, 0.6 + 1.6 * -(-len(kinds) // 4)))


def _dial(rows: list[Row], task: str) -> Themes | None:
    """Perplexity and exact recall of one checkpoint at many ratios."""
    return dial_plot(rows) if task == "dial" and rows else None


def _heat_map(rows: list[Row], task: str) -> Themes | None:
    """Exact recall by needle depth and context length."""
    cells = {
        (row["pages"], row["depth"]): row["value"]
        for row in rows
        if task == "recall" and row["method"] == "visual" and row.get("depth") is not None and row["metric"] == "exact"
    }
    if not cells:
        return None
    lengths, depths = (sorted({key[axis] for key in cells}) for axis in (0, 1))
    values = np.array([[cells.get((length, depth), np.nan) for length in lengths] for depth in depths])

    def draw(figure: Figure) -> None:
        axes = figure.add_subplot()
        shown = axes.imshow(values, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axes.set_xticks(range(len(lengths)), [str(length) for length in lengths])
        axes.set_yticks(range(len(depths)), [f"{depth:.0%}" for depth in depths])
        axes.set_xlabel("context, pages")
        axes.set_ylabel("depth of the needle")
        for (row, column), value in np.ndenumerate(values):
            if value == value:
                axes.annotate(
                    f"{value:.0%}", (column, row), ha="center", va="center", color="black" if value > 0.6 else "white"
                )
        figure.colorbar(shown, ax=axes, format=PercentFormatter(1), label="exact")

    return both_themes(draw, (1.2 + 0.9 * max(3, len(lengths)), 1.4 + 0.5 * max(3, len(depths))))


def _distance_curves(rows: list[Row], task: str) -> Themes | None:
    """Text-visual distance and information kept against the masking rate, a panel for each part."""
    if task != "distance" or not rows:
        return None
    parts = list(dict.fromkeys(row["part"] for row in rows))

    def draw(figure: Figure) -> None:
        panels = figure.subplots(len(parts), 2, squeeze=False)
        for part, (left, right) in zip(parts, panels, strict=True):
            for number, order in enumerate(("rare", "frequent", "random")):
                for axes, metric, method in ((left, "distance", "visual"), (right, "kept", "text")):
                    own = [row for row in rows if row["part"] == part and row.get("order") == order]
                    own = [row for row in own if row["metric"].startswith(f"{metric}:") and row["method"] == method]
                    rates, values = [row["rate"] for row in own], [row["value"] for row in own]
                    axes.plot(rates, values, "o-", markersize=3, color=OTHERS[number], label=f"{order} tokens first")
                    lows, highs = ([_or(row[key], row["value"]) for row in own] for key in ("low", "high"))
                    axes.fill_between(rates, lows, highs, color=OTHERS[number], alpha=0.15, linewidth=0)
                    axes.xaxis.set_major_formatter(PercentFormatter(1))
                    axes.grid(alpha=0.25)
            left.set_ylabel(f"{part}\ncosine distance", fontsize=8)
            right.set_ylabel("information kept", fontsize=8)
            right.yaxis.set_major_formatter(PercentFormatter(1))
        for axes in panels[-1]:
            axes.set_xlabel("tokens masked")
        handles, labels = panels[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)

    return both_themes(draw, (8.4, 0.9 + 2.3 * len(parts)))


_PLOTS: tuple[tuple[str, Callable[[list[Row], str], Themes | None]], ...] = (
    ("by part", _by_part),
    ("against ratio", _against_ratio),
    ("kinds of needles against ratio", _by_kind),
    ("the dial", _dial),
    ("recall by depth and length", _heat_map),
    ("masking against distance", _distance_curves),
)
