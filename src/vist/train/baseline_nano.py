"""From a run of `vist-nano` to a finished baseline of the same size, stage by stage.

Owns the order of the stages and what each method does in them. The numbers are a recipe's (`vist.recipes.baselines`).

Decisions
- Tokenizer, language model (`long-text`), token counts and TextViT are those of a `nano` run in the same folder; what
  is missing is trained there first, or taken from a finished `vist-nano` that is named. The stages after them, from
  alignment on, go into a folder of the method's own.
- Every method has VIST's stages with VIST's data, seeds, steps and rates, all steps scaled by one `budget`; so VIST
  itself can be trained again at the budget of its baselines.
- What differs. "tome" and "fastv": only the tower. "pooled" and "hierarchical": the text is encoded as text, so there
  is no PVE; alignment finds and names tokens in context tokens; the guide points at whole context tokens. "cepe": the
  same without sub-tokens (a state stands for one token, there is nothing to look up inside it), and masked-language
  modelling in the place of alignment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3ForCausalLM

from vist.baselines.processing import TextContextProcessor
from vist.baselines.reduced import ReducedVistForConditionalGeneration
from vist.baselines.text_context import TextContextForConditionalGeneration
from vist.errors import VistError
from vist.fuse.insert import cross_attentions
from vist.train.context import ContextSamples, ContextShape
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.nano import GUIDANCE, STYLE, NanoRecipe, NanoRun, adopt
from vist.train.nano import STAGES as NANO_STAGES
from vist.train.stage import Objective, StageConfig, run_stage
from vist.train.stages import finished_model, run_stages
from vist.train.text_context import (
    AlignmentTexts,
    Masker,
    TextAligner,
    TextContextSamples,
    collate_texts,
    guided_token_loss,
)

SHARED = ("tokenizer", "language-model", "long-text", "frequency", "text-vit")
SCALED = ("alignment", "read_back", "context", "settling")
#: stage -> what does it, in a run of its own
OWN_STAGES: dict[str, Callable[[Any], None]] = {
    "alignment": methodcaller("align"),
    "read-back": methodcaller("read_back"),
    "context": methodcaller("train_context"),
    "settling": methodcaller("settle"),
    "model": methodcaller("assemble"),
}
STAGES: dict[str, Any] = {**{name: NANO_STAGES[name] for name in SHARED}, **OWN_STAGES}


@dataclass(frozen=True)
class BaselineRecipe:
    """Every choice of a baseline.

    Attributes:
        folder: of the method's own stages, in the `nano` run's folder.
        method: "vist", "tome", "fastv", "pooled", "hierarchical" or "cepe".
        choices: of its configuration: `ReducedVistConfig` or `TextContextConfig`.
        nano: the run that everything up to TextViT comes from, and the numbers of the stages after it.
        budget: factor on the steps of these stages; 1 = as long as `vist-nano`.
    """

    folder: str
    method: str
    choices: Mapping[str, Any]
    nano: NanoRecipe
    budget: float = 1.0

    def __post_init__(self) -> None:
        if self.budget <= 0:
            raise VistError(f"budget is {self.budget}, but must be above 0; 1 trains as long as vist-nano.")


def at_budget(recipe: NanoRecipe, budget: float) -> NanoRecipe:
    """The recipe with the steps of every stage from alignment on scaled, at least one each."""
    stages: dict[str, StageConfig] = {name: getattr(recipe, name) for name in SCALED}
    scaled = {name: replace(stage, steps=max(1, round(stage.steps * budget))) for name, stage in stages.items()}
    return replace(recipe, **scaled)  # type: ignore[arg-type]


class BesideNano(NanoRun):
    """A run in a folder inside a `nano` run's, which it takes the shared stages from."""

    def __init__(self, recipe: BaselineRecipe, data: Path, out: Path):
        super().__init__(at_budget(recipe.nano, recipe.budget), data, out / recipe.folder)
        self.more_choices = recipe.choices
        self.shared = NanoRun(recipe.nano, data, out)

    @cached_property
    def corpus(self) -> PackedCorpus:
        """The training split as the `nano` run packed it."""
        return self.shared.corpus

    def final(self, stage: str) -> Path:
        """Folder of a finished stage."""
        return self.shared.final(stage) if stage in SHARED else super().final(stage)


