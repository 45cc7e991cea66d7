"""The modal aligner of VIST2: the inked patches of a chunk become its visual tokens, in the LLM's embedding space.

Owns the two aligners and how patches are divided among tokens. Does not know which encoder made the features nor what
a chunk's text is; chunks never see one another here. Source: VIST2 (arXiv 2601.10378), which names the part and leaves
its shape open.

Decisions
- Text is a strip (VIST's page is one, folded into rows), so space goes to depth along the reading order: neighbouring
  patches of a line become one token. A square block would mix lines.
- The number of tokens is an argument, and a chunk's patches are divided among them as evenly as possible. So the ratio
  is exact for every chunk, however full its page is, and one set of weights serves every ratio that it has room for.
- Room is `patches_per_token` places per token; the places that a division leaves free are zero. A token's first patch
  is always in its first place, so that the MLP does the same at every ratio.
- A token may also see a few patches before and after its own: what a word is depends on how it begins, and who looks
  something up looks for what stands before it.
- What stands in a patch is read alike wherever the patch lies, so convolutions may read it before patches are put side
  by side: their weights learn from every patch, those of the MLP from one place of a visual token each.
- A visual token has one or more levels: what the LLM takes as its embedding, and what is added above some of its
  layers. Each leaves through a norm whose size starts at that of the LLM's own embeddings.
- X chunks, L patches of the longest, K tokens of the longest, G places per token, E levels, D width of the LLM.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vist.compress.resampler import PerceiverLayer, PerceiverResampler
from vist.errors import VistError

ALIGNERS: tuple[str, ...] = ("shuffle", "resampler")


class AlignerConfig(Protocol):
    """What an aligner reads from a config; `Vist2Config` fits."""

    aligner: str
    patches_per_token: int
    aligner_preceding: int
    aligner_following: int
    aligner_convolutions: int
    aligner_expansion: int
    aligner_shortcut: bool
    aligner_layers: int
    aligner_heads: int
    max_visual_tokens: int
    visual_levels: int

    @property
    def vision_size(self) -> int:
        """Width of the encoder's features."""

    @property
    def text_size(self) -> int:
        """Width of the LLM's embeddings."""


