"""One training stage, run by transformers' `Trainer`, resumable at any moment.

Owns: hyperparameters of a stage, atomic checkpoints, resume, the loss log. Must not know what is trained.

Decisions
- A checkpoint is written beside and renamed: an interruption, also in the middle of writing, leaves either the old
  state or the new one. On start a stage continues from its newest checkpoint by itself.
- bf16 autocast only where the hardware multiplies bf16 (a GPU, AVX512-BF16 or AMX): elsewhere it is emulated and
  several times slower than fp32.
- Samples are pure functions of (seed, index), so the resumed run sees what the uninterrupted one would have seen.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from vist.errors import VistError
from vist.train.optimizer import build_optimizer

Objective = Callable[..., Mapping[str, torch.Tensor]]


@dataclass(frozen=True)
class StageConfig:
    """How long and how fast one stage trains.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per device and forward pass.
        accumulation: forward passes per optimizer step.
        learning_rate: peak; linear warm-up over `warmup` of the steps, then cosine to a tenth.
        warmup: share of the steps.
        weight_decay: decoupled, on matrices and embeddings.
        beta2: decay of AdamW's second moment (the first is 0.9).
        backbone_rate: step size of a language model that learns beside newer parts, relative to theirs.
        clip: largest gradient norm.
        save_every: steps between checkpoints.
        workers: processes that draw, tokenize and render samples.
    """

    steps: int
    batch_size: int
    learning_rate: float
    accumulation: int = 1
    warmup: float = 0.04
    weight_decay: float = 0.1
    beta2: float = 0.98
    backbone_rate: float = 1.0
    clip: float = 1.0
    save_every: int = 100
    workers: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "save_every"):
            if getattr(self, name) < 1:
                raise VistError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.learning_rate <= 0:
            raise VistError(f"learning_rate is {self.learning_rate}, but must be above 0.")

    @property
    def samples(self) -> int:
        """Samples drawn in the whole stage by one device."""
        return self.steps * self.batch_size * self.accumulation


class AtomicTrainer(Trainer):
    """transformers' Trainer whose checkpoints appear whole or not at all; logs each part of a composite loss.

    `objective(model, inputs, num_items_in_batch=...)` returns the loss and its parts; None = what the model returns.
    """

    def __init__(self, *args: Any, objective: Objective | None = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.objective: Objective | None = objective
        self._staging: str | None = None
        self._parts: dict[str, list[torch.Tensor]] = {}

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler:
        # Samples are random functions of their index already; in order, a batch can be planned as a whole.
        dataset = self.train_dataset if train_dataset is None else train_dataset
        assert isinstance(dataset, Sized)
        return SequentialSampler(dataset)

    def _get_output_dir(self, trial: Any) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = Path(super()._get_output_dir(trial))
        staging = run_dir / "unfinished"
        shutil.rmtree(staging, ignore_errors=True)
        self._staging = str(staging)
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        name = f"checkpoint-{self.state.global_step}"
        older = sorted(run_dir.glob("checkpoint-*"))
        os.replace(staging / name, run_dir / name)
        for folder in older:
            if folder.name != name:
                shutil.rmtree(folder)
        shutil.rmtree(staging, ignore_errors=True)

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
            logs |= {name: torch.stack(values).mean().item() for name, values in self._parts.items()}
            self._parts.clear()
        super().log(logs, *args, **kwargs)


class _LossFile(TrainerCallback):
    """Keeps the loss log as JSON beside the checkpoints, so that plots need no other tool."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rewrite the log, beside and renamed."""
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(state.log_history, indent=0))
        os.replace(part, self.path)


def bf16_is_fast() -> bool:
    """Whether this machine multiplies bf16 in hardware."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def training_arguments(config: StageConfig, folder: Path, seed: int) -> TrainingArguments:
    """The stage's configuration in transformers' words."""
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.1},
        warmup_steps=max(1, round(config.warmup * config.steps)),
        max_grad_norm=config.clip,
        bf16=bf16_is_fast(),
        use_cpu=not torch.cuda.is_available(),  # the Trainer refuses bf16 on a CPU that was not asked for
        save_steps=config.save_every,
        logging_steps=20,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        seed=seed,
        report_to=[],
        disable_tqdm=False,
    )


def run_stage(
    model: nn.Module,
    dataset: Dataset,
    collate: Callable,
    config: StageConfig,
    folder: Path,
    seed: int,
    callbacks: tuple[TrainerCallback, ...] = (),
    objective: Objective | None = None,
) -> None:
    """Train `model` in place to the end of the stage, from the newest checkpoint in `folder` if there is one."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = build_optimizer(model, config.learning_rate, config.weight_decay, config.beta2, config.backbone_rate)
    trainer = AtomicTrainer(
        model=model,
        args=training_arguments(config, folder, seed),
        train_dataset=dataset,
        objective=objective,
        data_collator=collate,
        optimizers=(optimizer, None),
        callbacks=[_LossFile(folder / "losses.json"), *callbacks],
    )
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