class ReducedRun(BesideNano):
    """VIST with a relieved tower."""

    model_class = ReducedVistForConditionalGeneration


class TextRun(BesideNano):
    """An encoder of text in the place of pages, tower and Resampler."""

    model_class = TextContextForConditionalGeneration
    processor_class = TextContextProcessor

    def align(self) -> None:
        """Find and name tokens; for CEPE's encoder, masked-language modelling."""
        recipe, model = self.recipe, self._untrained()
        parts = cross_attentions(model.language_model)[-1].num_key_value_heads
        texts = AlignmentTexts(
            model.config,
            corpus=self.corpus,
            tokenizer=self.tokenizer,
            mix=recipe.alignment_mix,
            style=self.style,
            visual_tokens=recipe.visual_tokens,
            parts=parts,
            samples=recipe.alignment.samples,
            seed=recipe.seed + 3,
        )
        trained = Masker(model) if model.config.encoder == "cepe" else TextAligner(model)
        run_stage(trained, texts, collate_texts, recipe.alignment, self.out / "alignment", recipe.seed)
        if isinstance(trained, TextAligner):
            trained.hand_over(model)  # type: ignore[arg-type]  # what it needs of a model, this one has too
        self._finish("alignment", model.save_pretrained)

    def _untrained(self) -> Any:
        torch.manual_seed(self.recipe.seed)
        llm = Qwen3ForCausalLM.from_pretrained(self.final("long-text"), dtype=torch.float32)
        return TextContextForConditionalGeneration.from_language_model(llm, style=STYLE, **self.more_choices)

    def _objective(self) -> Objective:
        return partial(guided_token_loss, weight=GUIDANCE)

    def _context_samples(
        self, stage: str, model: Any, mix: ExampleMix, shape: ContextShape, config: StageConfig, seed: int
    ) -> ContextSamples:
        pages = super()._context_samples(stage, model, mix, shape, config, seed)
        return TextContextSamples(
            model.config,
            corpus=pages.corpus,
            tokenizer=pages.tokenizer,
            style=pages.style,
            visual_tokens=self.recipe.visual_tokens,
            parts=pages.parts,
            mix=mix,
            shape=shape,
            importance=pages.importance.numpy(),
            samples=config.samples,
            batch_size=config.batch_size,
            seed=seed,
        )


RUNS: dict[str, type[BesideNano]] = {
    "vist": BesideNano,
    "tome": ReducedRun,
    "fastv": ReducedRun,
    "pooled": TextRun,
    "hierarchical": TextRun,
    "cepe": TextRun,
}


def train_baseline(
    recipe: BaselineRecipe, data: Path, out: Path, until: str | None = None, source: Path | None = None
) -> Path:
    """Run every stage that is not finished yet, up to and including `until` (default: all).

    Args:
        recipe: method and numbers.
        data: training texts, as for `train_nano`.
        out: the folder of the `nano` run to start from; the method's stages go into a folder inside it.
        until: name of the last stage to run.
        source: a finished `vist-nano` (its folder, that of its run, or the packaged one's name), whose tokenizer,
            language model, token counts and TextViT stand in for the run's; None = the run trains what it lacks.

    Raises:
        VistError: an unknown method, a stage that the method does not have; see `train_nano` for the rest.
    """
    if recipe.method not in RUNS:
        raise VistError(f"There is no baseline {recipe.method!r}; the baselines are: {', '.join(RUNS)}.")
    run = RUNS[recipe.method](recipe, data, out)
    needed = [name for name in SHARED if name != "text-vit" or not isinstance(run, TextRun)]
    if until is not None and until not in needed and until not in OWN_STAGES:
        raise VistError(f"{recipe.method!r} reads no pages and has no stage {until!r}; leave the stage out.")
    if source is not None:
        adopt(run.shared, finished_model(source))
    shared = {name: lambda own, name=name: NANO_STAGES[name](own.shared) for name in needed}
    stages: dict[str, Callable[[Any], None]] = {**shared, **OWN_STAGES}  # type: ignore[dict-item]
    return run_stages(run, stages, until)
