"""`vist eval report`: result rows as Markdown, CSV and one page with plots."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="JSON Lines files written with --out by `vist eval`.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where results.md, results.csv and report.html are written.")
    ] = Path("."),
    mixed: Annotated[
        bool, typer.Option("--mixed", help="Allow rows of several commits; every line then names its own.")
    ] = False,
) -> None:
    """Turn result rows into results.md, results.csv and report.html with plots.

    Refuses rows of several commits unless --mixed is given.
    """
    from vist.cli.output import console
    from vist.eval.files import write_whole
    from vist.eval.records import one_commit, read_records
    from vist.eval.sheet import render_results
    from vist.eval.tables import to_csv, to_markdown

    rows = read_records(files)
    mark = not one_commit(rows, mixed)
    for name, content in (
        ("results.md", to_markdown(rows, mark)),
        ("results.csv", to_csv(rows)),
        ("report.html", render_results(rows, mark)),
    ):
        write_whole(out / name, content)
        console().print(str(out / name), soft_wrap=True)
