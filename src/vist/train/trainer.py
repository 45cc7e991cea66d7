"""transformers' `Trainer` for runs that are interrupted: whole checkpoints, a guard on every step, a clean stop.

Owns what happens around a step and a checkpoint, on one device or many. Must not know what is trained.

Decisions
- A checkpoint is written beside and renamed: an interruption, also in the middle of writing, leaves either the old
  state or the new one. All ranks write, the first one renames when all have.
- A loss that is no number stops the run before the optimizer has used it, and the batch is kept in a file: going on
  would train on nonsense, skipping would hide it.
- SIGTERM, which schedulers send some seconds before they kill, ends the step, writes a checkpoint and leaves. They send
  it to all processes of a job, so those that draw samples ignore it, or there would be none for the last step. Ctrl-C
  leaves at once.
- What one rank meets, all ranks are told, so that none waits for one that has left.
- With a frozen backbone a checkpoint holds what is trained (an adapter), not the backbone again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback

from vist.compress.ranks import any_rank, rank, wait_for_all, world_size
from vist.errors import VistError

Objective = Callable[..., Mapping[str, torch.Tensor]]
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
DATA = "data-{}.json"


class Batches(Protocol):
    """A source of batches that goes on where it was: each batch has `cursors`, which come back once it is used."""

    def used(self, cursors: Any) -> None:
        """Note that the batch with these cursors was trained on."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""

    def restore(self, states: list[dict[str, Any]]) -> None:
        """Go on from what the ranks of a checkpoint kept."""


class TrainingStopped(VistError):
    """Training was asked to stop and did, after a checkpoint."""


class AtomicTrainer(Trainer):
    """transformers' Trainer whose checkpoints appear whole or not at all; logs each part of a composite loss.

    `objective(model, inputs, num_items_in_batch=...)` returns the loss and its parts; None = what the model returns.
    `batches` replaces data set, sampler and collator. `adapter`: checkpoints hold what `save_adapter` writes.
    `build_optimizer` makes the optimizer from the model, after it was sharded where it is.
    """

    def __init__(
        self,
        *args: Any,
        build_optimizer: Callable[[nn.Module], Optimizer],
        objective: Objective | None = None,
        batches: Any = None,
        adapter: bool = False,
        **kwargs: Any,
    ):
        super().__init__(*args, **kwargs)
        self.objective: Objective | None = objective
        self.batches, self.adapter = batches, adapter
        self._build_optimizer = build_optimizer
        self._staging: str | None = None
        self._parts: dict[str, list[torch.Tensor]] = {}

    def create_optimizer(self, model: Any = None) -> Optimizer:
        """The stage's own optimizer, once."""
        if self.optimizer is None:
            whole: Any = self.model if model is None else model
            self.optimizer = self._build_optimizer(whole)
        return self.optimizer

    def get_train_dataloader(self) -> Any:
        """The batches as they are: they are divided among ranks already, and nothing may run ahead of the cursors."""
        if self.batches is not None:
            return self.batches
        loader: Any = super().get_train_dataloader()
        inner = getattr(loader, "base_dataloader", loader)
        inner.worker_init_fn = partial(ignore_sigterm, then=inner.worker_init_fn)
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        # Samples are random functions of their index already; in order, a batch can be planned as a whole.
        dataset = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(dataset, Sized)
        return SequentialSampler(dataset)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """One forward and backward pass. Raises VistError on every rank when a loss is no number on any."""
        batch = {name: value for name, value in inputs.items() if name != "cursors"}
        loss = super().training_step(model, dict(batch), num_items_in_batch)
        broken = not bool(torch.isfinite(loss).all())
        kept = self._keep_batch(batch) if broken else None
        if any_rank(broken, self.args.device):
            raise VistError(self._broken_sentence(float(loss), kept))
        if self.batches is not None:
            self.batches.used(inputs["cursors"])
        return loss

    def _keep_batch(self, batch: Mapping[str, Any]) -> Path:
        path = Path(str(self.args.output_dir)) / f"broken-step{self.state.global_step + 1}-rank{rank()}.safetensors"
        tensors = {name: value.detach().cpu().clone() for name, value in batch.items() if torch.is_tensor(value)}
        save_file({name: value.contiguous() for name, value in tensors.items()}, path)
        return path

    def _broken_sentence(self, loss: float, kept: Path | None) -> str:
        step = self.state.global_step + 1
        where = f"its batch is in {str(kept)!r}" if kept else "another rank has kept its batch beside the checkpoints"
        return (
            f"The loss of step {step} is {loss} on rank {rank()}; {where}; look at it, lower the learning rate, and "
            "start again from the last checkpoint."
        )

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Raises VistError, on every rank, when the checkpoint does not fit; the one before is whole."""
        run_dir = Path(super()._get_output_dir(trial))
        staging, name = run_dir / "unfinished", f"checkpoint-{self.state.global_step}"
        self._on_first_rank(shutil.rmtree, staging, ignore_errors=True)
        self._staging = str(staging)
        full: Exception | None = None
        try:
            super()._save_checkpoint(model, trial)
            self._save_batches(staging / name)
        except (OSError, RuntimeError, SafetensorError) as error:
            if not is_full(error, run_dir):
                raise
            full = error
        finally:
            self._staging = None
        if any_rank(full is not None, self.args.device):
            self._on_first_rank(shutil.rmtree, staging, ignore_errors=True)
            raise VistError(_full_sentence(run_dir, name)) from full
        self._on_first_rank(_publish, run_dir, staging, name)

    def _save_batches(self, folder: Path) -> None:
        if self.batches is not None:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / DATA.format(rank())).write_text(json.dumps(self.batches.state()))

    def _on_first_rank(self, do: Callable[..., object], *args: Any, **kwargs: Any) -> None:
        if rank() == 0:
            do(*args, **kwargs)
        wait_for_all()

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.adapter:
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            self.model.save_adapter(output_dir)  # type: ignore[union-attr, operator]

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.adapter and not self.is_fsdp_enabled:
            self.model.load_adapter_weights(resume_from_checkpoint)  # type: ignore[union-attr, operator]
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As transformers' Trainer, the batches going on from the checkpoint too."""
        if self.batches is not None and resume_from_checkpoint:
            files = sorted(Path(str(resume_from_checkpoint)).glob(DATA.format("*")))
            self.batches.restore([json.loads(file.read_text()) for file in files])
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """The objective's loss; every other `*_loss` and `*_accuracy` it returns is averaged into the next log line."""
        if self.objective is None:
            loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        else:
            outputs = self.objective(model, inputs, num_items_in_batch=num_items_in_batch)
            loss = outputs["loss"]
        for name, value in outputs.items():
            if name.endswith(("_loss", "_accuracy")) and value is not None:
                self._parts.setdefault(name, []).append(value.detach().float())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the averages of the loss parts since the last line, then log as ever."""
        if "loss" in logs:
            logs |= {name: self._average(name, values) for name, values in self._parts.items()}
            self._parts.clear()
        super().log(logs, *args, **kwargs)

    def _average(self, name: str, values: list[torch.Tensor]) -> float:
        """The mean over passes and ranks. A next-token loss is each pass's part of the step's mean: they add up."""
        mean = torch.stack(values).mean()
        if world_size() > 1:
            torch.distributed.all_reduce(mean)
            mean /= world_size()
        parts = self.args.gradient_accumulation_steps * world_size() if name.endswith("lm_loss") else 1
        return mean.item() * parts


def ignore_sigterm(worker: int, then: Callable[[int], object] | None = None) -> None:
    """Start of a process that draws samples: SIGTERM is its parent's business, with which it ends; `then` the rest."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if then is not None:
        then(worker)


