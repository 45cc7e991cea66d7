"""Training runs by name. A recipe is a function that returns a complete configuration; nothing is read from flags.

Owns the table of names. A new recipe is a new function here or in a file of its own, plus a row in the table.
"""

from __future__ import annotations

from pathlib import Path

from vist.errors import VistError
from vist.recipes.nano import nano, nano_large
from vist.train.nano import STAGES, train_nano

RECIPES = {"nano": nano, "nano-large": nano_large}


def run(name: str, data: Path, out: Path, stage: str | None = None) -> Path:
    """Run a recipe to its end, or only up to and including `stage`; finished stages are not run again.

    Returns:
        The folder of the finished model, or of the finished stage.

    Raises:
        VistError: no such recipe or stage; see `train_nano` for the rest.
    """
    if name not in RECIPES:
        raise VistError(f"There is no recipe {name!r}; the recipes are: {', '.join(RECIPES)}.")
    if stage is not None and stage not in STAGES:
        raise VistError(f"There is no stage {stage!r}; the stages are: {', '.join(STAGES)}.")
    return train_nano(RECIPES[name](), data, out, stage)
