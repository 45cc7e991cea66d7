"""`vist train`: run a named recipe, resumable at any moment, or say what it would be."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from vist.cli.options import JsonOption

TERMINATED = 143


def train(
    name: Annotated[str, typer.Argument(help="The recipe, for example nano or tinyllama.")],
    data: Annotated[
        str,
        typer.Option("--data", metavar="SOURCE", help="Folder with the training texts; docs/training-at-scale.md."),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where checkpoints and the model go.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="The model, or its run, that the recipe continues."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Stop after this stage; the default is all of them.")
    ] = None,
    llm: Annotated[
        str | None, typer.Option("--llm", metavar="ID", help="LLM: Hub id or folder. Else the recipe's.")
    ] = None,
    vision: Annotated[
        str | None, typer.Option("--vision", metavar="ID", help="Vision tower: Hub id or folder. Else the recipe's.")
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Optimizer steps. Else the recipe's.")] = None,
    global_batch: Annotated[
        int | None, typer.Option("--global-batch", min=1, help="Samples of a step, on all devices together.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Samples that one device takes at once.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes of each device that tokenize and draw pages.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option("--features", metavar="FOLDER", help="Pages that `vist encode` encoded before.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check data and backbones, print sizes and cost, train nothing.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Train a model by a named recipe. Started again with the same folder, it goes on where it stopped.

    The options from --llm on are for the paper's recipes (docs/training-at-scale.md).
    """
    from vist.cli.failures import failed
    from vist.cli.output import remark
    from vist.recipes import run
    from vist.train.trainer import TrainingStopped

    changes: dict[str, Any] = {"llm": llm, "vision": vision, "steps": steps, "global_batch": global_batch}
    changes |= {"batch_size": batch_size, "workers": workers}
    if dry_run or json is not None:
        return _plan(name, data, out, features, changes, dry_run, json)
    try:
        finished = run(name, data, out, stage, source, features, **changes)
    except TrainingStopped as stopped:
        raise failed(str(stopped), TERMINATED) from None
    _remark_skipped(out)
    remark(f"Finished: {finished}")


def _plan(
    name: str, data: str, out: Path, features: Path | None, changes: dict[str, Any], dry: bool, json: Path | None
) -> None:
    """What the run would be, as a table and as JSON."""
    from vist.cli.output import console, plan_table, remark
    from vist.errors import VistError
    from vist.eval.files import write_json
    from vist.eval.provenance import provenance
    from vist.recipes import changed
    from vist.recipes.dry_run import dry_run
    from vist.train.paper import PaperRecipe
    from vist.train.stream import skipped_sentence

    recipe = changed(name, **changes)
    if not dry or not isinstance(recipe, PaperRecipe):
        raise VistError(f"--dry-run is for the paper's recipes and --json goes with it; {name!r} was given.")
    plan = dry_run(recipe, data, out, features)
    console().print(plan_table(plan))
    if plan["data"]["skipped"]:
        remark(skipped_sentence(plan["data"]))
    remark("By count, nothing was trained; memory of one device without sharding (docs/training-at-scale.md).")
    if json is not None:
        write_json(json, provenance("none") | {"recipe": name, "plan": plan})


def _remark_skipped(out: Path) -> None:
    """Rows without usable text, where there were any."""
    from json import loads

    from vist.cli.output import remark
    from vist.train.paper import REPORT
    from vist.train.stream import skipped_sentence

    if (out / REPORT).exists():
        sentence = skipped_sentence(loads((out / REPORT).read_text()))
        if sentence:
            remark(sentence)