class StopOnSignal(TrainerCallback):
    """Ends training after the step in which SIGTERM came to any rank, with a checkpoint; `stopped_at` is that step."""

    def __init__(self) -> None:
        self.asked = False
        self.stopped_at: int | None = None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM, where signals can be taken: in the main thread."""
        try:
            before = signal.signal(signal.SIGTERM, self._ask)
        except ValueError:  # another thread; then a signal is whoever's business it was
            yield
            return
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)

    def _ask(self, *_: object) -> None:
        self.asked = True

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end, on all ranks in the same step."""
        if any_rank(self.asked, args.device):
            control.should_save = control.should_training_stop = True
            self.stopped_at = state.global_step


def check_space(folder: Path, needed: int) -> None:
    """Raise VistError when a folder's disk has not room for `needed` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise VistError(
            f"No space for checkpoints in {str(folder)!r}: two of them take {needed / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; free some space or choose another --out."
        )


def _publish(run_dir: Path, staging: Path, name: str) -> None:
    """Put the finished checkpoint in its place and take the older ones away."""
    older = sorted(run_dir.glob("checkpoint-*"))
    os.replace(staging / name, run_dir / name)
    for folder in older:
        if folder.name != name:
            shutil.rmtree(folder)
    shutil.rmtree(staging, ignore_errors=True)


def is_full(error: Exception, folder: Path) -> bool:
    """Whether writing failed for want of room; torch and safetensors report that in words of their own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    words = str(error).lower()
    return "no space" in words or "file too large" in words or shutil.disk_usage(folder).free < 1 << 20


def _full_sentence(run_dir: Path, name: str) -> str:
    kept = sorted(folder.name for folder in run_dir.glob("checkpoint-*"))
    last = f"the last whole one is {kept[-1]}" if kept else "there is none yet"
    return (
        f"No space left for {name} in {str(run_dir)!r}; {last}; free some space and run the same command again, it "
        "goes on from there."
    )
