"""From a folder of text to a finished `vist-nano`, stage by stage.

Owns the order of the stages and what each hands to the next. The numbers are a recipe's (`vist.recipes`).

Decisions
- A finished stage is a folder `final`, written beside and renamed; running again skips it, and an unfinished stage
  continues from its newest checkpoint. So one command, repeated as often as needed, always ends with the same model.
- Stages: tokenizer -> language-model -> long-text -> frequency -> text-vit -> alignment -> read-back -> context ->
  settling -> model.
- The language model first learns to copy, from examples of which half are copies; then, in `long-text`, when to: on
  long windows that are mostly plain it stops taking every second occurrence for a quotation. `settling` does the
  same for what is read from pages.
- The encoder is frozen from `alignment` on. The language model still learns in `read-back`, slowly: it can look things
  up in its text by then, but a visual token brings several tokens at once, and picking the next one of them is new.
  In `context` and `settling`, the paper's objective, both backbones are frozen, as in the paper.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen3ForCausalLM

from vist.compress.frequency import TokenFrequency
from vist.errors import VistError
from vist.fuse.insert import cross_attentions, without_cross_attention
from vist.model.processing import VistProcessor
from vist.model.vist import VistForConditionalGeneration
from vist.render import PageStyle
from vist.train.alignment import Aligner, AlignmentPages, collate_alignment
from vist.train.context import ContextSamples, ContextShape
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix
from vist.train.guidance import guided_loss, guided_text_loss
from vist.train.language_model import TextSequences, build_language_model
from vist.train.nested import NestedSamples, TokenRange
from vist.train.reading import Reader, ReadingMix, ReadingPages, collate_pages
from vist.train.stage import Objective, StageConfig, run_stage
from vist.train.stages import run_stages, write_final
from vist.train.tokenizer import train_tokenizer
from vist.vision.text_vit import TextViTConfig, TextViTModel

GUIDANCE = 1.0
TOKENIZER_WINDOWS, TOKENIZER_WINDOW = 600, 20_000
FREQUENCY_SAMPLES = 3_000
STYLE = "vist"
NESTED_STAGES = ("context", "settling")


@dataclass(frozen=True)
class NanoRecipe:
    """Every choice of a `vist-nano`: shapes, mixes of examples, and how long each stage trains.

    `nested`: draw the number of visual tokens for every batch of `context` and `settling`; None = always all of them.
    """

    vocab_size: int
    lm_width: int
    lm_layers: int
    lm_context: int
    vit_width: int
    vit_layers: int
    domains: Mapping[str, float]
    lm_mix: ExampleMix
    lm_tokens: tuple[int, int]
    lm: StageConfig
    long_text_mix: ExampleMix
    long_text_tokens: tuple[int, int]
    long_text: StageConfig
    reading_mix: ReadingMix
    reading: StageConfig
    visual_tokens: int
    resampler_layers: int
    local_expansion: int
    local_preceding: int
    local_following: int
    page_positions: int
    alignment_mix: ExampleMix
    alignment: StageConfig
    read_back_mix: ExampleMix
    read_back_shape: ContextShape
    read_back: StageConfig
    context_mix: ExampleMix
    context_shape: ContextShape
    context: StageConfig
    settling_mix: ExampleMix
    settling_shape: ContextShape
    settling: StageConfig
    seed: int = 1
    nested: TokenRange | None = None


class NanoRun:
    """One run in one folder. Each stage is a method named in `STAGES`; inputs are read from earlier stages' folders."""

    model_class: Any = VistForConditionalGeneration
    processor_class: Any = VistProcessor
    more_choices: Mapping[str, Any] = {}

    def __init__(self, recipe: NanoRecipe, data: Path, out: Path):
        self.recipe, self.data, self.out = recipe, data, out
        self.style = PageStyle.named(STYLE)

    @cached_property
    def corpus(self) -> PackedCorpus:
        """The training split, packed once."""
        return PackedCorpus.build(self.data, self.recipe.domains, "train", self.out / "corpus")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The finished tokenizer."""
        return AutoTokenizer.from_pretrained(self.final("tokenizer"))

    def final(self, stage: str) -> Path:
        """Folder of a finished stage."""
        return self.out / stage / "final"

    def train_tokenizer(self) -> None:
        """Byte-level BPE on windows of the training split."""
        tokenizer = train_tokenizer(
            self._windows(TOKENIZER_WINDOWS, TOKENIZER_WINDOW), self.recipe.vocab_size, self.recipe.lm_context
        )
        self._finish("tokenizer", tokenizer.save_pretrained)

    def train_language_model(self) -> None:
        """Next-token training on text alone, half of it copies."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        model = build_language_model(self.tokenizer, recipe.lm_width, recipe.lm_layers, recipe.lm_context)
        self._train_text("language-model", model, recipe.lm_mix, recipe.lm_tokens, recipe.lm, recipe.seed)

    def train_long_text(self) -> None:
        """The same on long and mostly plain windows."""
        recipe = self.recipe
        model = Qwen3ForCausalLM.from_pretrained(self.final("language-model"), dtype=torch.float32)
        stage = (recipe.long_text_mix, recipe.long_text_tokens, recipe.long_text, recipe.seed + 1)
        self._train_text("long-text", model, *stage)

    def count_tokens(self) -> None:
        """Token statistics for frequency-based masking, on pieces as long as a page."""
        frequency = TokenFrequency(len(self.tokenizer))
        for text in self._windows(FREQUENCY_SAMPLES, 700):
            frequency.update(self.tokenizer(text, add_special_tokens=False).input_ids)
        self._finish("frequency", lambda folder: frequency.save(Path(folder) / "token_frequency.safetensors"))

    def train_text_vit(self) -> None:
        """Teach the encoder to read."""
        recipe = self.recipe
        config = TextViTConfig(
            hidden_size=recipe.vit_width,
            num_hidden_layers=recipe.vit_layers,
            num_attention_heads=recipe.vit_width // 64,
            intermediate_size=4 * recipe.vit_width,
        )
        torch.manual_seed(recipe.seed)
        encoder = TextViTModel(config)
        pages = ReadingPages(
            self.corpus, self.tokenizer, config, recipe.reading_mix, recipe.reading.samples, recipe.seed + 2
        )
        run_stage(
            Reader(encoder, recipe.vocab_size), pages, collate_pages, recipe.reading, self.out / "text-vit", recipe.seed
        )
        self._finish("text-vit", encoder.save_pretrained)

    def align(self) -> None:
        """Dense local alignment of the Resampler."""
        recipe = self.recipe
        model = self._untrained()
        pages = AlignmentPages(
            self.corpus,
            self.tokenizer,
            recipe.alignment_mix,
            self.style,
            recipe.visual_tokens,
            cross_attentions(model.language_model)[-1].num_key_value_heads,
            recipe.alignment.samples,
            recipe.seed + 3,
        )
        aligner = Aligner(model)
        run_stage(aligner, pages, collate_alignment, recipe.alignment, self.out / "alignment", recipe.seed)
        aligner.hand_over(model)
        self._finish("alignment", model.save_pretrained)

    def read_back(self) -> None:
        """Warm-up of Resampler, cross-attention and language model: quote and recall what one page says."""
        recipe = self.recipe
        model = self._trained("alignment")
        model.language_model.requires_grad_(True)
        stage = (recipe.read_back_mix, recipe.read_back_shape, recipe.read_back, recipe.seed + 4)
        self._train_context("read-back", model, *stage)

    def train_context(self) -> None:
        """The paper's objective, next token + PVE, over several pages, with recall and quotation mixed in."""
        recipe = self.recipe
        stage = (recipe.context_mix, recipe.context_shape, recipe.context, recipe.seed + 5)
        self._train_context("context", self._trained("read-back"), *stage)

    def settle(self) -> None:
        """The same on mostly plain continuations of full pages."""
        recipe = self.recipe
        stage = (recipe.settling_mix, recipe.settling_shape, recipe.settling, recipe.seed + 6)
        self._train_context("settling", self._trained("context"), *stage)

    def assemble(self) -> None:
        """The finished model with its processor and token statistics, in shards small enough for a package."""
        model = self._trained("settling")
        for part in (getattr(model.config, name) for name in model.config.sub_configs):
            part._name_or_path = ""  # where the parts lay on the machine that trained them says nothing to others

        def save(folder: Path) -> None:
            model.save_pretrained(folder, max_shard_size="14MB")
            self.processor_class(self.tokenizer, style=self.style).save_pretrained(folder)
            shutil.copy(self.final("frequency") / "token_frequency.safetensors", folder)

        self._finish("model", save)

    def _windows(self, count: int, characters: int) -> Iterator[str]:
        rng = np.random.default_rng(self.recipe.seed)
        return (self.corpus.window(rng, self.recipe.domains, characters) for _ in range(count))

    def _train_text(
        self,
        stage: str,
        model: Qwen3ForCausalLM,
        mix: ExampleMix,
        tokens: tuple[int, int],
        config: StageConfig,
        seed: int,
    ) -> None:
        model.set_attn_implementation("eager")  # the kernel that tells what it attends to
        data = TextSequences(self.corpus, self.tokenizer, mix, tokens, config.samples, config.batch_size, seed)
        objective = partial(guided_text_loss, weight=GUIDANCE)
        run_stage(model, data, data.collate, config, self.out / stage, seed, objective=objective)
        self._finish(stage, model.save_pretrained)

    def _untrained(self) -> VistForConditionalGeneration:
        torch.manual_seed(self.recipe.seed)
        llm = Qwen3ForCausalLM.from_pretrained(self.final("long-text"), dtype=torch.float32)
        encoder = TextViTModel.from_pretrained(self.final("text-vit"), dtype=torch.float32)
        return self.model_class.from_backbones(
            llm,
            encoder,
            num_visual_tokens=self.recipe.visual_tokens,
            reducer="local",
            resampler_layers=self.recipe.resampler_layers,
            resampler_heads=self.recipe.lm_width // 64,
            num_page_positions=self.recipe.page_positions,
            local_expansion=self.recipe.local_expansion,
            local_preceding=self.recipe.local_preceding,
            local_following=self.recipe.local_following,
            local_shortcut=True,
            cross_output_gate=True,
            cross_subtokens=True,
            pve_normalize=True,
            style=STYLE,
            **self.more_choices,
        )

    def _trained(self, stage: str) -> VistForConditionalGeneration:
        return self.model_class.from_pretrained(self.final(stage), dtype=torch.float32)

    def _train_context(
        self,
        stage: str,
        model: VistForConditionalGeneration,
        mix: ExampleMix,
        shape: ContextShape,
        config: StageConfig,
        seed: int,
    ) -> None:
        data = self._context_samples(stage, model, mix, shape, config, seed)
        run_stage(model, data, data.collate, config, self.out / stage, seed, objective=self._objective())
        self._finish(stage, model.save_pretrained)

    def _objective(self) -> Objective:
        return partial(guided_loss, weight=GUIDANCE)

    def _context_samples(
        self, stage: str, model: Any, mix: ExampleMix, shape: ContextShape, config: StageConfig, seed: int
    ) -> ContextSamples:
        importance = TokenFrequency.load(self.final("frequency") / "token_frequency.safetensors").importance()
        nested = self.recipe.nested if stage in NESTED_STAGES else None
        samples = ContextSamples if nested is None else partial(NestedSamples, tokens=nested)
        if nested is not None:
            model.learn_merging()
        return samples(
            self.corpus,
            self.tokenizer,
            self.style,
            self.recipe.visual_tokens,
            cross_attentions(model.language_model)[-1].num_key_value_heads,
            mix,
            shape,
            importance,
            config.samples,
            config.batch_size,
            seed,
        )

    def _finish(self, stage: str, save: Callable[[Path], object]) -> None:
        write_final(self.out / stage, save)


