"""Which text tokens a context token stands for, where a text is shortened by a ratio.

Owns the division of a sequence into groups of consecutive tokens. Does not know what is made of a group.

Decisions
- A ratio need not be whole: group i begins at token floor(i * ratio). So a method can be given exactly the ratio that
  another one has, and with a whole ratio the groups are those of a stride.
- Where groups begin depends on no length, so padding moves nothing.
- B batch, L text tokens, M groups, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor


def group_starts(length: int, ratio: float) -> Tensor:
    """(M,) the first token of each group of a sequence of `length` tokens."""
    starts = (torch.arange(length, dtype=torch.float64) * ratio).floor().long()
    return starts[starts < length]


def group_of(length: int, ratio: float) -> Tensor:
    """(L,) the group of each token."""
    return torch.searchsorted(group_starts(length, ratio), torch.arange(length), right=True) - 1


def group_means(states_BLD: Tensor, mask_BL: Tensor, ratio: float) -> tuple[Tensor, Tensor]:
    """Mean over the real tokens of each group, (B,M,D), zero where there is none, and where there are some, (B,M)."""
    batch, length, width = states_BLD.shape
    groups_L = group_of(length, ratio).to(states_BLD.device)
    count = int(groups_L[-1]) + 1 if length else 0
    real_BL1 = mask_BL.unsqueeze(-1).to(states_BLD.dtype)
    sums = states_BLD.new_zeros(batch, count, width).index_add(1, groups_L, states_BLD * real_BL1)
    numbers = states_BLD.new_zeros(batch, count, 1).index_add(1, groups_L, real_BL1)
    return sums / numbers.clamp(min=1), numbers.squeeze(-1) > 0
