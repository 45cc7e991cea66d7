"""From a run of `vist-nano` to a finished `vist2-nano`, stage by stage.

Owns the order of the stages, what each hands to the next, and the objective of the first. The numbers are a recipe's
(`vist.recipes`). Source: VIST2 (arXiv 2601.10378), three stages.

Decisions
- Tokenizer, language model and TextViT are those of a `nano` run in the same folder: finished stages are taken as they
  are, missing ones are trained there first. So one command does all, and a finished `nano` is never trained again.
- A finished stage is a folder `final`, written beside and renamed; running again skips it, and an unfinished stage
  continues from its newest checkpoint.
- In `vist2-read-back` every visual token is also contrasted with the mean of the LLM's embeddings of the text tokens
  that begin in its patches (VIST's PVE, one visual token at a time): without it nothing says where to look.
- The encoder is frozen throughout; aligner and language model learn in every stage, the latter more slowly at first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers import AutoModelForCausalLM

from vist.compress.pve import pve_loss
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import IGNORED, Vist2Processor
from vist.train.examples import ExampleMix
from vist.train.instructions import CHAT_TEMPLATE
from vist.train.interleaved import Curriculum, Instructions, InterleavedSamples, OpticalText, ReadBack
from vist.train.nano import STAGES as NANO_STAGES
from vist.train.nano import STYLE, NanoRecipe, NanoRun, run_stages
from vist.train.stage import Objective, StageConfig, run_stage
from vist.vision.text_vit import TextViTModel

TEMPERATURE = 0.07  # as VIST's PVE


@dataclass(frozen=True)
class Vist2NanoRecipe:
    """Every choice of a `vist2-nano`.

    Attributes:
        nano: the run that tokenizer, language model and TextViT come from.
        chunk_size, tolerance, ratio: of the finished model's processor.
        patches_per_token, aligner_expansion, aligner_layers: of the aligner.
        domains: weight of each corpus domain for reading back and instructions.
        random_strings: share of pages to read back that hold random strings.
        alignment_weight: of the contrast of visual tokens and embeddings while reading back.
        read_back, optical, instruct: the stages, each with its curriculum.
        mix: what optical language modelling reads.
        tasks: weight of each instruction task.
        seed: of all random choices.
    """

    nano: NanoRecipe
    chunk_size: int
    tolerance: int
    ratio: float
    patches_per_token: int
    aligner_expansion: int
    aligner_layers: int
    domains: Mapping[str, float]
    random_strings: float
    alignment_weight: float
    read_back: StageConfig
    read_back_curriculum: Curriculum
    optical: StageConfig
    optical_curriculum: Curriculum
    mix: ExampleMix
    instruct: StageConfig
    instruct_curriculum: Curriculum
    tasks: Mapping[str, float]
    seed: int = 1


class Vist2NanoRun:
    """One run in one folder, beside the `nano` run that it starts from."""

    def __init__(self, recipe: Vist2NanoRecipe, data: Path, out: Path):
        self.recipe, self.out = recipe, out
        self.nano = NanoRun(recipe.nano, data, out)

    @cached_property
    def processor(self) -> Vist2Processor:
        """The finished model's processor."""
        recipe = self.recipe
        return Vist2Processor(
            self.nano.tokenizer,
            style=STYLE,
            chunk_size=recipe.chunk_size,
            tolerance=recipe.tolerance,
            ratio=recipe.ratio,
            patches_per_token=recipe.patches_per_token,
            chat_template=CHAT_TEMPLATE,
        )

    def final(self, stage: str) -> Path:
        """Folder of a finished stage."""
        return self.nano.final(stage)

    def read_back(self) -> None:
        """Stage (a): read chunks back from their pages."""
        recipe = self.recipe
        data = ReadBack(
            *self._drawn_from(recipe.read_back_curriculum, recipe.read_back, 11),
            domains=recipe.domains,
            random_strings=recipe.random_strings,
        )
        objective = partial(read_back_loss, weight=recipe.alignment_weight)
        self._train("vist2-read-back", self._untrained(), data, recipe.read_back, objective)

    def model_history(self) -> None:
        """Stage (b): language modelling with a growing share of the history as pages."""
        recipe = self.recipe
        data = OpticalText(*self._drawn_from(recipe.optical_curriculum, recipe.optical, 12), mix=recipe.mix)
        self._train("vist2-optical", self._trained("vist2-read-back"), data, recipe.optical)

    def instruct(self) -> None:
        """Stage (c): answer questions about a text that is pages."""
        recipe = self.recipe
        source = self._drawn_from(recipe.instruct_curriculum, recipe.instruct, 13)
        data = Instructions(*source, tasks=recipe.tasks, domains=recipe.domains)
        self._train("vist2-instruct", self._trained("vist2-optical"), data, recipe.instruct)

    def assemble(self) -> None:
        """The finished model with its processor, in shards small enough for a package."""
        model = self._trained("vist2-instruct")
        for part in (model.config.text_config, model.config.vision_config):
            part._name_or_path = ""  # where the parts lay on the machine that trained them says nothing to others

        def save(folder: Path) -> None:
            model.save_pretrained(folder, max_shard_size="14MB")
            self.processor.save_pretrained(folder)

        self._finish("vist2-model", save)

    def _drawn_from(self, curriculum: Curriculum, config: StageConfig, shift: int) -> tuple[Any, ...]:
        return self.nano.corpus, self.processor, curriculum, config.samples, self.recipe.seed + shift

    def _untrained(self) -> Vist2ForCausalLM:
        torch.manual_seed(self.recipe.seed)
        llm = AutoModelForCausalLM.from_pretrained(self.final("long-text"), dtype=torch.float32)
        llm.set_attn_implementation("sdpa")
        encoder = TextViTModel.from_pretrained(self.final("text-vit"), dtype=torch.float32)
        return Vist2ForCausalLM.from_backbones(
            llm,
            encoder,
            patches_per_token=self.recipe.patches_per_token,
            aligner_expansion=self.recipe.aligner_expansion,
            aligner_layers=self.recipe.aligner_layers,
            aligner_heads=max(1, llm.config.hidden_size // 64),
            aligner_shortcut=True,
            style=STYLE,
        )

    def _trained(self, stage: str) -> Vist2ForCausalLM:
        return Vist2ForCausalLM.from_pretrained(self.final(stage), dtype=torch.float32)

    def _train(
        self,
        stage: str,
        model: Vist2ForCausalLM,
        data: InterleavedSamples,
        config: StageConfig,
        objective: Objective | None = None,
    ) -> None:
        dataset: Dataset = data
        run_stage(model, dataset, data.collate, config, self.out / stage, self.recipe.seed, objective=objective)
        self._finish(stage, model.save_pretrained)

    def _finish(self, stage: str, save: Callable[[Path], object]) -> None:
        part = self.out / stage / "final.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        save(part)
        os.replace(part, self.final(stage))


def read_back_loss(
    model: Vist2ForCausalLM, inputs: Mapping[str, Any], weight: float, num_items_in_batch: Tensor | int | None = None
) -> dict[str, Tensor]:
    """Next-token loss on the copied text, plus the contrast of visual tokens with what is written in their patches."""
    batch = dict(inputs)
    names_MS = batch.pop("names")
    if "pixel_values" not in batch:  # nothing in this batch could be drawn
        lm_loss = model(**batch, num_items_in_batch=num_items_in_batch).loss
        return {"loss": lm_loss, "lm_loss": lm_loss}
    pages = {name: batch.pop(name) for name in ("pixel_values", "ink_mask", "page_chunks")}
    tokens_MD = model.encode_chunks(**pages, visual_counts=batch["visual_counts"])
    lm_loss = model(**batch, visual_tokens=tokens_MD, num_items_in_batch=num_items_in_batch).loss
    aligned = alignment_loss(model, tokens_MD, names_MS)
    share = 1.0 if num_items_in_batch is None else (batch["shift_labels"] != IGNORED).sum() / num_items_in_batch
    return {"loss": lm_loss + weight * share * aligned, "lm_loss": lm_loss, "alignment_loss": aligned}


def alignment_loss(model: Vist2ForCausalLM, tokens_MD: Tensor, names_MS: Tensor) -> Tensor:
    """InfoNCE of each visual token with the mean embedding of its text tokens, among those of the whole batch."""
    there_MS = names_MS != IGNORED
    embeds_MSD = model.get_input_embeddings()(names_MS.clamp(min=0)).detach()
    total_MD = (embeds_MSD * there_MS.unsqueeze(-1)).sum(1)
    means_MD = total_MD / there_MS.sum(1, keepdim=True).clamp(min=1)
    return pve_loss(tokens_MD.float(), means_MD.float(), TEMPERATURE, there_MS.any(1), True)


STAGES: dict[str, Callable[[Vist2NanoRun], None]] = {
    **{
        name: partial(lambda run, stage: stage(run.nano), stage=NANO_STAGES[name])
        for name in ("tokenizer", "language-model", "long-text", "text-vit")
    },
    "vist2-read-back": Vist2NanoRun.read_back,
    "vist2-optical": Vist2NanoRun.model_history,
    "vist2-instruct": Vist2NanoRun.instruct,
    "vist2-model": Vist2NanoRun.assemble,
}


def train_vist2_nano(recipe: Vist2NanoRecipe, data: Path, out: Path, until: str | None = None) -> Path:
    """Run every stage that is not finished yet, up to and including `until` (default: all).

    Args:
        recipe: all numbers.
        data: a folder with `corpus/<domain>/<split>*.parquet` (or the domains directly in it).
        out: the run's folder; one with a finished `nano` run saves its first three stages.
        until: name of the last stage to run.

    Raises:
        VistError: the data has not that layout or cannot be read.
    """
    run = Vist2NanoRun(recipe, data, out)
    return run_stages(run, STAGES, until)
