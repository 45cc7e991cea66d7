"""The paper's training run, from two backbones and a corpus to an adapter, on one device or many.

Owns the order of the run and its checks. The numbers are a recipe's (`vist.recipes.paper`). Source: VIST (arXiv
2502.00791), section on training and Table 8.

Decisions
- Both backbones are frozen; Resampler, cross-attention and the PVE projection learn, in fp32 beside backbones in the
  precision of the products. Under FSDP all weights are fp32 and accelerate's mixed precision casts them, since shards
  are of one type.
- The global batch is the recipe's, whatever the devices: accumulation follows from it. So a run can go on with another
  number of devices than it began with.
- Token statistics for frequency-based masking are counted once, before training, over the first windows of all lanes.
- Pages that were encoded before (features.py) take the place of drawing and encoding; nothing else in the run changes.
- What is wrong with backbones, tokenizer, data, features and disk is said before the first step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.trainer_utils import get_last_checkpoint

from vist.compress.frequency import TokenFrequency
from vist.compress.ranks import rank, wait_for_all, world_size
from vist.errors import VistError
from vist.model.checkpoint import first_line
from vist.model.processing import VistProcessor
from vist.model.vist import VistForConditionalGeneration
from vist.render import PageStyle
from vist.render.fonts import RENDERER_VERSION
from vist.render.fonts import fingerprint as page_fingerprint
from vist.train.features import FeatureStore
from vist.train.paged import Share, WindowBatches, WindowReader, WindowShape
from vist.train.precision import resolved_precision
from vist.train.sources import Shard, open_shards
from vist.train.stage import StageConfig, run_stage
from vist.train.stream import Cursor, Lane, Segment, cut_lanes, fingerprint, report
from vist.train.trainer import DATA, AtomicTrainer, check_space

STAGES = {"train": None}
FREQUENCY = "token_frequency.safetensors"
REPORT = "data.json"
OPTIMIZER_BYTES = 12  # of a trained weight in a checkpoint: itself and AdamW's two moments, in fp32
DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class PaperRecipe:
    """Every choice of a run.

    Attributes:
        llm, vision: Hub ids or folders of the backbones.
        llm_bits: 4 = the frozen LLM quantised (bitsandbytes, NF4), 16 = not.
        window: T_e, T_d and masking.
        choices: fields of `VistConfig`.
        global_batch: samples of one optimizer step, on all devices together.
        stage: steps, rates, precision; its `batch_size` is what one device takes at once, `accumulation` follows.
        frequency_windows: windows whose tokens are counted for frequency-based masking.
        seed: of new weights and of masking.
    """

    llm: str
    vision: str
    window: WindowShape
    choices: Mapping[str, Any]
    stage: StageConfig
    global_batch: int
    llm_bits: int = 16
    frequency_windows: int = 4096
    seed: int = 1

    def __post_init__(self) -> None:
        for name in ("global_batch", "frequency_windows"):
            if getattr(self, name) < 1:
                raise VistError(f"{name} is {getattr(self, name)}, but must be at least 1.")
        if self.llm_bits not in (4, 16):
            raise VistError(f"llm_bits is {self.llm_bits}; choose 4 (quantised) or 16.")

    @property
    def tokens(self) -> int:
        """Tokens of the whole run, both paths."""
        return self.stage.steps * self.global_batch * (self.window.distant + self.window.proximal)

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        return asdict(replace(self, choices=dict(self.choices)))


class PaperRun:
    """One run in one folder: `train` with the checkpoints, `model` with the result.

    `features`: a folder of pages that were encoded before (`vist.train.encoding`).
    """

    def __init__(self, recipe: PaperRecipe, data: Any, out: Path, features: Path | None = None):
        self.recipe, self.out = recipe, out
        self.tokenizer = load_tokenizer(recipe.llm)
        check_tokenizer(self.tokenizer, read_config(recipe.llm), recipe.llm)
        self.style = PageStyle.named(recipe.choices.get("style", "vist"))
        self.shards: list[Shard] = open_shards(data)
        self.segments: list[list[Segment]] = cut_lanes(self.shards, recipe.global_batch)
        self.features = None if features is None else FeatureStore(features)
        if self.features is not None:
            self.features.check(self.identity(), recipe.stage.steps)

    @property
    def tokens(self) -> int:
        """Tokens of the corpus in a window."""
        return self.recipe.window.tokens(self.tokenizer)

    @property
    def fingerprint(self) -> str:
        """What cursors belong to."""
        return fingerprint(self.shards, self.tokenizer, self.tokens, self.recipe.global_batch)

    def identity(self) -> dict[str, Any]:
        """What features of this run's pages are of (`vist.train.features.IDENTITY`); the tower is recognised apart."""
        window, choices = self.recipe.window, self.recipe.choices
        return {
            "renderer": RENDERER_VERSION,
            "style": self.style.name,
            "page": page_fingerprint(self.style),
            "distant": window.distant,
            "proximal": window.proximal,
            "lanes": self.recipe.global_batch,
            "corpus": self.fingerprint,
            "vision_layers": choices.get("vision_layers"),
            "vision_drop_blank": choices.get("vision_drop_blank", False),
        }

    def importance(self) -> Any:
        """s_w of every token, (V,); counted once, by the first rank."""
        path = self.out / FREQUENCY
        if rank() == 0 and not path.exists():
            self.out.mkdir(parents=True, exist_ok=True)
            self._count().save(path)
        wait_for_all()
        return TokenFrequency.load(path).importance()

    def _count(self) -> TokenFrequency:
        frequency = TokenFrequency(max(len(self.tokenizer), read_config(self.recipe.llm).vocab_size))
        counted = self.segments[: self.recipe.frequency_windows]
        lanes = [Lane(segments, self.tokenizer, self.tokens) for segments in counted]
        for number in range(self.recipe.frequency_windows):
            frequency.update(next(lanes[number % len(lanes)]).ids)
        return frequency

    def reader(self, importance: Any) -> WindowReader:
        """What makes samples of windows."""
        return WindowReader(self.tokenizer, self.style, self.recipe.window, importance, self.recipe.seed)

    def batches(self) -> WindowBatches:
        """This rank's share of the corpus. Raises VistError when the global batch cannot be shared equally."""
        recipe = self.recipe
        share = Share.of(recipe.global_batch, recipe.stage.batch_size, rank(), world_size())
        reader, stage = self.reader(self.importance()), recipe.stage
        return WindowBatches(self.segments, reader, share, stage.steps, stage.workers, self.fingerprint, self.features)

    def model(self) -> VistForConditionalGeneration:
        """The untrained model, the same on every rank."""
        recipe = self.recipe
        torch.manual_seed(recipe.seed)
        dtype = torch.float32 if _sharded() else DTYPES[resolved_precision(recipe.stage.precision)]
        model = VistForConditionalGeneration.from_backbones(
            recipe.llm, recipe.vision, dtype=dtype, quantization_config=_quantization(recipe.llm_bits), **recipe.choices
        )
        for parameter in model.trainable_parameters().values():
            parameter.data = parameter.data.float()
        return model

    def train(self) -> Path:
        """Train to the end, from the newest checkpoint if there is one -> folder of the finished adapter."""
        final = self.out / "model"
        if final.exists():
            return final
        batches, model = self.batches(), self.model()
        if self.features is not None:
            self.features.check_tower(model.vision_tower)
        trained = sum(parameter.numel() for parameter in model.trainable_parameters().values())
        check_space(self.out, 2 * trained * OPTIMIZER_BYTES)
        stage = replace(self.recipe.stage, accumulation=batches.share.accumulation)
        folder = self.out / "train"
        trainer = run_stage(model, None, None, stage, folder, self.recipe.seed, batches=batches, adapter=True)
        self._write_report(folder)
        self._finish(trainer, final)
        return final

    def _write_report(self, folder: Path) -> None:
        """What was read and what was skipped, over all ranks, as the last checkpoint knows it."""
        if rank() == 0:
            files = Path(str(get_last_checkpoint(str(folder)))).glob(DATA.format("*"))
            states = [json.loads(file.read_text()) for file in files]
            cursors = [Cursor.from_dict(values) for state in states for values in state["cursors"].values()]
            (self.out / REPORT).write_text(json.dumps(report(cursors), indent=2) + "\n")

    def _finish(self, trainer: AtomicTrainer, final: Path) -> None:
        """Write the adapter with processor and token statistics, beside and renamed; the first rank does."""
        model: Any = trainer.model
        if trainer.is_fsdp_enabled:  # shards of all ranks come together in a model that is whole
            state = trainer.accelerator.get_state_dict(model)
            model = self.model() if rank() == 0 else None
            if model is not None:
                model.load_state_dict(state)
        if rank() == 0:
            part = final.with_name("model.part")
            shutil.rmtree(part, ignore_errors=True)
            model.save_adapter(part)
            VistProcessor(self.tokenizer, style=self.style).save_pretrained(part)
            shutil.copy(self.out / FREQUENCY, part)
            os.replace(part, final)
        wait_for_all()


