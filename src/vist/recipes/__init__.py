"""Training runs by name. A recipe is a function that returns a complete configuration; nothing is read from flags.

Owns the table of names. A new recipe is a new function here or in a file of its own, plus a row in the table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vist.errors import VistError
from vist.recipes.baselines import baselines
from vist.recipes.nano import nano, nano_large
from vist.recipes.nested import nano_nested
from vist.recipes.paper import PAPER
from vist.recipes.vist2 import vist2_nano
from vist.train.baseline_nano import STAGES as BASELINE_STAGES
from vist.train.baseline_nano import train_baseline
from vist.train.encoding import encode_corpus
from vist.train.nano import STAGES, train_nano
from vist.train.nested_nano import STAGES as NESTED_STAGES
from vist.train.nested_nano import train_nested
from vist.train.paper import STAGES as PAPER_STAGES
from vist.train.paper import PaperRecipe, train_paper
from vist.train.vist2_nano import STAGES as VIST2_STAGES
from vist.train.vist2_nano import train_vist2_nano


class Recipe(NamedTuple):
    """A named run: its numbers, what carries them out, the stages by name; whether it continues a finished model."""

    numbers: Callable[[], Any]
    train: Callable[..., Path]
    stages: Mapping[str, Any]
    continues: bool = False


RECIPES = {
    "nano": Recipe(nano, train_nano, STAGES),
    "nano-large": Recipe(nano_large, train_nano, STAGES),
    "nano-nested": Recipe(nano_nested, train_nested, NESTED_STAGES, continues=True),
    "vist2-nano": Recipe(vist2_nano, train_vist2_nano, VIST2_STAGES, continues=True),
    **{name: Recipe(numbers, train_baseline, BASELINE_STAGES, True) for name, numbers in baselines().items()},
    **{name: Recipe(numbers, train_paper, PAPER_STAGES) for name, numbers in PAPER.items()},
}

#: What `changed` may set of a recipe of the paper, and of its `stage`.
CHANGES = ("llm", "vision", "global_batch")
STAGE_CHANGES = ("steps", "batch_size", "workers")


def run(
    name: str,
    data: str | Path,
    out: Path,
    stage: str | None = None,
    source: Path | None = None,
    features: Path | None = None,
    **changes: Any,
) -> Path:
    """Run a recipe to its end, or only up to and including `stage`; finished stages are not run again.

    `data`: a folder; for a recipe of the paper also a file or a stream (`vist.train.sources.open_shards`).
    `source`: the model that a recipe continues, for those that do.
    `features`: pages that were encoded before (`encode`), for a recipe of the paper.
    `changes`: see `changed`.

    Returns:
        The folder of the finished model, or of the finished stage.

    Raises:
        VistError: no such recipe or stage, a source for a recipe that starts from nothing, or features for one that is
            not the paper's; see the `train` functions
            of the table for the rest.
    """
    numbers = changed(name, **changes)
    recipe = RECIPES[name]
    if stage is not None and stage not in recipe.stages:
        raise VistError(f"There is no stage {stage!r}; the stages are: {', '.join(recipe.stages)}.")
    if source is not None and not recipe.continues:
        raise VistError(f"The recipe {name!r} starts from nothing; leave --from {str(source)!r} out.")
    more: dict[str, Any] = {"source": source} if recipe.continues else {}
    if isinstance(numbers, PaperRecipe):
        more["features"] = features
    else:
        if features is not None:
            raise VistError(f"The recipe {name!r} takes no --features; {', '.join(PAPER)} take them.")
        data = Path(data)
        if not data.is_dir():
            raise VistError(f"There is no folder {str(data)!r} with training texts; pass --data FOLDER.")
    return recipe.train(numbers, data, out, stage, **more)


def encode(
    name: str,
    data: str,
    out: Path,
    workers: int | None = None,
    on_ray: bool = False,
    shard_windows: int | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """Render and encode the pages that a recipe of the paper reads, ahead of its run -> the index of the folder `out`.

    `workers`, `on_ray`, `shard_windows`: as for `encode_corpus`; the rest as for `run`.
    Raises VistError for a recipe that is not the paper's, and as `encode_corpus` does.
    """
    numbers = changed(name, **changes)
    if not isinstance(numbers, PaperRecipe):
        raise VistError(f"Only pages of the paper's recipes can be encoded ahead: {', '.join(PAPER)}; not {name!r}.")
    return encode_corpus(numbers, data, out, workers, on_ray, shard_windows)


def changed(name: str, **changes: Any) -> Any:
    """The numbers of a recipe, with what is not None of `CHANGES` and `STAGE_CHANGES` in place of its own.

    Raises VistError when there is no such recipe, or it is not one of the paper's and something is to be changed.
    """
    if name not in RECIPES:
        raise VistError(f"There is no recipe {name!r}; the recipes are: {', '.join(RECIPES)}.")
    numbers = RECIPES[name].numbers()
    wanted = {key: value for key, value in changes.items() if value is not None}
    if not wanted:
        return numbers
    if not isinstance(numbers, PaperRecipe):
        option = "--" + next(iter(wanted)).replace("_", "-")
        raise VistError(f"The recipe {name!r} takes no {option}: its numbers are fixed; {', '.join(PAPER)} take it.")
    stage = replace(numbers.stage, **{key: wanted[key] for key in STAGE_CHANGES if key in wanted})
    return replace(numbers, stage=stage, **{key: wanted[key] for key in CHANGES if key in wanted})
