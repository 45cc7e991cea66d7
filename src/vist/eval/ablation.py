"""Ablations: short trainings that differ in one choice and are evaluated alike.

Owns a variant, its training from a common start, and its evaluation. Does not know which variants make up an ablation
(`vist.recipes.ablations`) nor tables.

Decisions
- All variants begin from one model: a finished one, or the `alignment` stage of a `vist-nano` run, where the Resampler
  is aligned and nothing has been learned about reading. What a variant changes the shape of starts untrained.
- Same data, same seed, same number of steps, language model and encoder frozen; so rows differ by the choice alone.
  One seed says nothing about the spread between seeds: the intervals are over validation windows and questions.
- A training is named by all that decides it, so a variant that stands in several ablations is trained once, and what
  was interrupted goes on from its checkpoint.
- Evaluated on validation books: perplexity and recall of numbers, both under the four conditions.
- Without the mask of blank patches a page counts as inked all over. The guide of the attention does not know such
  pages, so both sides of that ablation are trained without it.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer, TrainerCallback

from vist.compress.frequency import TokenFrequency
from vist.errors import VistError
from vist.eval.conditions import Condition
from vist.eval.importance import FREQUENCY_FILE
from vist.eval.lm import evaluate_lm, lm_rows
from vist.eval.reader import Reader
from vist.eval.recall import evaluate_recall, plan_contexts
from vist.eval.records import setup_digest
from vist.eval.scores import Row
from vist.eval.windows import cut_windows, read_documents, with_wrong_texts
from vist.fuse.insert import cross_attentions
from vist.model.configuration import VistConfig
from vist.model.crossed import VisualContext
from vist.model.processing import VistProcessor
from vist.model.vist import VistForConditionalGeneration
from vist.train.context import ContextSamples, ContextShape
from vist.train.corpus import PackedCorpus, corpus_files
from vist.train.examples import ExampleMix
from vist.train.guidance import guided_loss
from vist.train.stage import StageConfig, run_stage
from vist.train.stages import write_final

DOMAIN = "books"


@dataclass(frozen=True)
class Variant:
    """One choice. `model` and `shape` are fields of `VistConfig` and `ContextShape` that differ from the start's.

    `trained_encoder` False gives the encoder random weights; `blank_mask` False shows blank patches too; `guided` False
    trains without guided attention.
    """

    name: str
    model: Mapping[str, Any] = field(default_factory=dict)
    shape: Mapping[str, Any] = field(default_factory=dict)
    trained_encoder: bool = True
    blank_mask: bool = True
    guided: bool = True


@dataclass(frozen=True)
class AblationConfig:
    """What all variants share.

    `mix`, `shape` and `stage` say what is trained on and how long; `pages`, `windows` (of each validation document),
    `contexts`, `facts` and `resamples` how it is evaluated; `proximal` are the tokens after the pages.
    """

    mix: ExampleMix
    shape: ContextShape
    stage: StageConfig
    seed: int = 1
    pages: int = 4
    windows: int = 8
    proximal: int = 256
    contexts: int = 30
    facts: int = 4
    resamples: int = 10_000


@dataclass(frozen=True)
class Start:
    """Where every variant begins."""

    source: str
    model: VistForConditionalGeneration
    processor: VistProcessor
    importance: np.ndarray


class WithBlanks(VistForConditionalGeneration):
    """The same model with every patch of a page in view, blank or not; pages without any ink stay out."""

    def encode_context(self, pixel_values: Tensor, ink_mask: Tensor, *dial: Any, **named: Any) -> VisualContext:
        """Read pages; see the base class."""
        page = ink_mask.flatten(2).any(-1)[..., None, None]
        return super().encode_context(pixel_values, page.expand_as(ink_mask), *dial, **named)


class _Deadline(TrainerCallback):
    """Stops a training, with a checkpoint, when the time is up."""

    def __init__(self, until: float):
        self.until, self.passed = until, False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Ask for a checkpoint and the end."""
        if state.global_step < state.max_steps and time.monotonic() >= self.until:
            self.passed = control.should_save = control.should_training_stop = True


