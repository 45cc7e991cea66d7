"""One training stage, run by transformers' `Trainer`, resumable at any moment.

Owns: hyperparameters of a stage, resume, the loss log. Must not know what is trained, nor how a step or a checkpoint
is guarded (trainer.py).

Decisions
- On start a stage continues from its newest checkpoint by itself.
- bf16 autocast only where the hardware multiplies bf16 (a GPU, AVX512-BF16 or AMX): elsewhere it is emulated and
  several times slower than fp32.
- Samples are pure functions of (seed, index), so the resumed run sees what the uninterrupted one would have seen.
- An `objective` looks into the model, which a wrapper for several devices hides, and its loss is not shared out over
  them. So a stage with one trains on one device; without one, on any number.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from vist.compress.ranks import rank, world_size
from vist.errors import VistError
from vist.train.optimizer import build_optimizer
from vist.train.precision import Precision, resolved_precision
from vist.train.trainer import AtomicTrainer, Objective, StopOnSignal, TrainingStopped


@dataclass(frozen=True)
class StageConfig:
    """How long and how fast one stage trains.

    Attributes:
        steps: optimizer steps.
        batch_size: samples per device and forward pass.
        accumulation: forward passes per optimizer step.
        learning_rate: peak; linear warm-up over `warmup` of the steps, then cosine to `final_rate` of it.
        warmup: share of the steps.
        weight_decay: decoupled, on matrices and embeddings.
        beta2: decay of AdamW's second moment (the first is 0.9).
        backbone_rate: step size of a language model that learns beside newer parts, relative to theirs.
        clip: largest gradient norm.
        save_every: steps between checkpoints.
        workers: processes that draw, tokenize and render samples.
        final_rate: of the peak, at the last step.
        optimizer: "muon" for matrices with AdamW for the rest, or "adamw" for everything.
        precision: of the products under autocast: "auto" takes bf16 where the hardware multiplies it; "fp16" wants a
            GPU. Where it cannot be had, fp32 (`resolved_precision`).
        log_every: steps between lines of the loss log.
        checkpointing: compute activations again in the backward pass instead of keeping them.
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
    final_rate: float = 0.1
    optimizer: Literal["muon", "adamw"] = "muon"
    precision: Precision = "auto"
    log_every: int = 20
    checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation", "save_every", "log_every"):
            if getattr(self, name) < 1:
                raise VistError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.learning_rate <= 0:
            raise VistError(f"learning_rate is {self.learning_rate}, but must be above 0.")

    @property
    def samples(self) -> int:
        """Samples drawn in the whole stage by one device."""
        return self.steps * self.batch_size * self.accumulation


class _LossFile(TrainerCallback):
    """Keeps the loss log as JSON beside the checkpoints, so that plots need no other tool."""

    def __init__(self, path: Path):
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Rewrite the log, beside and renamed; the first rank does."""
        if rank() > 0:
            return
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps(state.log_history, indent=0))
        os.replace(part, self.path)


#: what transformers calls the recomputing of activations: the second name is that of its older versions
_CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in TrainingArguments.__annotations__
)


def training_arguments(config: StageConfig, folder: Path, seed: int) -> TrainingArguments:
    """The stage's configuration in transformers' words."""
    precision = resolved_precision(config.precision)
    recomputing: dict[str, Any] = {_CHECKPOINTING: config.checkpointing}
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=config.accumulation,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.final_rate},
        warmup_steps=max(1, round(config.warmup * config.steps)),
        max_grad_norm=config.clip,
        bf16=precision == "bf16",
        fp16=precision == "fp16",
        use_cpu=not torch.cuda.is_available(),  # the Trainer refuses bf16 on a CPU that was not asked for
        save_steps=config.save_every,
        logging_steps=config.log_every,
        logging_nan_inf_filter=False,  # a loss that is no number stops the run
        **recomputing,
        dataloader_num_workers=config.workers,
        remove_unused_columns=False,
        seed=seed,
        report_to=[],
        disable_tqdm=False,
    )


def make_optimizer(model: nn.Module, config: StageConfig) -> Optimizer:
    """The optimizer of a stage over what is trained; weight decay of AdamW on everything, as torch does it."""
    if config.optimizer == "adamw":
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return AdamW(
            trained, lr=config.learning_rate, betas=(0.9, config.beta2), eps=1e-8, weight_decay=config.weight_decay
        )
    iteration = torch.bfloat16 if resolved_precision(config.precision) == "bf16" else torch.float32
    numbers = (config.learning_rate, config.weight_decay, config.beta2, config.backbone_rate)
    return build_optimizer(model, *numbers, iteration)


def run_stage(
    model: nn.Module,
    dataset: Dataset | None,
    collate: Callable | None,
    config: StageConfig,
    folder: Path,
    seed: int,
    callbacks: tuple[TrainerCallback, ...] = (),
    objective: Objective | None = None,
    batches: Any = None,
    adapter: bool = False,
) -> AtomicTrainer:
    """Train `model` in place to the end of the stage, from the newest checkpoint in `folder` if there is one.

    Samples come from `dataset` through `collate`, or from `batches` (`vist.train.trainer.Batches`); `adapter` keeps
    only what is trained in checkpoints. Without an `objective` it runs under `accelerate launch` as on one device.
    Raises TrainingStopped after SIGTERM, when the checkpoint is written; VistError on a loss that is no number, on a
    full disk, and for an `objective` on several devices.
    """
    arguments = training_arguments(config, folder, seed)  # joins the other processes, if there are any
    if objective is not None and world_size() > 1:
        raise VistError(
            f"The stage in {str(folder)!r} is guided and trains on one device, not on {world_size()}; start it without "
            "accelerate launch."
        )
    folder.mkdir(parents=True, exist_ok=True)
    stop = StopOnSignal()
    arguments.ignore_data_skip = batches is not None  # they know where they are
    model_config: Any = getattr(model, "config", None)
    caching = getattr(model_config, "use_cache", None)
    trainer = AtomicTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        objective=objective,
        batches=batches,
        adapter=adapter,
        data_collator=collate,
        build_optimizer=partial(make_optimizer, config=config),
        callbacks=[_LossFile(folder / "losses.json"), *callbacks, stop],
    )
    with stop.listening():
        trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)))
    if caching is not None:
        model_config.use_cache = caching  # the Trainer turns it off, and a model saved so would generate without
    if stop.stopped_at is not None and stop.stopped_at < config.steps:
        raise TrainingStopped(
            f"Stopped by SIGTERM after step {stop.stopped_at} of {config.steps}, with a checkpoint in {str(folder)!r}; "
            "the same command goes on from there."
        )
    return trainer
