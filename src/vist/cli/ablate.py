"""`vist ablate`: the paper's ablations as short trainings, one table each."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vist.cli.inputs import DEFAULT_MODEL
from vist.cli.options import JsonOption, SeedOption
from vist.cli.parts import Parts, measure_parts

if TYPE_CHECKING:
    from vist.errors import VistError


def ablate(
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Folder with training and validation texts.")],
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME...]", help="Ablations, for example masking pve; all of them.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where trainings, rows and tables go.")] = Path(
        "ablations"
    ),
    start: Annotated[
        str, typer.Option("--start", help="What every variant begins from: a model, or a run of `vist train nano`.")
    ] = DEFAULT_MODEL,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Optimizer steps of each variant.")] = 200,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Samples of a step.")] = 8,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0, help="Time budget; run again, it goes on where it stopped.")
    ] = None,
    windows: Annotated[int, typer.Option("--windows", min=1, help="Places of each validation document.")] = 8,
    contexts: Annotated[int, typer.Option("--contexts", min=2, help="Texts in which numbers are planted.")] = 30,
    seed: SeedOption = 1,
    json: JsonOption = None,
) -> None:
    """Train variants that differ in one choice from a common start, and evaluate them on validation books.

    Rows go to FOLDER/results.jsonl, tables to FOLDER/<ablation>.md; what is finished is not done again.
    """
    import time
    from dataclasses import replace

    from vist.eval.ablation import load_start, measure_variant
    from vist.recipes.ablations import ABLATIONS, ablation, ablation_config

    until = float("inf") if minutes is None else time.monotonic() + 60 * minutes
    sets = {name: ablation(name) for name in names or ABLATIONS}
    config = replace(ablation_config(steps, batch_size, seed), windows=windows, contexts=contexts)
    common = load_start(start)
    setup = {"data": str(data), "start": start, "steps": steps, "batch_size": batch_size}
    setup |= {"windows": windows, "contexts": contexts, "pages": config.pages}
    failed = []
    for name, variants in sets.items():
        parts = {
            variant.name: partial(measure_variant, common, variant, config, data, out, until) for variant in variants
        }
        failed += _measure_set(name, parts, out, {"model": start, "setup": setup, "seed": seed})
    if json is not None:
        _write_json(json, out / "results.jsonl", start, setup | {"seed": seed})
    if failed:
        raise failed[0]


def _measure_set(name: str, parts: Parts, out: Path, known: dict[str, Any]) -> list[VistError]:
    """One ablation: its rows, its table, and what kept it from being finished."""
    from vist.cli.output import remark
    from vist.errors import VistError
    from vist.eval.files import write_whole
    from vist.eval.records import one_commit, read_records
    from vist.eval.tables import to_markdown

    file, failed = out / "results.jsonl", []
    try:
        measure_parts(f"ablate {name}", parts, limit=None, out=file, json=None, **known)
    except VistError as error:
        remark(f"{name}: {error}")
        failed.append(error)
    rows = [row for row in read_records([file]) if row["task"] == f"ablate {name}"] if file.exists() else []
    if rows:
        write_whole(out / f"{name}.md", to_markdown(rows, not one_commit(rows, mixed=True)))
        remark(f"Table: {out / f'{name}.md'}")
    return failed


def _write_json(path: Path, file: Path, start: str, setup: dict[str, Any]) -> None:
    from vist.eval.files import write_json
    from vist.eval.provenance import provenance
    from vist.eval.records import read_records

    rows = read_records([file]) if file.exists() else []
    write_json(path, provenance(start) | {"setup": setup, "task": "ablate", "rows": rows})
