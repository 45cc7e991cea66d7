"""Tables and plots of rows: every figure is there, limits and commits are said, nothing is loaded from elsewhere."""

from __future__ import annotations

import csv
import io
import itertools
import re

import numpy as np
import pytest

from vist.eval.figures import draw_all
from vist.eval.modelling_figures import pareto
from vist.eval.plots import COLORS, colors_of
from vist.eval.scores import score_rows
from vist.eval.sheet import UNFOLDED, render_results
from vist.eval.tables import cell, grouped, to_csv, to_markdown

HEAD = {"commit": "a" * 40, "versions": {"vist": "1"}, "command": "vist eval <x>", "date": "d", "model": "m"}
HEAD |= {"hardware": "two cores", "seed": 0, "limit": None}


def made(task: str, part: str, metric: str, head: dict | None = None, **axes: object) -> list[dict]:
    rng = np.random.default_rng(len(part))
    values = {name: rng.integers(0, 2, 30).astype(float) for name in ("none", "visual", "wrong", "full")}
    rows = score_rows(metric, values, resamples=200, **axes)
    return [{"task": task, "part": part} | row | HEAD | (head or {}) for row in rows]


ROWS = [
    *made("icl", "sst2", "nll_acc"),
    *made("icl", "a <b>set</b> | x", "nll_acc", {"limit": 7}),
    *made("readback", "vist", "cer", ratio=3.5),
    *made("readback", "vist-7", "cer", ratio=5.0),
    *[
        row
        for depth in (0.0, 1.0)
        for pages in (1, 2)
        for row in made("recall", f"grid: {pages} {depth}", "exact", depth=depth, pages=pages)
    ],
    *[
        row
        for order, rate in itertools.product(("rare", "frequent", "random"), (0.0, 0.5))
        for name in ("distance", "kept")
        for row in made("distance", "books", f"{name}:{order} {rate:.0%}", order=order, rate=rate)
    ],
    *[row | {"flops": 1e9 * (1 + len(row["method"]))} for row in made("lm", "books", "perplexity")],
]


def test_markdown_has_every_figure_and_its_origin() -> None:
    page = to_markdown(ROWS)
    for row in ROWS:
        assert cell(row).replace("|", "\\|") in page
    assert "command: `vist eval <x>`" in page
    assert "hardware: `two cores`" in page
    assert "Limited to 7 examples" in page
    assert "(limited to 7)" in page
    assert "a <b>set</b> \\| x" in page
    widths = [{line.count(" | ") for line in block.splitlines()} for block in re.findall(r"(?:^\|.*\n)+", page, re.M)]
    assert all(len(width) <= 2 for width in widths)  # the escaped stroke of one part adds one


