"""FastV: after an early layer the tokens that get the least attention are dropped (FastV† inside VIST's tower).

Owns the score and the dropping. Source: FastV (arXiv 2403.06764), which drops image tokens inside an LLM after layer K
by the attention they receive on average; VIST's comparison does so with 75 % of the patches of its vision tower.

Decisions
- The score of a token is the attention it receives in layer `after`, averaged over heads and over the page's tokens.
  The ceil((1 - share) n) best of a page's n stay, whatever other pages lie beside it; a class token always stays.
- A dropped patch is left empty (zeros, before the tower's last norm) in its place, so VIST's reading order, alignment
  and number of visual tokens stay what they are. What is saved is the tower's work.
- X pages, N tokens of a page, D width, H heads, Dh width of one head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vist.baselines.tower_layers import attend, feed, key_bias, project
from vist.vision.text_vit import gather_order


@dataclass(frozen=True)
class AttentionPruning:
    """Drop `share` of the tokens after the first `after` layers."""

    share: float
    after: int

    def run(self, layers: Iterable[Any], hidden_XND: Tensor, alive_XN: Tensor, first: int) -> Tensor:
        """The tower's layers over tokens (X,N,D), real ones in front, the first `first` of them never dropped."""
        full_XND, order_XN, kept_XN = torch.zeros_like(hidden_XND), None, alive_XN
        for number, layer in enumerate(layers, start=1):
            qkv = project(layer, hidden_XND)
            bias = key_bias(kept_XN.to(hidden_XND.dtype))
            hidden_XND = feed(layer, attend(layer, hidden_XND, qkv, bias))
            if number == self.after:
                chosen_XN = self.choose(received(qkv[0], qkv[1], bias, alive_XN), alive_XN, first)
                order_XN, kept_XN = gather_order(chosen_XN)
                hidden_XND = hidden_XND.gather(1, order_XN[..., None].expand(-1, -1, hidden_XND.shape[-1]))
        if order_XN is None:
            return hidden_XND
        return full_XND.scatter(1, order_XN[..., None].expand_as(hidden_XND), hidden_XND * kept_XN[..., None])

    def choose(self, scores_XN: Tensor, alive_XN: Tensor, first: int) -> Tensor:
        """(X,N) which tokens stay."""
        always = torch.arange(alive_XN.shape[1], device=alive_XN.device) < first
        scores_XN = scores_XN.masked_fill(~alive_XN | always, -torch.inf)
        rank_XN = scores_XN.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        number_X1 = alive_XN.sum(1, keepdim=True) - first
        staying_X1 = number_X1 - (number_X1 * self.share).floor()  # the ceiling of the rest
        return ((rank_XN < staying_X1) & alive_XN) | (always & alive_XN)


def received(query_XHND: Tensor, key_XHND: Tensor, bias_X11N: Tensor, alive_XN: Tensor) -> Tensor:
    """(X,N) attention that each token receives, averaged over heads and real tokens."""
    scores = query_XHND @ key_XHND.mT * query_XHND.shape[-1] ** -0.5 + bias_X11N
    weights_XNN = scores.float().softmax(-1).mean(1)
    real_XN1 = alive_XN[..., None].float()
    return (weights_XNN * real_XN1).sum(1) / real_XN1.sum(1).clamp(min=1)
