"""Plots of language modelling: gain by length of the context, loss by distance from it, cost against quality.

Owns which rows become which plot. Colours and themes are `vist.eval.plots`'.

Decisions
- Windows of different lengths of context score different tokens, so perplexities are not joined by a line over lengths:
  what is drawn is the paired difference to no context.
- The Pareto front is drawn for each part by itself, since only there methods have read the same text. Wrong pages are
  left out: they cost what pages cost and are no method.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vist.eval.plots import COLORS, Themes, both_themes, colors_of, finish
from vist.eval.scores import BY_DISTANCE, Row

_COLUMNS = 3


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Numbers of the (cost, loss) points that no other point beats in both, cheapest first."""
    front: list[int] = []
    for number in sorted(range(len(points)), key=lambda place: points[place]):
        if not front or points[number][1] < points[front[-1]][1]:
            front.append(number)
    return front


def cost_quality(rows: list[Row], task: str) -> Themes | None:
    """Perplexity against FLOPs over methods, with the Pareto front, a panel for each part."""
    chosen = [row for row in rows if row["metric"] == "perplexity" and row.get("flops") and row["method"] != "wrong"]
    if task != "lm" or len(chosen) < 2:
        return None
    colors = colors_of(row["method"] for row in chosen)

    def draw(axes: Axes, own: list[Row]) -> None:
        front = [own[number] for number in pareto([(row["flops"], row["value"]) for row in own])]
        axes.plot([row["flops"] / 1e9 for row in front], [row["value"] for row in front], color=COLORS["none"])
        for row in own:
            name = str(row.get("label") or row["method"])
            axes.plot(row["flops"] / 1e9, row["value"], "o", color=colors[row["method"]], label=name)
        axes.margins(x=0.1, y=0.15)
        axes.set_xlabel("GFLOPs to read one window", fontsize=8)

    return _panels(chosen, draw, "perplexity", legend=True)


def loss_by_distance(rows: list[Row], task: str) -> Themes | None:
    """Nats per token against the distance from the context, a line for each method, a panel for each part."""
    chosen = [row for row in rows if task == "lm" and row["metric"].startswith(BY_DISTANCE)]
    if not chosen:
        return None
    colors = colors_of(row["method"] for row in chosen)

    def draw(axes: Axes, own: list[Row]) -> None:
        for method in dict.fromkeys(row["method"] for row in own):
            line = sorted((row for row in own if row["method"] == method), key=lambda row: row["distance"])
            places, values = [row["distance"] for row in line], [row["value"] for row in line]
            axes.plot(places, values, "o-", markersize=3, color=colors[method], label=line[0]["label"])
        axes.set_xlabel("tokens after the context", fontsize=8)

    return _panels(chosen, draw, "nats per token", legend=True)


def gain_by_length(rows: list[Row], task: str) -> Themes | None:
    """Nats per token gained over no context, against the length of the distant text, a panel for each file.

    Takes differences too, which other plots do not.
    """
    chosen = [row for row in rows if row["metric"] == "nats per token" and row.get("minus") == "none"]
    chosen = [row | {"part": row["part"].rpartition(", ")[0]} for row in chosen if row.get("text_tokens")]
    if task != "lm" or len({(row["part"], row["text_tokens"]) for row in chosen}) < 2:
        return None
    colors = colors_of(row["method"] for row in chosen)

    def draw(axes: Axes, own: list[Row]) -> None:
        axes.axhline(0, color=COLORS["none"], linestyle="--", linewidth=1)
        for method in dict.fromkeys(row["method"] for row in own):
            line = sorted((row for row in own if row["method"] == method), key=lambda row: row["text_tokens"])
            lengths, values = [row["text_tokens"] for row in line], [row["value"] for row in line]
            errors = [
                [max(0.0, row["value"] - row["low"]) for row in line],
                [max(0.0, row["high"] - row["value"]) for row in line],
            ]
            color = colors[method]
            axes.errorbar(lengths, values, yerr=errors, fmt="o-", markersize=4, capsize=2, color=color, label=method)
        axes.set_xlabel("tokens of distant text", fontsize=8)

    return _panels(chosen, draw, "nats per token\nagainst no context", legend=True)


def _panels(rows: list[Row], draw: Callable[[Axes, list[Row]], None], ylabel: str, legend: bool = False) -> Themes:
    """A panel for each part."""
    parts = list(dict.fromkeys(str(row["part"]) for row in rows))
    columns = min(_COLUMNS, len(parts))
    lines = -(-len(parts) // columns)

    def fill(figure: Figure) -> None:
        panels = list(figure.subplots(lines, columns, squeeze=False).flat)
        for number, (part, axes) in enumerate(zip(parts, panels, strict=False)):
            draw(axes, [row for row in rows if row["part"] == part])
            axes.set_title(part, fontsize=9, loc="left")
            axes.tick_params(labelsize=8)
            finish(figure, axes, False, axis="y", legend=False)
            if number % columns == 0:
                axes.set_ylabel(ylabel, fontsize=8)
        for axes in panels[len(parts) :]:
            axes.set_axis_off()
        if legend:
            shown = [axes.get_legend_handles_labels() for axes in panels[: len(parts)]]
            named = {label: handle for handles, labels in shown for handle, label in zip(handles, labels, strict=True)}
            figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=8)

    return both_themes(fill, (max(5.4, 2.9 * columns), 0.8 + 2.3 * lines))


MODELLING_PLOTS: tuple[tuple[str, Callable[[list[Row], str], Themes | None]], ...] = (
    ("gain by length of the context", gain_by_length),
    ("loss by distance from the context", loss_by_distance),
    ("cost against quality", cost_quality),
)
