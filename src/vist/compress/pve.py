"""PVE, probability-informed visual enhancement: the contrastive loss between a sample's pages and its text.

Owns the pooling of both sides and the loss. Does not know how tokens are chosen (frequency.py) or where the CLS
outputs come from (resampler.py).

Decisions
- As in the paper: image side to text side only, inner product, temperature 0.07, negatives from the batch. With
  several processes (`across_ranks`) both sides are gathered, with gradients: the loss is that of one process with the
  whole batch, the same number on every rank.
- `normalize` replaces the inner product by the cosine. Use it when embedding norms differ so much that the softmax
  saturates at the start; off = paper.
- A sample without pages or without kept text takes no part: it is neither a positive nor a negative.
- B batch, P pages, T text tokens, D width.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vist.compress.ranks import gather_rows
from vist.errors import VistError


def pool_pages(cls_BPD: Tensor, page_mask_BP: Tensor) -> Tensor:
    """Mean of the CLS outputs over the real pages of each sample -> (B,D); zeros for a sample without pages."""
    weight_BP1 = page_mask_BP.unsqueeze(-1).to(cls_BPD.dtype)
    return (cls_BPD * weight_BP1).sum(1) / weight_BP1.sum(1).clamp(min=1)


def pool_text(embeddings: nn.Module, ids_BT: Tensor, keep_BT: Tensor) -> Tensor:
    """Mean of the LLM's own token embeddings over the kept tokens -> (B,D); zeros where nothing is kept.

    `keep_BT` comes from `frequency_mask`. Ids outside the mask may be any valid id.
    """
    weight_BT1 = keep_BT.unsqueeze(-1)
    embedded_BTD = embeddings(ids_BT)
    return (embedded_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)


def pve_loss(
    visual_BD: Tensor,
    text_BD: Tensor,
    temperature: float = 0.07,
    valid_B: Tensor | None = None,
    normalize: bool = False,
    across_ranks: bool = False,
) -> Tensor:
    """InfoNCE from images to texts over the batch, a scalar in float32 (paper: PVE, weight 1 beside next-token loss).

    `valid_B` (B,) bool leaves samples without pages or text out; with none left the loss is 0 and still has a
    gradient, so that distributed training sees the same graph everywhere.
    Raises VistError on a temperature that is not positive: the softmax would be undefined or inverted; and, across
    ranks, when they have batches of unequal size.
    """
    if temperature <= 0:
        raise VistError(f"The PVE temperature must be positive, got {temperature}; the paper uses 0.07.")
    if across_ranks:
        visual_BD, text_BD = gather_rows(visual_BD), gather_rows(text_BD)
        valid_B = None if valid_B is None else gather_rows(valid_B)
    if valid_B is not None:
        visual_BD, text_BD = visual_BD[valid_B], text_BD[valid_B]
    visual_BD, text_BD = visual_BD.float(), text_BD.float()
    if visual_BD.shape[0] == 0:
        return visual_BD.sum()
    if normalize:
        visual_BD, text_BD = F.normalize(visual_BD, dim=-1), F.normalize(text_BD, dim=-1)
    logits_BB = visual_BD @ text_BD.T / temperature
    return -logits_BB.log_softmax(dim=-1).diagonal().mean()
