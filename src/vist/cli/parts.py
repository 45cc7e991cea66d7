"""What the measures of `vist eval` share: options, the run over parts, the table, the JSON file.

Owns their one shape: parts are measured one by one, added to --out as they finish, printed as one table. Does not know
what is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

Parts = Mapping[str, Callable[[], list[dict[str, Any]]]]

DataOption = Annotated[
    Path,
    typer.Option("--data", metavar="FOLDER", help="Folder with the benchmark's data (schemas: docs/evaluation.md)."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="JSON Lines file to which every finished part is added; run again, it goes on."
    ),
]
LimitOption = Annotated[
    int | None, typer.Option("--limit", min=1, help="Quick look: at most this many examples of each part.")
]
ResamplesOption = Annotated[int, typer.Option("--resamples", min=100, help="Bootstrap resamples.")]


def measure_parts(
    task: str,
    parts: Parts,
    *,
    model: str,
    setup: Mapping[str, Any],
    seed: int,
    limit: int | None,
    out: Path | None,
    json: Path | None,
    metrics: tuple[str, ...] | None = None,
    more: Callable[[], dict[str, Any]] = dict,
    tables: Callable[[list[dict[str, Any]]], Iterable[Any]] | None = None,
) -> list[dict[str, Any]]:
    """Measure the parts, print what is there also when one failed, write the JSON file -> all rows.

    `metrics` are those of the printed table (None: all); `more` gives further keys of the JSON file; `tables` makes the
    tables from the rows (None: a line for each part and metric).
    Raises what `run_parts` raises.
    """
    from vist.cli.output import console, remark, rows_tables, say_limit
    from vist.eval.files import write_json
    from vist.eval.provenance import provenance
    from vist.eval.records import Ledger, run_parts

    head = provenance(model)
    common = row_head(head, seed, limit)
    ledger = Ledger(out, task, common, setup)
    try:
        run_parts(ledger, parts, remark)
    finally:
        if ledger.rows:
            screen = console()
            say_limit(screen, limit)
            shown = [row for row in ledger.rows if metrics is None or row["metric"] in metrics]
            for number, table in enumerate((tables or rows_tables)(shown)):
                if number:
                    screen.print()
                screen.print(table)
            remark(f"Commit {head['commit']}; 95 % intervals.{'' if out is None else f' Rows: {out}'}")
        if json is not None and ledger.rows:
            known = {*common, "setup", "setup_digest"}
            rows = [{key: value for key, value in row.items() if key not in known} for row in ledger.rows]
            values = head | {"seed": seed, "limit": limit, "setup": {**setup, "seed": seed}, "task": task, "rows": rows}
            write_json(json, values | more())
    return ledger.rows


def row_head(head: Mapping[str, Any], seed: int, limit: int | None) -> dict[str, Any]:
    """What every row carries, from the head of a JSON file."""
    from vist.eval.provenance import hardware

    known = {key: head[key] for key in ("commit", "versions", "command", "date", "model")}
    return known | {"hardware": hardware(), "seed": seed, "limit": limit}


def chosen(names: str | None) -> tuple[str, ...]:
    """The names of a list with commas; none of None."""
    return tuple(name.strip() for name in (names or "").split(",") if name.strip())


def whole_numbers(text: str, option: str) -> tuple[int, ...]:
    """The numbers of a list with commas. Raises VistError on anything else."""
    from vist.errors import VistError

    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise VistError(f"{option} takes whole numbers with commas between them, got {text!r}.") from None
    if min(found) < 0:
        raise VistError(f"{option} takes numbers of 0 or more, got {text!r}.")
    return found