def test_one_part_under_two_setups_has_two_lines() -> None:
    twice = [row for digest in ("aa", "bb") for row in made("icl", "sst2", "nll_acc", {"setup_digest": digest})]
    page = to_markdown(twice)
    assert "| sst2 (setup aa) |" in page and "| sst2 (setup bb) |" in page
    assert "(setup" not in to_markdown(twice[: len(twice) // 2])


def test_shares_are_per_cent_and_differences_have_signs() -> None:
    row = {"metric": "exact:hex", "value": 0.5, "low": 0.25, "high": 0.75, "minus": None}
    assert cell(row) == "50.0% [25.0, 75.0]"
    assert cell(row | {"minus": "none"}) == "+50.0% [+25.0, +75.0]"
    assert cell(row | {"metric": "perplexity", "value": 12.34}) == "12.3 [0.2, 0.8]"
    assert cell(row | {"value": None}) == "-"


def test_csv_holds_all_rows_unrounded() -> None:
    read = list(csv.DictReader(io.StringIO(to_csv(ROWS))))
    assert len(read) == len(ROWS)
    assert [float(row["value"]) for row in read] == [row["value"] for row in ROWS]
    assert {row["commit"] for row in read} == {"a" * 40}


def test_rows_of_several_commits_name_their_own() -> None:
    rows = [*made("icl", "sst2", "nll_acc"), *made("icl", "sst2", "nll_acc", {"commit": "b" * 40})]
    page = to_markdown(rows, mark_commits=True)
    assert "several commits" in page
    assert page.count("aaaaaaaaaaaa |") == page.count("bbbbbbbbbbbb |") == 2
    assert "several commits" in render_results(rows, mark_commits=True)


def plots_of(rows: list[dict]) -> list[str]:
    return [f"{task}: {name}" for (task, _), own in grouped(rows).items() for name, _ in draw_all(own, task)]


def test_the_page_has_all_plots_and_loads_nothing() -> None:
    titles = plots_of(ROWS)
    for wanted in (
        "icl: by part",
        "readback: against ratio",
        "recall: recall by depth",
        "distance: masking",
        "lm: cost",
    ):
        assert any(title.startswith(wanted) for title in titles), wanted
    page = render_results(ROWS)
    sources = re.findall(r'(?:src|srcset|href)="([^"]*)"', page)
    tasks = {f"#{number + 1}" for number in range(len(grouped(ROWS)))}
    assert {source for source in sources if not source.startswith("data:image/svg+xml;base64,")} == tasks
    assert len(sources) == 2 * len(titles) + len(tasks)
    assert all(page.index(f'id="{link[1:]}"') > page.index(f'href="{link}"') for link in tasks)
    assert "<script" not in page
    assert "a <b>set</b>" not in page
    assert "A quick look" in page


def test_language_modelling_is_drawn_by_length_and_distance() -> None:
    rows = [
        row | {"text_tokens": 150.0 * pages}
        for pages in (1, 4)
        for row in (
            *made("lm", f"books, {pages} pages", "perplexity"),
            *made("lm", f"books, {pages} pages", "nats per token"),
            *(
                row
                for place in (1, 33)
                for row in made("lm", f"books, {pages} pages", f"nats at {place}", distance=place)
            ),
        )
    ]
    assert plots_of(rows) == [
        "lm: by part",
        "lm: gain by length of the context",
        "lm: loss by distance from the context",
    ]
    assert "nats at" not in to_markdown(rows) and "nats at 33" in to_csv(rows)


def test_recall_breaks_by_kind_and_the_dial_has_its_plot() -> None:
    rows = [
        row
        for style, ratio in (("vist", 2.0), ("vist-7", 3.0))
        for metric in ("exact", "exact:hex", "exact:date")
        for row in made("recall", f"all: {style}, 4 pages", metric, ratio=ratio)
    ]
    rows += made("dial", "ratio 4", "perplexity", ratio=4.0)
    titles = set(plots_of(rows))
    assert {"recall: against ratio", "recall: kinds of needles against ratio", "dial: the dial"} <= titles


def test_no_plot_without_its_axis() -> None:
    assert plots_of(made("readback", "vist", "cer", ratio=3.5)) == ["readback: by part"]


def test_long_tables_are_folded_and_short_ones_are_not() -> None:
    short = made("icl", "sst2", "nll_acc")
    long = [row for number in range(UNFOLDED + 1) for row in made("recall", f"part {number}", "exact")]
    folded = re.findall(r"<details( open)?>\s*<summary>(.*?)</summary>", render_results([*short, *long]))
    assert [line.partition(":")[0] for _, line in folded] == ["estimates", "paired differences"] * 2
    assert [bool(open) for open, _ in folded] == [True, True, False, False]
    assert f"{UNFOLDED + 1} lines" in folded[2][1] and folded[0][1].endswith(" 1 line")


def test_methods_are_told_apart_by_the_same_colours_in_every_plot() -> None:
    others = ["streaming:600", "replug", *(f"baseline-{name}" for name in ("pooled", "cepe", "tome", "fastv", "conv"))]
    colors = colors_of([*others, "none", "visual"])
    assert colors == colors_of(["visual", "wrong", *reversed(others), *others])
    used = [colors[name] for name in (*COLORS, *others)]
    assert len(set(used)) == len(used) and used[:4] == list(COLORS.values())
    rows = made("lm", "books", "perplexity")
    rows += [rows[1] | {"method": name, "label": name} for name in others]
    pages = [row | {"flops": 1e9 * number, "part": part} for part in "ab" for number, row in enumerate(rows)]
    rows = [row for row in pages if (row["part"], row["method"]) != ("a", "replug")]
    plots = {name: plot["light"] for name, plot in draw_all(rows, "lm")}
    assert all(colors[other] in plots["by part"] for other in others)
    once, twice = (plots["cost against quality"].count(colors[name]) for name in ("replug", "baseline-tome"))
    assert 2 * once > twice > once > 0  # in one panel or in both, and once more in the legend


@pytest.mark.parametrize(
    ("points", "front"),
    [([(1, 5), (2, 4), (3, 6)], [0, 1]), ([(2, 1), (1, 1)], [1]), ([(1, 3)], [0]), ([(1, 2), (1, 1), (2, 1)], [1])],
)
def test_the_front_is_what_nothing_beats(points: list, front: list) -> None:
    assert pareto(points) == front
    beaten = [any(a <= x and b <= y and (a, b) != (x, y) for a, b in points) for x, y in points]
    assert sorted(front) == [number for number, lost in enumerate(beaten) if not lost]
