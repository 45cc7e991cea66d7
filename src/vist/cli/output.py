"""What verbs print: tables on standard output, remarks on standard error.

Owns the look of the tables. The figures come in the rows that also go into the JSON files.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from vist.gateway.quote import Quote

Row = dict[str, Any]


def console() -> Console:
    """A console on standard output; without a terminal it is wide enough that tables keep their columns."""
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False, soft_wrap=False)


def say_limit(screen: Console, limit: int | None) -> None:
    """Say above a table that it is a quick look."""
    if limit is not None:
        screen.print(f"LIMITED: at most {limit} examples of each part (--limit {limit}); not a result.")


def remark(message: str) -> None:
    """A line for the person, on standard error, so that standard output holds results only."""
    print(message, file=sys.stderr, flush=True)


def methods_table(rows: list[Row], scored: int) -> Table:
    """Quality by condition and, where it was measured, cost."""
    with_cost = all("flops" in row for row in rows)
    columns = ["", "context tokens", "ratio", f"perplexity of the last {scored}"]
    columns += ["FLOPs", "peak memory", "first token", "tokens/s"] if with_cost else []
    table = _table(columns)
    for row in rows:
        cut = f" (-{row['dropped_tokens']:.0f})" if row["dropped_tokens"] else ""
        cells = [f"{row['context_tokens']:.0f}{cut}", _ratio(row["ratio"])]
        cells.append(f"{row['ppl']:.2f}  [{row['ppl_low']:.2f}, {row['ppl_high']:.2f}]".replace("[", "\\["))
        cells += _cost(row) if with_cost else []
        table.add_row(row["label"], *cells, style="bold" if row["name"] == "visual" else None)
    return table


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _cost(row: Row) -> list[str]:
    return [
        f"{row['flops'] / 1e9:.2f} G",
        f"{row['peak_bytes'] / 2**20:.0f} MiB (+{row['peak_rise_bytes'] / 2**20:.0f})",
        f"{row['ttft_s'] * 1000:.0f} ms",
        f"{row['tokens_per_s']:.1f}",
    ]


def differences_table(modelling: Row, labels: dict[str, str]) -> Table:
    """Paired differences of the loss with their intervals, and the share of the full text's gain kept."""
    table = _table(["nats per token", "difference", "95 % interval"])
    for row in modelling["differences"]:
        name = f"{labels[row['of']]} - {labels[row['minus']]}"
        table.add_row(name, f"{row['estimate']:+.4f}", f"{row['low']:+.4f} to {row['high']:+.4f}")
    kept = modelling["share_kept"]
    name = "share of the full text's gain kept"
    if kept["estimate"] == kept["estimate"]:
        table.add_row(name, f"{kept['estimate']:.1%}", f"{kept['low']:.1%} to {kept['high']:.1%}")
    else:  # not a number
        table.add_row(name, "-", "the full text gains nothing here")
    return table


def cost_table(rows: list[Row]) -> Table:
    """Cost by count, a row for each method; where the paper gives a figure, it and the same way of counting beside."""
    published = any(row["published_tflops"] for row in rows)
    columns = ["TFLOPs of one pass", "T_e", "T_d", "encoder", "resampler", "cross-att.", "LLM", "all"]
    columns += ["as the paper counts", "paper"] if published else ["beside the first"]
    table = _table([*columns, "KV", "peak memory"])
    for row in rows:
        cells = [f"{row['te']:,}", f"{row['td']:,}", *(f"{value:.2f}" for value in row["tflops_by_part"].values())]
        cells.append(f"{row['tflops']:.2f}")
        cells += _beside(row, rows[0]) if not published else [f"{row['paper_tflops']:.2f}", _number(row)]
        table.add_row(row["method"], *cells, f"{row['kv_bytes'] / 1e6:.0f} MB", f"{row['peak_bytes'] / 1e9:.2f} GB")
    return table


def vist2_table(rows: list[Row]) -> Table:
    """Cost by count of VIST2, each row beside the plain LLM's above it."""
    table = _table(["TFLOPs to the first token", "encoder", "aligner", "LLM", "all", "", "KV", "", "peak memory", ""])
    plain = rows[0]
    for row in rows:
        plain = row if row["pages"] == 0 and row["method"].endswith(", text") else plain
        parts = row["tflops_by_part"]
        cells = [f"{parts[part]:.2f}" for part in ("encoder", "resampler", "llm")]
        for key, unit, name in (("tflops", 1, ""), ("kv_bytes", 1e6, " MB"), ("peak_bytes", 1e9, " GB")):
            cells.append(f"{row[key] / unit:.{0 if unit == 1e6 else 2}f}{name}")
            cells.append("" if row is plain else f"{row[key] / plain[key] - 1:+.0%}")
        table.add_row(row["method"], *cells)
    return table


def _beside(row: Row, first: Row) -> list[str]:
    return ["" if row is first else f"{row['tflops'] / first['tflops'] - 1:+.0%}"]


def _number(row: Row) -> str:
    return "-" if row["published_tflops"] is None else f"{row['published_tflops']:.2f}"


def measured_table(rows: list[Row]) -> Table:
    """Cost as measured on this machine."""
    table = _table(["measured", "T_e", "T_d", "FLOPs", "peak memory", "first token", "tokens/s"])
    for row in rows:
        table.add_row(row["method"], f"{row['te']:,}", f"{row['td']:,}", *_cost(row))
    return table


