"""The Perceiver Resampler: patch features of a page in, a few visual tokens out.

Owns the latents, the Perceiver layers and the output of every reducer (`Resampled`). Does not know which encoder made
the features nor which LLM reads the tokens; pages never see one another here.

Decisions
- Flamingo's design: queries are the latents, keys and values are [features ; latents], pre-norm, a feed-forward of
  four times the width, a final norm. K latents become the page's tokens, one more (CLS) its summary for PVE.
- When the encoder is wider or narrower than the latents, one linear map adapts the features.
- Pages without ink are not computed: visible pages are gathered, the others get zeros and a False token mask.
- Features of masked patches are set to zero before anything else, so whatever stood there cannot leak, not even NaN.
- Fewer tokens than latents are the first ones (nested, as in Matryoshka representations, arXiv 2205.13147): all latents
  are computed, so a small set is the beginning of every larger one, bit for bit, and the CLS is the same for all.
- B batch, P pages, X visible pages of the whole batch, N patches, K visual tokens per page, D width, H heads.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ResamplerConfig(Protocol):
    """What a reducer reads from a config; `VistConfig` fits."""

    num_visual_tokens: int
    resampler_layers: int
    resampler_heads: int
    resampler_size: int
    local_expansion: int
    local_preceding: int
    local_following: int
    local_shortcut: bool
    local_merge: bool

    @property
    def vision_size(self) -> int:
        """Width of the encoder's features."""


class Resampled(NamedTuple):
    """What every reducer returns."""

    tokens: Tensor  # (B,P,K,D)
    cls: Tensor  # (B,P,D)
    token_mask: Tensor  # (B,P,K) bool


class PerceiverLayer(nn.Module):
    """One layer: latents look at [features ; latents], then a feed-forward; both with a residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_features = nn.LayerNorm(width)
        self.norm_latents = nn.LayerNorm(width)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.o_proj = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, latents: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        """`latents` (X,L,D), `features` (X,N,D), `mask` (X,N+L) bool over [features ; latents] -> latents (X,L,D)."""
        latents = latents + self._attend(self.norm_latents(latents), self.norm_features(features), mask)
        return latents + self.mlp(self.norm_mlp(latents))

    def _attend(self, latents: Tensor, features: Tensor, mask: Tensor) -> Tensor:
        source = torch.cat([features, latents], dim=1)
        q, k, v = (self._split(t) for t in (self.q_proj(latents), self.k_proj(source), self.v_proj(source)))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        return self.o_proj(out.transpose(1, 2).flatten(2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PerceiverResampler(nn.Module):
    """Flamingo's Perceiver Resampler with one more latent for the page's summary (paper: 64 latents + 1 CLS)."""

    def __init__(self, config: ResamplerConfig) -> None:
        super().__init__()
        width = config.resampler_size
        self.num_visual_tokens = config.num_visual_tokens
        self.adapt = nn.Linear(config.vision_size, width) if config.vision_size != width else nn.Identity()
        self.latents = nn.Parameter(torch.randn(config.num_visual_tokens, width) * 0.02)
        self.cls_latent = nn.Parameter(torch.randn(width) * 0.02)
        self.layers = nn.ModuleList(
            PerceiverLayer(width, config.resampler_heads) for _ in range(config.resampler_layers)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, features_BPND: Tensor, mask_BPN: Tensor, counts_BP: Tensor | None = None) -> Resampled:
        """Reduce every page to K tokens and a CLS.

        `features_BPND` patch features of the encoder; `mask_BPN` bool, True = the patch has ink; `counts_BP` int, how
        many tokens each page may have at most (None: all). A page without ink has no tokens (`token_mask` False,
        zeros).
        """
        visible_BP = mask_BPN.any(-1)
        mask_XN = mask_BPN[visible_BP]
        features_XND = features_BPND[visible_BP].masked_fill(~mask_XN.unsqueeze(-1), 0)
        counts_X = None if counts_BP is None else counts_BP[visible_BP]
        latents_XLD, alive_XL = self.start(features_XND, mask_XN, counts_X)
        adapted_XND = self.adapt(features_XND)
        mask = torch.cat([mask_XN, alive_XL], dim=1)
        for layer in self.layers:
            latents_XLD = layer(latents_XLD, adapted_XND, mask)
        if counts_X is not None:
            within_XK = torch.arange(alive_XL.shape[1] - 1, device=alive_XL.device) < counts_X.unsqueeze(-1)
            alive_XL = alive_XL & F.pad(within_XK, (0, 1), value=True)
        out_XLD = self.norm(latents_XLD).masked_fill(~alive_XL.unsqueeze(-1), 0)
        out, alive = _scatter(out_XLD, visible_BP), _scatter(alive_XL, visible_BP)
        return Resampled(out[:, :, :-1], out[:, :, -1], alive[:, :, :-1])

    def limits(self, mask_BPN: Tensor) -> Tensor:
        """The most tokens that each page can have (B,P), 0 without ink."""
        return mask_BPN.any(-1).long() * self.num_visual_tokens

    def start(self, features_XND: Tensor, mask_XN: Tensor, counts_X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """First value of each page's latents, CLS last -> (X,K+1,D), and which take part (X,K+1).

        `counts_X`: a reducer that can work with fewer latents starts no more of them; this one starts all.
        """
        latents_LD = torch.cat([self.latents, self.cls_latent[None]])
        pages = features_XND.shape[0]
        return latents_LD.expand(pages, -1, -1), mask_XN.new_ones(pages, latents_LD.shape[0])


def _scatter(values: Tensor, where_BP: Tensor) -> Tensor:
    """Put the rows of the visible pages (X,...) back in their places of (B,P,...); zeros (or False) elsewhere."""
    out = values.new_zeros(*where_BP.shape, *values.shape[1:])
    out[where_BP] = values
    return out
