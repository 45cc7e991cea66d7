"""How many visual tokens each page gets: the dial between cost and detail.

Owns the sharing of a total over pages and the form in which a model is told. Knows numbers only: no pages, no text, no
reducer; weights and limits come from outside.

Decisions
- A budget is spent exactly: the counts of a sample add up to its total, as far as its pages can hold that many. Every
  page with ink gets at least one token, also when the total is smaller than the number of pages: a page without a token
  would be lost without a word.
- Shares are proportional to the weights between those bounds, and become whole numbers by the largest remainders, ties
  to the earlier page. So a page that weighs more never gets fewer tokens than one of the same size that weighs less.
- Sharing is done in float64 on the CPU: the same counts on every device.
- B batch, P pages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vist.errors import VistError

_LIGHTEST = 1e-6  # of the heaviest page: what pages without information share when all others are full
_ROUNDING = 1e-6  # tokens: far above the error of the division, far below what anybody notices
_HALVINGS = 100


def share_out(total_B: Tensor, weights_BP: Tensor, limits_BP: Tensor) -> Tensor:
    """Spend `total_B` tokens over the pages of each sample -> counts (B,P) int64.

    `weights_BP` what each page is worth (negative counts as zero); `limits_BP` int, the most tokens a page can have, 0
    for a page without ink. Counts lie between 1 and the limit and add up to the total, or to the nearest sum that these
    bounds allow.
    Raises VistError on shapes that do not match or weights that are not finite.
    """
    if total_B.ndim != 1 or weights_BP.shape != limits_BP.shape or weights_BP.shape[:1] != total_B.shape:
        raise VistError(
            f"A budget for {tuple(total_B.shape)} samples does not fit pages of shape {tuple(limits_BP.shape)} with "
            f"weights of shape {tuple(weights_BP.shape)}; expected (B,), (B,P) and (B,P)."
        )
    weights, limits = weights_BP.detach().double().cpu(), limits_BP.detach().long().cpu()
    if not weights.isfinite().all():
        raise VistError("A page's weight is not a finite number; pass what each page is worth, 0 or more.")
    inked = limits > 0
    total_B1 = total_B.detach().long().cpu()[:, None]
    total_B1 = total_B1.clamp(min=inked.sum(1, keepdim=True)).clamp(max=limits.sum(1, keepdim=True))
    quotas = _quotas(total_B1, weights, limits)
    counts = torch.minimum((quotas + _ROUNDING).floor().long(), limits)
    left_B1 = total_B1 - counts.sum(1, keepdim=True)
    remainder = torch.where(counts < limits, quotas - counts, -1.0)
    rank = remainder.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return (counts + (rank < left_B1).long()).to(limits_BP.device)


def _quotas(total_B1: Tensor, weights: Tensor, limits: Tensor) -> Tensor:
    """The real-valued shares clamp(scale * weight, 1, limit) that add up to the total; the scale found by halving."""
    inked = limits > 0
    weights = weights.clamp(min=0) * inked
    heaviest = weights.amax(1, keepdim=True) if weights.shape[1] else weights.new_zeros(len(weights), 1)
    weights = torch.where(heaviest > 0, weights / heaviest, inked.double()).clamp(min=_LIGHTEST)

    def spent(scale_B1: Tensor) -> Tensor:
        return torch.minimum((scale_B1 * weights).clamp(min=1), limits.double())

    low = torch.zeros_like(total_B1, dtype=torch.float64)
    high = low + (limits.amax() if limits.numel() else 0) / _LIGHTEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = spent(middle).sum(1, keepdim=True) >= total_B1
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return spent(high)


def page_counts(visual_tokens: int | Tensor | None, page_weights: Tensor | None, limits_BP: Tensor) -> Tensor | None:
    """Visual tokens of each page (B,P) from what a caller asked for; None where every page keeps all it can have.

    `visual_tokens`: None = all; a number or a tensor () = that many on every page; (B,P) = so many on each; (B,) with
    `page_weights` (B,P) = a total for each sample, shared by weight (`share_out`).
    Raises VistError on a number below 1, a shape that does not fit the pages, or totals without weights.
    """
    if visual_tokens is None:
        return None
    asked = torch.as_tensor(visual_tokens, device=limits_BP.device)
    if asked.is_floating_point() or asked.dtype is torch.bool:
        raise VistError(f"visual_tokens must be whole numbers, got {visual_tokens!r}.")
    if asked.ndim > 1 and asked.shape != limits_BP.shape:
        raise VistError(
            f"visual_tokens {tuple(asked.shape)} do not fit pages of shape {tuple(limits_BP.shape)}; pass one number, "
            "or one for each page."
        )
    least = asked.masked_fill(limits_BP == 0, 1) if asked.ndim > 1 else asked
    if least.numel() and int(least.min()) < 1:
        raise VistError(f"visual_tokens must be at least 1, got {int(least.min())}; leave it out for all of them.")
    if asked.ndim == 1:
        if page_weights is None:
            raise VistError("visual_tokens (B,) is a total for each sample: pass page_weights (B,P) to share it by.")
        asked = share_out(asked, page_weights, limits_BP)
    counts = torch.minimum(asked.long().expand_as(limits_BP), limits_BP)
    return None if bool((counts == limits_BP).all()) else counts
