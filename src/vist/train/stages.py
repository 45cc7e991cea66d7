"""Runs in stages: what is finished is skipped, and a stage is finished when its folder `final` is there.

Owns the order of work over stages and the writing of a result. Must not know what a stage does.

Decisions
- A result is written beside its place and renamed: an interruption leaves a whole result or none.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar

import vist

CONTINUED = "vist-nano"  # the packaged model, unless another is named


class StagedRun(Protocol):
    """A run in stages, each finished when its folder exists."""

    def final(self, stage: str) -> Path:
        """Folder of a finished stage."""


Run = TypeVar("Run", bound=StagedRun)


def run_stages(run: Run, stages: Mapping[str, Callable[[Run], None]], until: str | None) -> Path:
    """Run the stages that are not finished yet, up to and including `until` (default: all) -> folder of the last."""
    for name, stage in stages.items():
        if not run.final(name).exists():
            stage(run)
        if name == until:
            break
    return run.final(name)


def finished_model(source: Path | None) -> Path:
    """The folder of the model that a run continues: `source`, or what the run in `source` made; None = the packaged.

    The name of a packaged model stands for its folder, where there is none of that name.
    """
    found = source if source is not None and source.exists() else vist.PACKAGED_MODELS / (source or CONTINUED)
    made = found / "model" / "final"
    return made if made.is_dir() else found


def write_final(folder: Path, save: Callable[[Path], object]) -> None:
    """Put the result of a stage, which `save` writes to a folder it is given, into `final` in the stage's folder."""
    part = folder / "final.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    save(part)
    os.replace(part, folder / "final")
