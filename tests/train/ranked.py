"""One rank of a run of several processes: started by the tests of training at scale, once for each rank.

Takes a JSON object: `llm`, `vision`, `data`, and `runs`, carried out one after the other: each has `out`, changes of
the `stage`, and may name a `signal` that the rank `signal_rank` gets at the end of step `signal_at`, or a `fault`
(`FAULTS`) that rank 1 alone meets.
Where the environment asks for FSDP (`ACCELERATE_USE_FSDP`), CPUs are shown to accelerate as devices that it shards on.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from transformers import TrainerCallback

from tiny_recipe import tiny_recipe
from vist.compress.ranks import rank
from vist.errors import VistError
from vist.model.vist import VistForConditionalGeneration
from vist.train import paper
from vist.train.paged import WindowReader
from vist.train.stage import run_stage
from vist.train.trainer import AtomicTrainer


class Kill(TrainerCallback):
    """Sends this process a signal at the end of a step."""

    def __init__(self, step: int, number: int):
        self.step, self.number = step, number

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def no_number(real: Any) -> Any:
    """Losses that are no numbers."""

    def losses(*args: Any) -> Any:
        found = real(*args)
        return {**found, "loss": found["loss"] * float("nan")}

    return losses


def one_sample(real: Any) -> Any:
    """Batches of one sample, whatever was asked for."""
    return lambda self, rows: real(self, rows[:1])


def full_disk(real: Any) -> Any:
    """A disk on which this rank's part of a checkpoint finds no room."""

    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return refuse


FAULTS = {
    "no number": (VistForConditionalGeneration, "_losses", no_number),
    "unequal": (WindowReader, "collate", one_sample),
    "full": (AtomicTrainer, "_save_batches", full_disk),
}


def with_fault(job: dict[str, Any], run: dict[str, Any]) -> None:
    """`one_run` on a rank that meets the run's fault, if it has one."""
    if "fault" not in run or rank() != 1:
        return one_run(job, run)
    owner, name, spoil = FAULTS[run["fault"]]
    with patch.object(owner, name, spoil(getattr(owner, name))):
        return one_run(job, run)


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


def shard_on_cpus() -> None:
    """Take away the one thing that keeps accelerate from sharding on CPUs.

    `AcceleratorState` turns a run into one of FSDP only where its processes are of the kinds MULTI_GPU, MULTI_XPU and
    the like; MULTI_CPU is not in that list, and the plugin is dropped without a word. `fully_shard` itself takes a CPU
    mesh over gloo.
    """
    start = PartialState.__init__

    def started(self: PartialState, *args: Any, **kwargs: Any) -> None:
        start(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = started


def main() -> None:
    job = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        shard_on_cpus()
    PartialState(cpu=True)
    for run in job["runs"]:
        try:
            with_fault(job, run)
        except VistError as error:
            print(f"rank {rank()}: {error}", flush=True)


if __name__ == "__main__":
    main()
