"""One rank of a run of several processes: started by the tests of training at scale, once for each rank.

Takes a JSON object: `llm`, `vision`, `data`, and `runs`, carried out one after the other: each has `out`, changes of
the `stage`, and may name a `signal` that the rank `signal_rank` gets at the end of step `signal_at`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from transformers import TrainerCallback

from tiny_recipe import tiny_recipe
from vist.compress.ranks import rank
from vist.errors import VistError
from vist.train import paper
from vist.train.stage import run_stage


class Kill(TrainerCallback):
    """Sends this process a signal at the end of a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def one_run(job: dict[str, Any], run: dict[str, Any]) -> None:
    """Train as told; the name of the signal and the rank it goes to are the run's."""
    callbacks: tuple[TrainerCallback, ...] = ()
    if run.get("signal") and run.get("signal_rank", 0) == rank():
        callbacks = (Kill(run["signal_at"], getattr(signal, run["signal"])),)

    def with_callbacks(*args: Any, **kwargs: Any) -> Any:
        return run_stage(*args, **kwargs, callbacks=callbacks)

    paper.run_stage = with_callbacks
    recipe = tiny_recipe(Path(job["llm"]), Path(job["vision"]), **run.get("stage", {}))
    paper.train_paper(recipe, job["data"], Path(run["out"]))


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    PartialState(cpu=True)
    for run in job["runs"]:
        try:
            one_run(job, run)
        except VistError as error:
            print(f"rank {rank()}: {error}", flush=True)


if __name__ == "__main__":
    main()
