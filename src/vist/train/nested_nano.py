"""From a finished `vist-nano` to one that can be read at any number of visual tokens.

Owns the stages and what each hands to the next. The numbers are a recipe's (`vist.recipes`).

Decisions
- It starts from a model's folder alone: weights, tokenizer, page style and token statistics are in it. So the packaged
  model can be continued as well as one's own.
- The objective is that of the stages before it, next token + PVE with guidance, both backbones frozen; new is only that
  the number of visual tokens is drawn for every batch.
- A finished stage is a folder `final`, as in every run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from vist.fuse.insert import cross_attentions
from vist.model.vist import VistForConditionalGeneration
from vist.train.context import ContextShape
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.guidance import guided_loss
from vist.train.nano import GUIDANCE, masking_processor
from vist.train.nested import NestedSamples, TokenRange
from vist.train.stage import StageConfig, run_stage
from vist.train.stages import finished_model, run_stages, write_final


@dataclass(frozen=True)
class NestedRecipe:
    """Every choice of the stage: what is read, how many visual tokens, how long."""

    domains: Mapping[str, float]
    mix: ExampleMix
    shape: ContextShape
    tokens: TokenRange
    nested: StageConfig
    seed: int = 1


class NestedRun:
    """One run in one folder, from the model in the folder `source`."""

    def __init__(self, recipe: NestedRecipe, data: Path, out: Path, source: Path):
        self.recipe, self.data, self.out, self.source = recipe, data, out, source

    def final(self, stage: str) -> Path:
        """Folder of a finished stage."""
        return self.out / stage / "final"

    def nest(self) -> None:
        """Train Resampler and cross-attention with a number of visual tokens that is drawn for every batch."""
        recipe, config = self.recipe, self.recipe.nested
        torch.manual_seed(recipe.seed)
        model = VistForConditionalGeneration.from_pretrained(self.source, dtype=torch.float32)
        model.learn_merging()
        processor, frequency = masking_processor(self.source)
        data = NestedSamples(
            PackedCorpus.build(self.data, recipe.domains, "train", self.out / "corpus"),
            processor.tokenizer,
            processor.page_style,
            model.config.num_visual_tokens,
            cross_attentions(model.language_model)[-1].num_key_value_heads,
            recipe.mix,
            recipe.shape,
            frequency.importance(),
            config.samples,
            config.batch_size,
            recipe.seed + 7,
            tokens=recipe.tokens,
        )
        objective = partial(guided_loss, weight=GUIDANCE)
        run_stage(model, data, data.collate, config, self.out / "nested", recipe.seed, objective=objective)
        write_final(self.out / "nested", model.save_pretrained)

    def assemble(self) -> None:
        """The finished model with its processor and token statistics, in shards small enough for a package."""
        model = VistForConditionalGeneration.from_pretrained(self.final("nested"), dtype=torch.float32)

        def save(folder: Path) -> None:
            model.save_pretrained(folder, max_shard_size="14MB")
            masking_processor(self.source)[0].save_pretrained(folder)

        write_final(self.out / "nested-model", save)


STAGES: dict[str, Callable[[NestedRun], None]] = {"nested": NestedRun.nest, "nested-model": NestedRun.assemble}


def train_nested(
    recipe: NestedRecipe, data: Path, out: Path, until: str | None = None, source: Path | None = None
) -> Path:
    """Continue a finished `vist-nano` so that it can be read at any number of visual tokens.

    Args:
        recipe: all numbers.
        data: a folder with `corpus/<domain>/<split>*.parquet` (or the domains directly in it).
        out: the run's folder: checkpoints, loss logs, finished stages.
        until: name of the last stage to run.
        source: the model to continue: its folder, or that of the run that made it; None = the packaged one.

    Raises:
        VistError: the model or the data cannot be read, or the model has no token statistics.
    """
    return run_stages(NestedRun(recipe, data, out, finished_model(source)), STAGES, until)
