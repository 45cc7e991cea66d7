"""From a finished `vist-nano` to a finished `vist2-nano`, stage by stage.

Owns the order of the stages and what each hands to the next. The numbers are a recipe's (`vist.recipes`). Source: VIST2
(arXiv 2601.10378), three stages; the alignment before them is ours.

Decisions
- Tokenizer, language model and TextViT are those of a finished `vist-nano`, the packaged one unless another is named:
  the language model without its cross-attention. So one command does all, and no `nano` has to be trained again.
- A finished stage is a folder `final`, written beside and renamed; running again skips it, and an unfinished stage
  continues from its newest checkpoint.
- Before the paper's three stages, `vist2-alignment` reads single chunks, every text token of which is asked for: it is
  the cheapest stage per text token, and what follows starts from visual tokens that say what they hold.
- Whatever is a copy of something on a page is guided: one head for each part of a visual token (looking.py).
- The encoder is frozen throughout; aligner and language model learn in every stage, the latter more slowly.
- Every stage leaves a model with its processor, so that any of them can be evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from vist.fuse.insert import without_cross_attention
from vist.model.processing import VistProcessor
from vist.model.vist import VistForConditionalGeneration
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import Vist2Processor
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.instructions import CHAT_TEMPLATE
from vist.train.interleaved import Curriculum, Instructions, InterleavedSamples, OpticalText, ReadBack
from vist.train.looking import guided_look_loss, parts_of
from vist.train.nano import STYLE
from vist.train.stage import StageConfig, run_stage
from vist.train.stages import finished_model, run_stages, write_final
from vist.train.vist2_alignment import ChunkAlignment, ChunkPages

PROBES, PROBE = 20, 2_000  # texts, and characters of each, on which the ratio is tried before anything is trained


@dataclass(frozen=True)
class Vist2NanoRecipe:
    """Every choice of a `vist2-nano`.

    Attributes:
        chunk_size, tolerance, ratio: of the finished model's processor.
        patches_per_token, aligner_preceding, aligner_following, aligner_convolutions, aligner_expansion,
            aligner_layers: of the aligner.
        visual_levels: levels of a visual token.
        domains: weight of each corpus domain in the packed corpus and for instructions.
        random_strings: share of random strings among the pages to align and among the texts to be read back whole.
        whole, read_back_tokens: share of texts that are read back from the beginning; text tokens of a sample.
        alignment, read_back, optical, instruct: the stages, each with its curriculum and what it reads.
        tasks: weight of each instruction task; `replay`: share of samples of the two stages before among them.
        guidance: weight of guided attention.
        seed: of all random choices.
    """

    chunk_size: int
    tolerance: int
    ratio: float
    patches_per_token: int
    aligner_preceding: int
    aligner_following: int
    aligner_convolutions: int
    aligner_expansion: int
    aligner_layers: int
    visual_levels: int
    domains: Mapping[str, float]
    random_strings: float
    alignment: StageConfig
    alignment_curriculum: Curriculum
    alignment_mix: ExampleMix
    read_back: StageConfig
    read_back_curriculum: Curriculum
    read_back_mix: ExampleMix
    whole: float
    read_back_tokens: int
    optical: StageConfig
    optical_curriculum: Curriculum
    mix: ExampleMix
    instruct: StageConfig
    instruct_curriculum: Curriculum
    tasks: Mapping[str, float]
    replay: float
    guidance: float
    seed: int = 1


class Vist2NanoRun:
    """One run in one folder, from the `vist-nano` in the folder `source`."""

    def __init__(self, recipe: Vist2NanoRecipe, data: Path, out: Path, source: Path):
        self.recipe, self.data, self.out, self.source = recipe, data, out, source

    @cached_property
    def corpus(self) -> PackedCorpus:
        """The training split, packed once."""
        return PackedCorpus.build(self.data, self.recipe.domains, "train", self.out / "corpus")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """That of the model it starts from."""
        tokenizer: PreTrainedTokenizerBase = VistProcessor.from_pretrained(self.source).tokenizer
        return tokenizer

    @cached_property
    def processor(self) -> Vist2Processor:
        """The finished model's processor."""
        recipe = self.recipe
        return Vist2Processor(
            self.tokenizer,
            style=STYLE,
            chunk_size=recipe.chunk_size,
            tolerance=recipe.tolerance,
            ratio=recipe.ratio,
            patches_per_token=recipe.patches_per_token,
            chat_template=CHAT_TEMPLATE,
        )

    def final(self, stage: str) -> Path:
        """Folder of a finished stage."""
        return self.out / stage / "final"

    def align(self) -> None:
        """Dense local alignment, before the paper's stages.

        Raises VistError when the aligner cannot give the recipe's ratio on this data.
        """
        self._check_ratio()
        recipe, model = self.recipe, self.untrained()
        parts = parts_of(model.language_model)
        data = ChunkPages(
            *self._drawn_from(recipe.alignment_curriculum, recipe.alignment, 10),
            parts,
            mix=recipe.alignment_mix,
            random_strings=recipe.random_strings,
        )
        folder = self.out / "vist2-alignment"
        run_stage(ChunkAlignment(model, parts), data, data.collate, recipe.alignment, folder, recipe.seed)
        write_final(folder, self._save(model))

    def read_back(self) -> None:
        """Stage (a): read chunks back from their pages."""
        recipe, model = self.recipe, self._trained("vist2-alignment")
        data = self._pages_to_read_back(model, recipe.read_back_curriculum, recipe.read_back, 11)
        self._train("vist2-read-back", model, data, recipe.read_back)

    def model_history(self) -> None:
        """Stage (b): language modelling with a growing share of the history as pages."""
        recipe, model = self.recipe, self._trained("vist2-read-back")
        self._train("vist2-optical", model, self._optical_text(model, recipe.optical, 12), recipe.optical)

    def instruct(self) -> None:
        """Stage (c): answer questions about a text that is pages."""
        recipe, model = self.recipe, self._trained("vist2-optical")
        before = (
            self._pages_to_read_back(model, recipe.instruct_curriculum, recipe.instruct, 15),
            self._optical_text(model, recipe.instruct, 14),
        )
        data = Instructions(
            *self._drawn_from(recipe.instruct_curriculum, recipe.instruct, 13),
            parts_of(model.language_model),
            tasks=recipe.tasks,
            domains=recipe.domains,
            replay=recipe.replay,
            before=before,
        )
        self._train("vist2-instruct", model, data, recipe.instruct)

    def _pages_to_read_back(
        self, model: Vist2ForCausalLM, curriculum: Curriculum, config: StageConfig, shift: int
    ) -> ReadBack:
        recipe = self.recipe
        return ReadBack(
            *self._drawn_from(curriculum, config, shift),
            parts_of(model.language_model),
            mix=recipe.read_back_mix,
            whole=recipe.whole,
            random_strings=recipe.random_strings,
            tokens=recipe.read_back_tokens,
        )

    def _optical_text(self, model: Vist2ForCausalLM, config: StageConfig, shift: int) -> OpticalText:
        source = self._drawn_from(self.recipe.optical_curriculum, config, shift)
        return OpticalText(*source, parts_of(model.language_model), mix=self.recipe.mix)

    def assemble(self) -> None:
        """The finished model with its processor, in shards small enough for a package."""
        model = self._trained("vist2-instruct")
        for part in (model.config.text_config, model.config.vision_config):
            part._name_or_path = ""  # where the parts lay on the machine that trained them says nothing to others

        write_final(self.out / "vist2-model", self._save(model))

    def _save(self, model: Vist2ForCausalLM) -> Callable[[Path], None]:
        def save(folder: Path) -> None:
            model.save_pretrained(folder, max_shard_size="14MB")
            self.processor.save_pretrained(folder)

        return save

    def _check_ratio(self) -> None:
        rng = np.random.default_rng(self.recipe.seed)
        texts = [self.corpus.window(rng, self.recipe.domains, PROBE) for _ in range(PROBES)]
        self.processor.interleaved(texts)

    def _drawn_from(
        self, curriculum: Curriculum, config: StageConfig, shift: int
    ) -> tuple[PackedCorpus, Vist2Processor, Curriculum, int, int]:
        return self.corpus, self.processor, curriculum, config.samples, self.recipe.seed + shift

    def untrained(self) -> Vist2ForCausalLM:
        """The model that the first stage starts from: backbones of the source, a new aligner."""
        torch.manual_seed(self.recipe.seed)
        read = VistForConditionalGeneration.from_pretrained(self.source, dtype=torch.float32)
        llm = without_cross_attention(read.language_model)
        llm.set_attn_implementation("sdpa")
        llm.generation_config = read.generation_config
        return Vist2ForCausalLM.from_backbones(
            llm,
            read.vision_tower,
            patches_per_token=self.recipe.patches_per_token,
            aligner_preceding=self.recipe.aligner_preceding,
            aligner_following=self.recipe.aligner_following,
            aligner_convolutions=self.recipe.aligner_convolutions,
            aligner_expansion=self.recipe.aligner_expansion,
            aligner_layers=self.recipe.aligner_layers,
            visual_levels=self.recipe.visual_levels,
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
    ) -> None:
        dataset: Dataset = data
        objective = partial(guided_look_loss, weight=self.recipe.guidance)
        run_stage(model, dataset, data.collate, config, self.out / stage, self.recipe.seed, objective=objective)
        write_final(self.out / stage, self._save(model))


STAGES: dict[str, Callable[[Vist2NanoRun], None]] = {
    "vist2-alignment": Vist2NanoRun.align,
    "vist2-read-back": Vist2NanoRun.read_back,
    "vist2-optical": Vist2NanoRun.model_history,
    "vist2-instruct": Vist2NanoRun.instruct,
    "vist2-model": Vist2NanoRun.assemble,
}


def train_vist2_nano(
    recipe: Vist2NanoRecipe, data: Path, out: Path, until: str | None = None, source: Path | None = None
) -> Path:
    """Run every stage that is not finished yet, up to and including `until` (default: all).

    Args:
        recipe: all numbers.
        data: a folder with `corpus/<domain>/<split>*.parquet` (or the domains directly in it).
        out: the run's folder: checkpoints, loss logs, finished stages.
        until: name of the last stage to run.
        source: the `vist-nano` to start from: its folder, or that of the run that made it; None = the packaged one.

    Raises:
        VistError: the model or the data cannot be read, or the aligner cannot give the recipe's ratio.
    """
    return run_stages(Vist2NanoRun(recipe, data, out, finished_model(source)), STAGES, until)
