"""Rows of results as Markdown and CSV.

Owns the two formats. Does not know measures; what a row has decides what is shown.

Decisions
- One table for each task and model: a line for each part and metric, a column for each method, differences below.
- Above a table stands what is needed to repeat it: command, commit, hardware, seed. A quick look says its limit first.
- Where rows of several commits were allowed, every line names its own.
- A part that was measured under several setups has a line for each, which names the setup's digest.
- Losses by distance are for plots: tables leave them out.
- CSV holds every row with every plain column, nothing rounded.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from vist.eval.scores import BY_DISTANCE, Row

TABLES = ("estimates", "paired differences")
SHARES = ("nll_acc", "exact", "f1", "retrieved", "cer", "wer", "characters", "saving", "lost", "kept", "misses")


def is_share(metric: str) -> bool:
    """Whether a metric is shown as per cent."""
    return metric.split(":")[0] in SHARES or metric.startswith("nll_acc")


def cell(row: Row) -> str:
    """An estimate with its interval; shares as per cent, differences with their sign."""
    estimate, low, high = (float("nan") if row[key] is None else row[key] for key in ("value", "low", "high"))
    if estimate != estimate:  # not a number
        return "-"
    sign = "" if row.get("minus") is None else "+"
    if is_share(row["metric"]):
        return f"{estimate:{sign}.1%} [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    digits = 3 if abs(estimate) < 10 else 1
    return f"{estimate:{sign}.{digits}f} [{low:{sign}.{digits}f}, {high:{sign}.{digits}f}]"


def column(row: Row) -> str:
    """The name of a row's column."""
    return str(row.get("label") or row["method"]) if row.get("minus") is None else f"{row['method']} - {row['minus']}"


def grouped(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by task and model, in order of appearance."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["task"], str(row["model"])), []).append(row)
    return found


def lines(rows: Sequence[Row], differences: bool, mark_commits: bool = False) -> tuple[list[str], list[list[str]]]:
    """Head and lines of one table: absolute figures or paired differences; both empty where there are none."""
    wanted = [row for row in rows if (row.get("minus") is not None) is differences]
    wanted = [row for row in wanted if not row["metric"].startswith(BY_DISTANCE)]
    columns = list(dict.fromkeys(column(row) for row in wanted))
    cells: dict[tuple[str, ...], dict[str, Row]] = {}
    setups: dict[str, set[Any]] = {}
    for row in wanted:
        setups.setdefault(row["part"], set()).add(row.get("setup_digest"))
    for row in wanted:
        limit = f" (limited to {row['limit']})" if row.get("limit") is not None else ""
        commit = (str(row["commit"])[:12],) if mark_commits else ()
        setup = f" (setup {row.get('setup_digest')})" if len(setups[row["part"]]) > 1 else ""
        cells.setdefault((f"{row['part']}{setup}{limit}", row["metric"], *commit), {})[column(row)] = row
    head = ["part", "metric", *(["commit"] if mark_commits else []), "n", *columns] if wanted else []
    body = [
        [*key, f"{next(iter(line.values()))['n']:,}", *(cell(line[name]) if name in line else "" for name in columns)]
        for key, line in cells.items()
    ]
    return head, body


def tables(rows: Sequence[Row], mark_commits: bool = False) -> list[tuple[list[str], list[list[str]]]]:
    """Head and lines of the two tables named in `TABLES`; empty where there is nothing to show."""
    return [lines(rows, differences, mark_commits) for differences in (False, True)]


def to_markdown(rows: Sequence[Row], mark_commits: bool = False) -> str:
    """All tables as one Markdown document."""
    parts = ["# Results", "", "Estimates with 95 % intervals; differences are paired."]
    if mark_commits:
        parts += ["", "**The rows come from several commits; each line names its own.**"]
    for (task, model), chosen in grouped(rows).items():
        parts += ["", f"## {task}: {model}", "", *(f"- {line}" for line in origin(chosen))]
        for head, body in tables(chosen, mark_commits):
            if head:
                parts += ["", _line(head), _line(["---"] * len(head)), *(_line(line) for line in body)]
    return "\n".join(parts) + "\n"


def origin(rows: Sequence[Row]) -> list[str]:
    """What is needed to judge and repeat rows: limit, command, commit, hardware, seed, versions; each once."""
    limits = sorted({row["limit"] for row in rows if row.get("limit") is not None})
    said = [f"**Limited to {', '.join(map(str, limits))} examples of each part: a quick look.**"] if limits else []
    for name in ("command", "commit", "hardware", "seed", "date"):
        values = list(dict.fromkeys(str(row.get(name)) for row in rows))
        if name == "date" and len(values) > 1:
            values = [f"{min(values)} to {max(values)}"]
        said.append(f"{name}: " + "; ".join(f"`{value}`" for value in values))
    versions = rows[0].get("versions") or {}
    return [*said, "versions: " + ", ".join(f"{name} {number}" for name, number in versions.items())]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def to_csv(rows: Sequence[Row]) -> str:
    """Every row with every column that holds a plain value."""
    plain = [{key: value for key, value in row.items() if not isinstance(value, (dict, list))} for row in rows]
    names = list(dict.fromkeys(key for row in plain for key in row))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(plain)
    return buffer.getvalue()
