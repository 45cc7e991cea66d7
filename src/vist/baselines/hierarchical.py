"""A learned hierarchical convolutional encoder over the LLM's own token embeddings.

Owns the pyramid of residual blocks. Source: "Optical Context Compression Is Just (Bad) Autoencoding" (arXiv 2512.03643)
and its released code (ivnle/bad-autoencoding): per block a convolution over 5 tokens, norm, GELU, a convolution over 3
tokens with stride 2, norm, beside a skip by average pooling, and a GELU over their sum.

Decisions
- The published blocks halve the sequence, so only powers of two are possible. Here n = ceil(log2 ratio) blocks shorten
  it by ratio^(1/n) each: the second convolution is read at the first token of every group, the skip is the group's
  mean. With a ratio of 2 or 4 these are the published blocks.
- The published norm (GroupNorm with one group) takes its statistics over the whole padded sequence; here every token is
  normed on its own, so that padding changes nothing. A last layer norm as in the Resampler.
- B batch, L text tokens, M context tokens, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vist.baselines.configuration import TextContextConfig
from vist.baselines.grouping import group_means, group_of, group_starts

WIDE, NARROW = 5, 3  # tokens that the two convolutions of a block see


class PyramidBlock(nn.Module):
    """One residual block that shortens the sequence by `ratio`."""

    def __init__(self, width: int, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.conv1 = nn.Conv1d(width, width, WIDE, padding=WIDE // 2, bias=False)
        self.norm1 = nn.LayerNorm(width)
        self.conv2 = nn.Conv1d(width, width, NARROW, bias=False)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, states_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """(B,L,D) with real tokens (B,L) -> (B,M,D) with (B,M)."""
        real_BL1 = mask_BL.unsqueeze(-1)
        states_BLD = states_BLD * real_BL1
        seen_BLD = F.gelu(self.norm1(self.conv1(states_BLD.mT).mT)) * real_BL1
        starts_M = group_starts(mask_BL.shape[1], self.ratio).to(states_BLD.device)
        around_BTD = F.pad(seen_BLD, (0, 0, NARROW // 2, NARROW // 2))
        taps = torch.stack([around_BTD[:, starts_M + tap] for tap in range(NARROW)], dim=-1)  # (B,M,D,3)
        main_BMD = self.norm2(torch.einsum("bmdk,edk->bme", taps, self.conv2.weight))
        skip_BMD, alive_BM = group_means(states_BLD, mask_BL, self.ratio)
        return F.gelu(main_BMD + skip_BMD), alive_BM


class HierarchicalEncoder(nn.Module):
    """A pyramid of residual convolutions that shortens the text by `ratio`."""

    def __init__(self, config: TextContextConfig) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(PyramidBlock(config.states_size, ratio) for ratio in block_ratios(config.ratio))
        self.norm = nn.LayerNorm(config.states_size)

    def forward(self, ids_BL: Tensor, embedded_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings (B,L,D) and which tokens are real (B,L) -> context tokens (B,M,D), in use (B,M)."""
        states, mask = embedded_BLD, mask_BL
        for block in self.blocks:
            states, mask = block(states, mask)
        return self.norm(states), mask

    @staticmethod
    def tokens_of(config: TextContextConfig, length: int) -> Tensor:
        """(L,) the context token that each text token ends up in."""
        places = torch.arange(length)
        for ratio in block_ratios(config.ratio):
            places = group_of(int(places[-1]) + 1 if length else 0, ratio)[places]
        return places


def block_ratios(ratio: float) -> list[float]:
    """By how much each block shortens the sequence, none by more than 2; one block at least."""
    count = max(1, math.ceil(math.log2(ratio) - 1e-9))
    return [ratio ** (1 / count)] * count