def train_paper(
    recipe: PaperRecipe, data: Any, out: Path, until: str | None = None, features: Path | None = None
) -> Path:
    """Run a recipe of the paper to its end; under `accelerate launch` on every process.

    `data`: see `vist.train.sources.open_shards`. `until` is there for recipes of several stages; this one has one.
    `features`: a folder of `vist.train.encoding.encode_corpus`, in place of drawing and encoding pages.
    Raises VistError when a backbone, its tokenizer or the data cannot be read, they do not belong together, the
    features are of something else, the global batch cannot be shared, the disk is full, or the loss is no number;
    TrainingStopped after SIGTERM.
    """
    from accelerate import PartialState

    PartialState(cpu=not torch.cuda.is_available())  # joins the other processes, if there are any
    return PaperRun(recipe, data, out, features).train()


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hub id or folder. Raises VistError when there is none."""
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise VistError(f"Cannot load a tokenizer from {source!r}: {first_line(error)}") from error


def read_config(source: str) -> PreTrainedConfig:
    """The config of a Hub id or folder. Raises VistError when there is none."""
    try:
        return AutoConfig.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise VistError(f"Cannot read a config from {source!r}: {first_line(error)}") from error


def check_tokenizer(tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig, source: str) -> None:
    """Raise VistError unless a tokenizer can be that of an LLM.

    Its ids must have rows in the embedding table, at least half of whose rows must have ids (tables are padded, but
    not to twice their size), and both must mean the same by the first and the last token.
    """
    size, rows = len(tokenizer), config.vocab_size
    advice = "take the tokenizer that the language model was trained with."
    if size > rows or 2 * size < rows:
        raise VistError(f"The tokenizer in {source!r} has {size:,} ids, the language model {rows:,} rows; {advice}")
    for name in ("bos_token_id", "eos_token_id"):
        own, known = getattr(tokenizer, name), getattr(config, name, None)
        wanted: Sequence[int] = [known] if isinstance(known, int) else known or []
        if own is not None and wanted and own not in wanted:
            raise VistError(f"The tokenizer in {source!r} has {name} {own}, the language model {known}; {advice}")


def _sharded() -> bool:
    """Whether `accelerate launch` has asked for FSDP."""
    return os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"


def _quantization(bits: int) -> Any:
    """How a frozen LLM of 4 bits is quantised: NF4, products in the type of its inputs."""
    if bits == 16:
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float16)
