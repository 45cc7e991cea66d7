"""ToMe: in every layer of the vision tower the most similar tokens are merged (ToMe† when VIST reads the rest).

Owns bipartite soft matching and proportional attention. Source: Token Merging (arXiv 2210.09461), sections 3.2 and
3.3: between attention and feed-forward, tokens are put alternately into A and B; each of A names its most similar of B,
by the cosine of the attention's keys averaged over heads; the r most similar pairs are merged, an average weighted by
how many patches each stands for; that number's logarithm is added to the attention scores of the merged token.

Decisions
- Tokens stay in reading order, a merged one in the place of its member of B, so A and B are neighbours there.
- A page of n tokens loses min(r, n // 2) of them, whatever other pages lie beside it: padding changes nothing. A class
  token is never merged.
- At the end every patch gets the features of the token it went into. A Resampler that looks at all patches then weighs
  a merged token by its patches, which is proportional attention once more, and VIST's reading order, alignment and
  number of visual tokens stay what they are. What is saved is the tower's work.
- X pages, N tokens now (S at the start), A and B the tokens of each set, D width, Dh width of one head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vist.baselines.tower_layers import attend, feed, key_bias, project
from vist.vision.text_vit import gather_order


@dataclass(frozen=True)
class TokenMerging:
    """Merge `merges` tokens in every layer (r in the paper; VIST's comparison: 8)."""

    merges: int

    def run(self, layers: Iterable[Any], hidden_XND: Tensor, alive_XN: Tensor, first: int) -> Tensor:
        """The tower's layers over tokens (X,S,D), real ones in front, the first `first` of them never merged."""
        sizes_XN = alive_XN.to(hidden_XND.dtype)
        owner_XS = torch.arange(hidden_XND.shape[1], device=hidden_XND.device).expand(len(hidden_XND), -1)
        for layer in layers:
            qkv = project(layer, hidden_XND)
            hidden_XND = attend(layer, hidden_XND, qkv, key_bias(sizes_XN))
            target_XN = match(qkv[1].mean(1), sizes_XN > 0, first, self.merges)
            hidden_XND, sizes_XN, moved_XN = merge(hidden_XND, sizes_XN, target_XN)
            owner_XS = moved_XN.gather(1, owner_XS)
            hidden_XND = feed(layer, hidden_XND)
        return hidden_XND.gather(1, owner_XS[..., None].expand(-1, -1, hidden_XND.shape[-1]))


def match(metric_XND: Tensor, alive_XN: Tensor, first: int, merges: int) -> Tensor:
    """(X,N) the token that each one goes into: itself, or the most similar of B for the chosen ones of A."""
    pages, tokens = alive_XN.shape
    target_XN = torch.arange(tokens, device=alive_XN.device).expand(pages, -1).clone()
    if tokens - first < 2:
        return target_XN
    unit = F.normalize(metric_XND, dim=-1)
    scores_XAB = unit[:, first::2] @ unit[:, first + 1 :: 2].mT
    possible_XAB = alive_XN[:, first::2, None] & alive_XN[:, None, first + 1 :: 2]
    best_XA, into_XA = scores_XAB.masked_fill(~possible_XAB, -torch.inf).max(-1)
    rank_XA = best_XA.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    chosen_XA = rank_XA < ((alive_XN.sum(1, keepdim=True) - first) // 2).clamp(max=merges)
    own_XA = target_XN[:, first::2]
    target_XN[:, first::2] = torch.where(chosen_XA, first + 1 + 2 * into_XA, own_XA)
    return target_XN


def merge(hidden_XND: Tensor, sizes_XN: Tensor, target_XN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, their sizes, and the new place (X,N) of each old token, those without a token closed up."""
    summed = torch.zeros_like(sizes_XN).scatter_add(1, target_XN, sizes_XN)
    index = target_XN[..., None].expand_as(hidden_XND)
    total = torch.zeros_like(hidden_XND).scatter_add(1, index, hidden_XND * sizes_XN[..., None])
    mean = total / summed.clamp(min=1)[..., None]
    there_XN = summed > 0
    order, kept = gather_order(there_XN)
    place_XN = (there_XN.long().cumsum(1) - 1).clamp(min=0).gather(1, target_XN)
    hidden = mean.gather(1, order[..., None].expand(-1, -1, mean.shape[-1])) * kept[..., None]
    return hidden, summed.gather(1, order) * kept, place_XN