def load_start(source: str) -> Start:
    """A model to begin from: a packaged model, a model's folder, or the folder of a `vist-nano` run.

    Raises VistError without token statistics, which the masking needs.
    """
    import vist

    run = Path(source)
    aligned = run / "alignment" / "final"
    model: Any
    if aligned.is_dir():
        model = VistForConditionalGeneration.from_pretrained(aligned)
        tokenizer = AutoTokenizer.from_pretrained(run / "tokenizer" / "final")
        processor = VistProcessor(tokenizer, style=model.config.style)
        table = run / "frequency" / "final" / FREQUENCY_FILE
    else:
        model, processor = vist.load(source)
        table = Path(str(model.config.name_or_path)) / FREQUENCY_FILE
    if not table.is_file():
        raise VistError(f"{source!r} has no token statistics ({FREQUENCY_FILE}); start from a model that has them.")
    return Start(source, model.float(), processor, TokenFrequency.load(table).importance())


def build_variant(start: Start, variant: Variant, seed: int) -> VistForConditionalGeneration:
    """The variant's model with all weights of the start whose shapes it keeps, new ones drawn with `seed`."""
    torch.manual_seed(seed)
    kind = VistForConditionalGeneration if variant.blank_mask else WithBlanks
    model = kind(VistConfig.from_dict(start.model.config.to_dict() | dict(variant.model))).float()
    own = model.state_dict()
    kept = {
        name: value
        for name, value in start.model.state_dict().items()
        if name in own
        and own[name].shape == value.shape
        and (variant.trained_encoder or not name.startswith("vision_tower."))
    }
    model.load_state_dict(kept, strict=False)
    return model


def measure_variant(
    start: Start, variant: Variant, config: AblationConfig, data: Path, out: Path, until: float = float("inf")
) -> list[Row]:
    """Train a variant, or go on with it, and evaluate it.

    Raises VistError when the time (`time.monotonic`) is up before the training has ended; called again, it goes on.
    """
    if time.monotonic() >= until:
        raise VistError(f"The time was up before {variant.name!r} began; run again to go on.")
    model: Any = _train(start, variant, config, data, out, until)
    place = "cuda" if torch.cuda.is_available() else "cpu"  # where the Trainer trains, too
    reader = Reader(model.eval().to(place), start.processor)
    texts = list(read_documents(corpus_files(data, DOMAIN, "validation")))
    windows, _ = cut_windows(reader, texts, config.pages, config.proximal, config.windows)
    passages = with_wrong_texts(reader, windows, config.pages)
    documents = [window.document for window in windows]
    lm = evaluate_lm(reader, passages, documents, resamples=config.resamples, seed=config.seed)
    planned = plan_contexts(reader, texts, config.contexts, config.facts, config.pages, ("number",), config.seed)
    recalled = evaluate_recall(reader, planned, config.pages).score_rows(config.resamples, config.seed)
    rows = lm_rows([lm.method_dict(condition) for condition in Condition], lm.to_dict())
    return rows + [row for row in recalled if row["metric"] == "exact"]


def _train(
    start: Start, variant: Variant, config: AblationConfig, data: Path, out: Path, until: float
) -> VistForConditionalGeneration:
    what = asdict(variant) | {"name": "", "start": start.source, "data": str(data)}
    what |= {"mix": asdict(config.mix), "all": asdict(config.shape), "stage": asdict(config.stage), "seed": config.seed}
    folder = out / "runs" / setup_digest(what)
    model = build_variant(start, variant, config.seed)
    if not (folder / "final").exists():
        shape = replace(config.shape, **variant.shape)
        corpus = PackedCorpus.build(data, tuple(config.mix.domains), "train", out / "corpus")
        samples = ContextSamples(
            corpus,
            start.processor.tokenizer,
            start.processor.page_style,
            model.config.num_visual_tokens,
            cross_attentions(model.language_model)[-1].num_key_value_heads,
            config.mix,
            shape,
            start.importance,
            config.stage.samples,
            config.stage.batch_size,
            config.seed,
        )
        deadline = _Deadline(until)
        objective = partial(guided_loss, weight=float(variant.guided))
        run_stage(model, samples, samples.collate, config.stage, folder, config.seed, (deadline,), objective)
        if deadline.passed:
            raise VistError(f"The time was up while {variant.name!r} was trained; run again to go on.")
        write_final(folder, model.save_pretrained)
        for checkpoint in folder.glob("checkpoint-*"):  # nothing goes on from here; a hundred megabytes each
            shutil.rmtree(checkpoint)
    finished = type(model).from_pretrained(folder / "final")
    assert isinstance(finished, VistForConditionalGeneration)
    return finished
