"""`vist train`: run a named recipe, resumable at any moment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    name: Annotated[str, typer.Argument(help="The recipe, for example nano.")],
    data: Annotated[Path, typer.Option("--data", metavar="FOLDER", help="Folder with the training texts.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where checkpoints and the model go.")],
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="The model, or its run, that the recipe continues."),
    ] = None,
    stage: Annotated[
        str | None, typer.Option("--stage", help="Stop after this stage; the default is all of them.")
    ] = None,
) -> None:
    """Train a model by a named recipe. Started again with the same folder, it goes on where it stopped."""
    from vist.cli.output import remark
    from vist.errors import VistError
    from vist.recipes import run

    if not data.is_dir():
        raise VistError(f"There is no folder {str(data)!r} with training texts; pass --data FOLDER.")
    finished = run(name, data=data, out=out, stage=stage, source=source)
    remark(f"Finished: {finished}")
