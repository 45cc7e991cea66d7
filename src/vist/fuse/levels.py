"""Visual tokens with several levels: something is added to what enters the LLM's layers above the first.

Owns the addition inside a stock decoder. Does not know what the levels hold. Source: DeepStack (arXiv 2406.04334).

Decisions
- A visual token that stands for several text tokens is one embedding, and every layer can only read what that holds.
  With levels each layer gets something of its own to read, and the memory stays one place per layer.
- The levels travel as a keyword argument, which the stock model classes pass on to their layers; nothing is kept on a
  module between calls, and activation checkpointing computes the same again.
- Without levels a layer computes exactly what the stock layer computes.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vist.fuse.families import decoder_layers

LEVELS = "visual_levels"


def take_levels(language_model: PreTrainedModel) -> None:
    """Make every decoder layer take the keyword argument `visual_levels` (B,T,E-1,D), in place.

    The layer ℓ >= 1 adds `visual_levels[:, :, ℓ-1]` to what enters it, if there are so many.
    """
    for number, layer in enumerate(decoder_layers(language_model)):
        layer.register_forward_pre_hook(partial(_add_level, level=number), with_kwargs=True)


def _add_level(
    layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any], level: int
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    levels_BTED = options.get(LEVELS)
    if levels_BTED is None:
        return None
    options = {name: value for name, value in options.items() if name != LEVELS}
    if not 0 < level <= levels_BTED.shape[2]:
        return arguments, options
    hidden_BTD, *others = arguments
    return (hidden_BTD + levels_BTED[:, :, level - 1].to(hidden_BTD), *others), options