class LevelLayerNorm(nn.Module):
    """Layer norm over D with a size and a shift of its own for every level."""

    def __init__(self, levels: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(levels, width))
        self.bias = nn.Parameter(torch.zeros(levels, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """(..., E*D) -> (...,E,D)."""
        levels = tokens.unflatten(-1, tuple(self.weight.shape))
        return F.layer_norm(levels, self.weight.shape[1:]) * self.weight + self.bias


class PatchConvolution(nn.Module):
    """A two-layer convolution along the text: every patch learns what begins in it from its neighbours.

    Its kernel is the weight of a linear layer over neighbours side by side, so that optimizers for matrices take it.
    """

    def __init__(self, width: int, hidden: int, preceding: int, following: int) -> None:
        super().__init__()
        self.preceding, self.following = preceding, following
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear((preceding + 1 + following) * width, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, features_XLD: Tensor, mask_XL: Tensor) -> Tensor:
        """(X,L,D), with a residual; what stands beyond the mask is not seen."""
        if not mask_XL.shape[1]:
            return features_XLD
        there_XL1 = mask_XL.unsqueeze(-1)
        normed_XLD = self.norm(features_XLD).masked_fill(~there_XL1, 0)
        padded_XLD = F.pad(normed_XLD, (0, 0, self.preceding, self.following))
        neighbours_XLD = padded_XLD.unfold(1, self.preceding + 1 + self.following, 1).flatten(2)
        return (features_XLD + self.mlp(neighbours_XLD)).masked_fill(~there_XL1, 0)


class ShuffleAligner(nn.Module):
    """Neighbouring patches side by side, then a two-layer MLP.

    On request convolutions over the patches come before, and Perceiver layers that look at the whole chunk after.
    """

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        places, vision, levels = config.patches_per_token, config.vision_size, config.visual_levels
        self.patches_per_token = places
        self.preceding, self.following = config.aligner_preceding, config.aligner_following
        hidden, width = config.aligner_expansion * config.text_size, levels * config.text_size
        self.convolutions = nn.ModuleList(
            PatchConvolution(vision, hidden, self.preceding, self.following) for _ in range(config.aligner_convolutions)
        )
        if self.convolutions:
            self.preceding = self.following = 0
        seen = self.preceding + places + self.following
        self.group_norm = nn.LayerNorm(vision)
        self.mlp = nn.Sequential(nn.Linear(seen * vision, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.shortcut = nn.Linear(seen * vision, width, bias=False) if config.aligner_shortcut else None
        self.adapt = nn.Linear(vision, width) if config.aligner_layers else None
        self.layers = nn.ModuleList(
            PerceiverLayer(width, levels * config.aligner_heads) for _ in range(config.aligner_layers)
        )
        self.norm = LevelLayerNorm(levels, config.text_size)

    def forward(self, features_XLD: Tensor, mask_XL: Tensor, counts_X: Tensor) -> Tensor:
        """Reduce every chunk to as many tokens as asked for -> (X,K,E,D), zero beyond a chunk's count.

        `features_XLD` the inked patches of each chunk in reading order, `mask_XL` bool, True = a patch; `counts_X` the
        number of tokens of each chunk.
        Raises VistError when a chunk has more patches than its tokens have places.
        """
        features_XLD = features_XLD.masked_fill(~mask_XL.unsqueeze(-1), 0)
        for convolution in self.convolutions:
            features_XLD = convolution(features_XLD, mask_XL)
        groups_XKGD, alive_XK = self._groups(features_XLD, mask_XL, counts_X)
        side_by_side = groups_XKGD.flatten(2)
        tokens_XKD = self.mlp(side_by_side)
        if self.shortcut is not None:
            tokens_XKD = tokens_XKD + self.shortcut(side_by_side)
        if self.adapt is not None:
            adapted_XLD = self.adapt(features_XLD)
            seen = torch.cat([mask_XL, alive_XK], dim=1)
            for layer in self.layers:
                tokens_XKD = layer(tokens_XKD, adapted_XLD, seen)
        return self.norm(tokens_XKD).masked_fill(~alive_XK[..., None, None], 0)

    def _groups(self, features_XLD: Tensor, mask_XL: Tensor, counts_X: Tensor) -> tuple[Tensor, Tensor]:
        """What each token sees (X,K,G,D), zero where there is no patch, and which tokens are in use (X,K).

        The places are the preceding patches, the token's own from the first, and the following ones.
        """
        patches_X = mask_XL.sum(1)
        self._check_room(patches_X, counts_X)
        most = int(counts_X.max()) if len(counts_X) else 0
        device = counts_X.device
        number_K = torch.arange(most + 1, device=device)
        starts_XK = -(-number_K * patches_X[:, None] // counts_X[:, None].clamp(min=1))
        begin_XK1, end_XK1 = starts_XK[:, :-1, None], starts_XK[:, 1:, None]
        own_XKG = begin_XK1 + torch.arange(-self.preceding, self.patches_per_token, device=device)
        after_XKG = end_XK1 + torch.arange(self.following, device=device)
        seen_XKG = torch.cat([own_XKG.where(own_XKG < end_XK1, -1), after_XKG], dim=2)
        alive_XK = number_K[:-1] < counts_X[:, None]
        there_XKG = (seen_XKG >= 0) & (seen_XKG < patches_X[:, None, None]) & alive_XK.unsqueeze(-1)
        nothing = mask_XL.shape[1]
        normed_XLD = nn.functional.pad(self.group_norm(features_XLD), (0, 0, 0, 1))  # behind the last patch: zeros
        chunk = torch.arange(len(counts_X), device=device)[:, None, None]
        return normed_XLD[chunk, seen_XKG.where(there_XKG, nothing)], alive_XK

    def _check_room(self, patches_X: Tensor, counts_X: Tensor) -> None:
        tight = (patches_X > counts_X * self.patches_per_token).nonzero().flatten()
        if len(tight):
            patches, count = int(patches_X[tight[0]]), int(counts_X[tight[0]])
            raise VistError(
                f"{patches} patches cannot become {count} visual tokens: the aligner takes at most "
                f"{self.patches_per_token} patches per token; ask for {-(-patches // self.patches_per_token)} tokens "
                "or a lower ratio."
            )


class ResamplerAligner(nn.Module):
    """The Perceiver Resampler as aligner: learned latents look at the chunk, the first ones become its tokens."""

    def __init__(self, config: AlignerConfig) -> None:
        super().__init__()
        self.resampler = PerceiverResampler(_Latents(config))  # type: ignore[arg-type]  # reads these names only
        self.norm = LevelLayerNorm(config.visual_levels, config.text_size)

    def forward(self, features_XLD: Tensor, mask_XL: Tensor, counts_X: Tensor) -> Tensor:
        """As `ShuffleAligner.forward`. Raises VistError when a chunk asks for more tokens than there are latents."""
        most = int(counts_X.max()) if len(counts_X) else 0
        if most > self.resampler.num_visual_tokens:
            raise VistError(
                f"{most} visual tokens were asked for, but the aligner has {self.resampler.num_visual_tokens} latents; "
                "raise the ratio or build the model with a larger max_visual_tokens."
            )
        tokens_XKD = self.resampler(features_XLD[:, None], mask_XL[:, None]).tokens[:, 0, :most]
        alive_XK = torch.arange(most, device=counts_X.device) < counts_X[:, None]
        return self.norm(tokens_XKD).masked_fill(~alive_XK[..., None, None], 0)


class _Latents:
    """`AlignerConfig` in the words of `PerceiverResampler`."""

    def __init__(self, config: AlignerConfig) -> None:
        self.num_visual_tokens = config.max_visual_tokens
        self.resampler_layers = config.aligner_layers
        self.resampler_heads = config.visual_levels * config.aligner_heads
        self.resampler_size, self.vision_size = config.visual_levels * config.text_size, config.vision_size


def build_aligner(config: AlignerConfig) -> ShuffleAligner | ResamplerAligner:
    """The aligner that the config names. Raises VistError on an unknown name."""
    if config.aligner == "shuffle":
        return ShuffleAligner(config)
    if config.aligner == "resampler":
        return ResamplerAligner(config)
    raise VistError(f"Unknown aligner {config.aligner!r}; choose one of {', '.join(ALIGNERS)}.")


def pack_patches(features_BPND: Tensor, mask_BPN: Tensor, chunks_BP: Tensor, chunks: int) -> tuple[Tensor, Tensor]:
    """Gather the inked patches of every chunk: -> (B*chunks, L, D) zero-padded and (B*chunks, L) bool.

    `chunks_BP` says to which chunk (0 to chunks - 1) of its sample a page belongs, -1 = none; the pages of a chunk are
    in reading order.
    """
    samples = torch.arange(len(chunks_BP), device=chunks_BP.device)[:, None] * chunks
    inked = mask_BPN & (chunks_BP >= 0).unsqueeze(-1)
    owner = (samples + chunks_BP).unsqueeze(-1).expand_as(mask_BPN)[inked]
    owner, order = owner.sort(stable=True)
    patches = features_BPND[inked][order]
    sizes = torch.bincount(owner, minlength=len(chunks_BP) * chunks)
    rank = torch.arange(len(owner), device=owner.device) - (sizes.cumsum(0) - sizes)[owner]
    longest = int(sizes.max()) if len(sizes) else 0
    packed = patches.new_zeros(len(sizes), longest, features_BPND.shape[-1])
    packed[owner, rank] = patches
    return packed, torch.arange(longest, device=sizes.device) < sizes[:, None]