def plan_table(plan: Row) -> Table:
    """A training run that has not begun: every number of its configuration, then sizes and cost."""
    table = _table(["training run", ""])
    for name, value in _flat(plan["config"]):
        table.add_row(name, str(value))
    counts, data, memory = plan["parameters"], plan["data"], plan["memory_per_device"]
    frozen = counts["frozen_llm"] + counts["frozen_vision"]
    lines = {
        "processes x batch x accumulation": f"{plan['processes']} x {plan['config']['stage']['batch_size']} x "
        f"{plan['accumulation']}",
        "precision here": plan["precision"],
        "parameters trained": f"{counts['trained']:,}",
        "parameters frozen": f"{frozen:,}",
        "data": f"{data['shards']} shards, {data['bytes'] / 1e6:,.1f} MB",
        "pages of a window": f"{data['pages_per_window']:.1f} (paper: {data['paper_pages_per_window']:.0f})",
        "tokens, steps": f"{plan['tokens']:,} in {plan['steps']:,} steps of {plan['tokens_per_step']:,}",
        "TFLOPs of a step": f"{plan['flops_per_step'] / 1e12:,.2f}",
        **{f"memory: {kind.replace('_', ' ')}": f"{size / 1e9:.2f} GB" for kind, size in memory.items()},
        "a checkpoint": f"{plan['checkpoint_bytes'] / 1e9:.2f} GB ({plan['free_bytes'] / 1e9:.1f} GB free)",
        "features, encoded ahead": f"at most {plan['feature_bytes'] / 1e9:,.1f} GB",
    }
    for name, line in lines.items():
        table.add_row(name, line)
    return table


def _flat(values: Row, prefix: str = "") -> list[tuple[str, Any]]:
    """The leaves of nested settings under dotted names."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        found += _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else [(f"{prefix}{name}", value)]
    return found


def prices_table(quotes: list[Quote]) -> Table:
    """Tokens of a text and of its pages, by family of models."""
    table = _table(["family", "tokens as text (estimated)", "as pages", "characters per token", "saved", ""])
    for quote in quotes:
        pages = "-" if quote.pages is None else f"{quote.pages:,}"
        cells = [f"{quote.text:,}", pages, f"{quote.characters:.1f}", f"{quote.saved:.0%}", quote.verdict]
        table.add_row(quote.family, *cells)
    return table


def styles_table(rows: list[Row]) -> Table:
    """Page styles that none beats, cheapest first, in px."""
    heads = ["tokens / 1,000 characters", "read right", "page", "font", "letters", "rows", "margin", "newline"]
    table = _table([*heads, "align", "spacing"])
    for row in rows:
        style, genome = row["style"], row["genome"]
        cells = [f"{row['tokens']:.0f}", f"{row['accuracy']:.1%}", f"{style['width']} x {style['height']}"]
        cells += [style["font"], f"{style['font_size']}", f"{style['row_height']}", f"{style['margin_left']}"]
        table.add_row(*cells, genome["newline"], style["align"], f"{style['letter_spacing']}")
    return table


def recall_table(rows: list[Row]) -> Table:
    """Exact recall by condition, a column for each kind of fact."""
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    table = _table(["exact recall", *(f"{kind} (n = {_count(rows, kind)})" for kind in kinds)])
    for method in dict.fromkeys(row["method"] for row in rows):
        chosen = {row["kind"]: row for row in rows if row["method"] == method}
        cells = [
            f"{chosen[kind]['exact']:.1%}  ({chosen[kind]['low']:.0%}-{chosen[kind]['high']:.0%})" for kind in kinds
        ]
        table.add_row(chosen[kinds[0]]["label"], *cells, style="bold" if method == "visual" else None)
    return table


def _count(rows: list[Row], kind: str) -> int:
    return next(row["n"] for row in rows if row["kind"] == kind)


def _table(columns: list[str]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right", no_wrap=number > 0)
    return table


def rows_table(rows: list[Row], differences: bool = False) -> Table:
    """Rows of `vist.eval.scores`: a line for each part and metric, a column for each method or paired difference."""
    from vist.eval.tables import lines

    head, body = lines([row | {"limit": None} for row in rows], differences)  # the line above the table says it
    table = _table(["difference, 95 % interval" if differences else "95 % interval", "", *head[2:]])
    for line in body:
        table.add_row(*(text.replace("[", "\\[") for text in line))
    return table


def rows_tables(rows: list[Row]) -> list[Table]:
    """The table of the figures and, where there are any, that of the differences."""
    differences = [rows_table(rows, differences=True)] if any(row["minus"] is not None for row in rows) else []
    return [rows_table(rows), *differences]


def dial_tables(rows: list[Row]) -> list[Table]:
    """Rows of `vist eval dial`: a line for each ratio and method, then one for each paired difference."""
    from vist.eval.tables import cell

    lines: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        lines.setdefault((row["part"], row["method"], row["minus"] or ""), {})[row["metric"]] = row
    figures = _table(["", "method", "visual tokens", "ratio", "perplexity", "exact"])
    differences = _table(["difference", "", "nats per token", "exact"])
    for (part, method, minus), found in lines.items():
        exact = cell(found["exact"]).replace("[", "\\[")
        if minus:
            nats = cell(found["nats per token"]).replace("[", "\\[")
            differences.add_row(part, f"{method} - {minus}", nats, exact)
        else:
            row = found["perplexity"]
            perplexity = cell(row).replace("[", "\\[")
            figures.add_row(part, method, f"{row['visual_tokens']:.1f}", _ratio(row["ratio"]), perplexity, exact)
    return [figures, differences]
