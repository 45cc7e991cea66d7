"""Mean pooling of the LLM's own token embeddings, the plainest compression of text there is.

Owns the encoder without weights to speak of. Source: "Optical Context Compression Is Just (Bad) Autoencoding" (arXiv
2512.03643), which finds it no worse than a vision encoder at equal ratio.

Decisions
- The pooled vectors pass a layer norm, as a Resampler's visual tokens do, so that the cross-attention of any LLM meets
  them at the size it starts from; its scale and shift are all that this encoder learns.
- B batch, L text tokens, M context tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from vist.baselines.configuration import TextContextConfig
from vist.baselines.grouping import group_means, group_of


class PooledEncoder(nn.Module):
    """Every `ratio` consecutive token embeddings become their mean."""

    def __init__(self, config: TextContextConfig) -> None:
        super().__init__()
        self.ratio = config.ratio
        self.norm = nn.LayerNorm(config.states_size)

    def forward(self, ids_BL: Tensor, embedded_BLD: Tensor, mask_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Token embeddings (B,L,D) and which tokens are real (B,L) -> context tokens (B,M,D), in use (B,M)."""
        states_BMD, alive_BM = group_means(embedded_BLD, mask_BL, self.ratio)
        return self.norm(states_BMD), alive_BM

    @staticmethod
    def tokens_of(config: TextContextConfig, length: int) -> Tensor:
        """(L,) the context token that each text token ends up in."""
        return group_of(length, config.ratio)
