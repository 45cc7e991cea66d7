"""VIST whose vision tower keeps fewer tokens than it is given: ToMe† and FastV†, Resampler and PVE as they are.

Owns the configuration, and where the two step into a tower. Does not know how they choose (tome.py, fastv.py).

Decisions
- As with the LLM's layers, the module that runs the tower's layers keeps its object, weights and names; only its class
  changes. So every other part of VIST, training included, meets a tower like any other.
- TextViT, CLIP and SigLIP: pre-norm layers whose parts are known. SigLIP2 is refused.
- X pages, N tokens of a page, D width.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForImageTextToText, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.clip.modeling_clip import CLIPEncoder
from transformers.models.siglip.modeling_siglip import SiglipEncoder

from vist.baselines.fastv import AttentionPruning
from vist.baselines.tome import TokenMerging
from vist.baselines.tower_layers import REDUCIBLE_TOWERS
from vist.errors import VistError
from vist.model.configuration import VistConfig
from vist.model.vist import VistForConditionalGeneration
from vist.vision.text_vit import TextViTModel

Reduction = TokenMerging | AttentionPruning


class ReducedVistConfig(VistConfig):
    """`VistConfig` and how the tower is relieved.

    reduction: "tome" or "fastv".
    merges: of "tome": tokens merged in every layer (paper: 8).
    pruned, prune_after: of "fastv": share of the patches dropped (paper: 0.75), and after how many layers.
    """

    model_type = "vist_reduced"

    reduction: str = "tome"
    merges: int = 8
    pruned: float = 0.75
    prune_after: int = 2

    def _check(self) -> None:
        super()._check()
        if self.reduction not in ("tome", "fastv"):
            raise VistError(f"Unknown reduction {self.reduction!r}; choose tome or fastv.")
        if self.merges < 0:
            raise VistError(f"merges must be 0 (none) or more, got {self.merges}.")
        if not 0 <= self.pruned < 1:
            raise VistError(f"pruned must be a share from 0 to below 1, got {self.pruned}.")
        if not 1 <= self.prune_after <= self.vision_config.num_hidden_layers:
            layers = self.vision_config.num_hidden_layers
            raise VistError(f"prune_after must be a layer of the tower, 1 to {layers}, got {self.prune_after}.")

    def reducing(self) -> Reduction:
        """The reduction with its numbers."""
        if self.reduction == "tome":
            return TokenMerging(self.merges)
        return AttentionPruning(self.pruned, self.prune_after)


class ReducedVistForConditionalGeneration(VistForConditionalGeneration):  # type: ignore[misc]
    """VIST with a relieved tower; everything else, also how it is called, is VIST's."""

    config_class = ReducedVistConfig

    def __init__(
        self,
        config: ReducedVistConfig,
        language_model: PreTrainedModel | None = None,
        vision_tower: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config, language_model, vision_tower)
        reduce_tower(self.vision_tower, config.reducing())

    def save_adapter(self, folder: str | os.PathLike[str]) -> Path:
        """Raises VistError: an adapter would be loaded around a tower that keeps all its tokens."""
        raise VistError("A model with a reduced tower has no adapters; write it with save_pretrained.")


def reduce_tower(tower: Any, reduction: Reduction) -> None:
    """Let a tower run its layers under `reduction`, in place. Raises VistError for a tower that cannot."""
    kind = tower.config.model_type
    if kind not in REDUCIBLE_TOWERS:
        raise VistError(f"Tokens of a {kind!r} tower cannot be reduced; use one of {', '.join(REDUCIBLE_TOWERS)}.")
    runner, swapped = (tower, ReducedTextViT) if kind == "text_vit" else (tower.encoder, ENCODERS[kind])
    runner.__class__ = swapped
    runner.reduction = reduction


class ReducedTextViT(TextViTModel):
    """TextViT that runs its layers under `reduction`."""

    reduction: Reduction

    def _run(self, hidden: Tensor, mask: Tensor | None) -> Tensor:
        alive = _all(hidden) if mask is None else mask[:, 0, 0]
        return self.reduction.run(self.layers, hidden, alive, 0)


class ReducedCLIPEncoder(CLIPEncoder):
    """CLIP's encoder that runs its layers under `reduction`; the class token stays."""

    reduction: Reduction
    first = 1

    def forward(self, inputs_embeds: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> BaseModelOutput:
        """Tokens (X,N,D) and an additive mask (X,1,1,N) or None -> the last hidden state (X,N,D)."""
        alive = _all(inputs_embeds) if attention_mask is None else attention_mask[:, 0, 0] == 0
        return BaseModelOutput(last_hidden_state=self.reduction.run(self.layers, inputs_embeds, alive, self.first))


class ReducedSiglipEncoder(SiglipEncoder):
    """SigLIP's encoder that runs its layers under `reduction`."""

    reduction: Reduction
    first = 0
    forward = ReducedCLIPEncoder.forward


ENCODERS = {"clip_vision_model": ReducedCLIPEncoder, "siglip_vision_model": ReducedSiglipEncoder}


def _all(hidden_XND: Tensor) -> Tensor:
    return torch.ones(hidden_XND.shape[:2], dtype=torch.bool, device=hidden_XND.device)


AutoConfig.register("vist_reduced", ReducedVistConfig, exist_ok=True)
AutoModelForImageTextToText.register(ReducedVistConfig, ReducedVistForConditionalGeneration, exist_ok=True)
