"""What VIST2 costs by count at the paper's shapes: Qwen3 from 0.6 B to 8 B with SigLIP2 ViT-L/16.

Owns the shapes and the rows. Does not know how operations are counted (flops.py, memory.py) nor how they are printed.

Decisions
- A row is what happens before the first new token: T_e context tokens are read, an open chunk of T_d text tokens behind
  them, and one position is scored. Batch 1.
- A chunk of 128 text tokens is one page of 224 x 224 pixels, 196 patches of 16 pixels: 1.5 patches a text token. All of
  them are counted, as if every page were full.
- The plain LLM reads T_e + T_d text tokens. VIST2's LLM reads T_e / ratio visual tokens and T_d text tokens.
- "Chunks kept": visual tokens are functions of their chunk alone, so a context that was read before needs no encoder.
- T_e (te) context tokens, T_d (td) text tokens of the open chunk, K visual tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import torch
from transformers import PreTrainedConfig, Qwen3Config, SiglipVisionConfig

from vist.compress.aligner import build_aligner
from vist.errors import VistError
from vist.eval.cost_table import PARTS, Row
from vist.eval.flops import Work, aligner_work, language_model_work, tower_work
from vist.eval.memory import (
    decoder_activation_bytes,
    kv_bytes,
    language_model_parameters,
    tower_activation_bytes,
    tower_parameters,
)
from vist.model.vist2_configuration import Vist2Config
from vist.vision.encoder import num_patches
from vist.vision.text_vit import TextViTConfig

CHUNK, CONTEXT = 128, 32_768
_COMMON: dict[str, Any] = {"num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151_936}


def _qwen3(width: int, inner: int, layers: int, heads: int, tied: bool) -> Qwen3Config:
    return Qwen3Config(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        tie_word_embeddings=tied,
        **_COMMON,
    )


def qwen3_family() -> dict[str, PreTrainedConfig]:
    """The four sizes of the paper, by name."""
    return {
        "Qwen3-0.6B": _qwen3(1024, 3072, 28, 16, True),
        "Qwen3-1.7B": _qwen3(2048, 6144, 28, 16, True),
        "Qwen3-4B": _qwen3(2560, 9728, 36, 32, True),
        "Qwen3-8B": _qwen3(4096, 12288, 36, 32, False),
    }


def siglip2_large() -> SiglipVisionConfig:
    """SigLIP2 ViT-L/16 at 224 pixels, which has SigLIP's layers."""
    return SiglipVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=16,
    )


@dataclass(frozen=True)
class Reading:
    """How a context is read: `ratio` text tokens per visual token; `chunks_kept`: visual tokens are there already."""

    ratio: float = 4.0
    tower: PreTrainedConfig = field(default_factory=siglip2_large)
    chunks_kept: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.ratio <= CHUNK:
            raise VistError(
                f"A ratio of {self.ratio:g} text tokens per visual token cannot be counted; use 1 to {CHUNK}."
            )

    def config(self, llm: PreTrainedConfig) -> Vist2Config:
        """The model: an aligner with just enough room for the ratio."""
        room = ceil(num_patches(self.tower) / CHUNK * self.ratio)
        return Vist2Config(text_config=llm, vision_config=self.tower, patches_per_token=room)


def plain_row(name: str, llm: PreTrainedConfig, te: int, td: int, value_bytes: int = 2) -> Row:
    """The LLM alone, the whole context as text."""
    return _row(
        f"{name}, text", llm, te, td, {"llm": language_model_work(llm, te + td, 1)}, te + td, 0, 0, 0, value_bytes
    )


def vist2_row(name: str, llm: PreTrainedConfig, reading: Reading, te: int, td: int, value_bytes: int = 2) -> Row:
    """VIST2: the context as visual tokens."""
    config, tower = reading.config(llm), reading.tower
    pages, visual, patches = ceil(te / CHUNK), ceil(te / reading.ratio), num_patches(reading.tower)
    encoded = 0 if reading.chunks_kept else pages
    work = {
        "encoder": tower_work(tower, patches, pooled=False) * encoded,
        "resampler": Work() if reading.chunks_kept else aligner_work(config, visual, pages * patches),
        "llm": language_model_work(llm, visual + td, 1),
    }
    more = 0 if reading.chunks_kept else tower_parameters(tower) + aligner_parameters(config)
    alive = 0 if reading.chunks_kept else tower_activation_bytes(tower, patches, pages, value_bytes)
    alive += 0 if reading.chunks_kept else pages * patches * config.vision_size * value_bytes
    return _row(name, llm, te, td, work, visual + td, encoded, more, alive, value_bytes)


def aligner_parameters(config: Vist2Config) -> int:
    """Parameters of the aligner, counted on the meta device."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build_aligner(config).parameters())


def _row(
    name: str,
    llm: PreTrainedConfig,
    te: int,
    td: int,
    work: dict[str, Work],
    places: int,
    pages: int,
    more: int,
    alive: int,
    value_bytes: int,
) -> Row:
    parameters = language_model_parameters(llm) + more
    memory = {
        "weights": parameters * value_bytes,
        "kv": kv_bytes(llm, places, value_bytes),
        "cross_kv": 0,
        "activations": max(alive, decoder_activation_bytes(llm, places, 1, value_bytes)),
    }
    parts = {part: work.get(part, Work()) for part in PARTS}
    return Row(name, te, td, pages, parts, sum(part.total for part in parts.values()), parameters, memory)


def vist2_table(
    llms: dict[str, PreTrainedConfig] | None = None,
    tower: PreTrainedConfig | None = None,
    te: int = CONTEXT,
    td: int = CHUNK,
) -> Iterator[Row]:
    """For each LLM the plain reading, the ratios, and what takes the encoder's cost away.

    Raises VistError for lengths that no context has.
    """
    if te < 1 or td < 1:
        raise VistError(f"Context and open chunk have {te} and {td} tokens; both must be at least 1.")
    usual = tower or siglip2_large()
    half = deepcopy(usual)
    half.num_hidden_layers = (half.num_hidden_layers + 1) // 2
    rows = {
        "2x": Reading(2, usual),
        "4x": Reading(4, usual),
        "8x": Reading(8, usual),
        "4x, half the encoder": Reading(4, half),
        "4x, TextViT": Reading(4, TextViTConfig()),
        "4x, chunks kept": Reading(4, usual, chunks_kept=True),
    }
    for name, llm in (llms or qwen3_family()).items():
        yield plain_row(name, llm, te, td)
        for method, reading in rows.items():
            yield vist2_row(f"{name}, {method}", llm, reading, te, td)