STAGES: dict[str, Callable[[NanoRun], None]] = {
    "tokenizer": NanoRun.train_tokenizer,
    "language-model": NanoRun.train_language_model,
    "long-text": NanoRun.train_long_text,
    "frequency": NanoRun.count_tokens,
    "text-vit": NanoRun.train_text_vit,
    "alignment": NanoRun.align,
    "read-back": NanoRun.read_back,
    "context": NanoRun.train_context,
    "settling": NanoRun.settle,
    "model": NanoRun.assemble,
}


def masking_processor(source: Path) -> tuple[VistProcessor, TokenFrequency]:
    """The processor of a finished model, and its token statistics. Raises VistError when it has none."""
    processor: VistProcessor = VistProcessor.from_pretrained(source)
    if processor.frequency is None:
        raise VistError(f"{str(source)!r} has no token statistics; PVE's masking needs them.")
    return processor, processor.frequency


def adopt(run: NanoRun, source: Path) -> None:
    """Put what a finished `vist-nano` starts from where the run's own would stand: for methods beside it.

    Tokenizer, token counts, TextViT and the language model, which learned on in `read-back`, without cross-attention.
    What the run has finished itself stays. Raises VistError when the model cannot be read or has no token counts.
    """
    processor, frequency = masking_processor(source)
    model = VistForConditionalGeneration.from_pretrained(source, dtype=torch.float32)
    llm = without_cross_attention(model.language_model)
    llm.generation_config = model.generation_config
    parts: dict[str, Callable[[Path], object]] = {
        "tokenizer": processor.tokenizer.save_pretrained,
        "language-model": llm.save_pretrained,
        "long-text": llm.save_pretrained,
        "frequency": lambda folder: frequency.save(folder / "token_frequency.safetensors"),
        "text-vit": model.vision_tower.save_pretrained,
    }
    for stage, save in parts.items():
        if not run.final(stage).exists():
            write_final(run.out / stage, save)


def train_nano(recipe: NanoRecipe, data: Path, out: Path, until: str | None = None) -> Path:
    """Run every stage that is not finished yet, up to and including `until` (default: all).

    Args:
        recipe: all numbers.
        data: a folder with `corpus/<domain>/<split>*.parquet` (or the domains directly in it).
        out: the run's folder: checkpoints, loss logs, finished stages.
        until: name of the last stage to run.

    Raises:
        VistError: the data has not that layout or cannot be read.
    """
    run = NanoRun(recipe, data, out)
    return run_stages(run, STAGES, until)
