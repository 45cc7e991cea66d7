"""Reducers with the Perceiver Resampler's signature, and the table that names them.

Owns the variants of "patch features -> visual tokens"; knows as little about encoder and LLM as resampler.py.

Decisions
- `LocalResampler` gives latent k a place to start from: its part of the page's reading order. Random latents find out
  by themselves where to look about a hundred times more slowly.
- The reading order is row by row over the patches with ink, so a half-full page uses half the latents and blank
  patches never take part; latents without any ink are out of use, not padded.
- A start can also see the parts beside its own. Those before it (`local_preceding`): looking a thing up means finding
  what comes after it, and what was asked for ("the code of ... is") then lies under the very key that holds the answer.
  Those after it (`local_following`): every third text token begins in one part and ends in the next.
- Fewer tokens are a coarser division of the same reading order: neighbouring parts are merged, as evenly as possible,
  and the m patches that fall on one place of the merged part are added and divided by the root of m, which keeps the
  size that the norm before gave them (their mean would be too small for the MLP, and is read worse). So a merged part
  has the shape of any other (its sub-tokens still follow one another in reading order), and a page that keeps all its
  parts is computed exactly as before. Only as many latents as asked for are computed.
- `local_merge` adds what training can use to read merged parts: a linear map of each patch, scaled by its place among
  the m that share one (from -1 to 1), which keeps their order apart, and a vector scaled by log2(m). Both start at
  zero, and are multiplied by zero where nothing is merged.
- B batch, P pages, X visible pages, N patches, K visual tokens per page, J of them when merged, G patches of one
  latent's part, D width.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from vist.compress.resampler import PerceiverResampler, ResamplerConfig
from vist.errors import VistError


class LocalResampler(PerceiverResampler):
    """A Perceiver Resampler whose latents start as summaries of consecutive parts of the text.

    The inked patches of a page are cut into groups of G = ceil(N / K) in reading order. A two-layer MLP over the G
    concatenated features says what a group holds, a second one adds what the `local_preceding` groups before it and the
    `local_following` after it hold (if any), and with a learned vector per latent that is the start of latent k. The
    Perceiver layers then refine.
    """

    def __init__(self, config: ResamplerConfig, num_patches: int) -> None:
        super().__init__(config)
        width = config.resampler_size
        self.group_size = -(-num_patches // config.num_visual_tokens)
        self.group_norm = nn.LayerNorm(config.vision_size)
        group_inputs = self.group_size * config.vision_size
        self.group_mlp = _mlp(group_inputs, config.local_expansion * width, width)
        self.group_shortcut = nn.Linear(group_inputs, width, bias=False) if config.local_shortcut else None
        self.beside = range(-config.local_following, config.local_preceding + 1)
        if len(self.beside) > 1:
            self.beside_norm = nn.LayerNorm(width)
            self.beside_mlp = _mlp(len(self.beside) * width, 2 * width, width)
        self.merge_order: nn.Linear | None = None
        self.merge_level: nn.Parameter | None = None
        if config.local_merge:
            self.learn_merging()

    def learn_merging(self) -> None:
        """Add the weights of `local_merge`, at zero, to a reducer that has none."""
        weight = self.norm.weight
        width = self.group_norm.normalized_shape[0]
        self.merge_order = nn.Linear(width, width, bias=False, device=weight.device, dtype=weight.dtype)
        self.merge_level = nn.Parameter(torch.zeros_like(weight))
        nn.init.zeros_(self.merge_order.weight)

    def merge_weights(self) -> tuple[Tensor, ...]:
        """The weights of `local_merge`; none without it."""
        if self.merge_order is None or self.merge_level is None:
            return ()
        return self.merge_order.weight, self.merge_level

    def limits(self, mask_BPN: Tensor) -> Tensor:
        """As many tokens as the ink of each page fills parts."""
        return -(-mask_BPN.sum(-1) // self.group_size)

    def start(self, features_XND: Tensor, mask_XN: Tensor, counts_X: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Latents from their part of the reading order; a latent whose part holds no ink is out of use."""
        normed_XND = self.group_norm(features_XND)
        if counts_X is None:
            groups_XKGD, mask_XKG = self._groups(normed_XND, mask_XN)
            alive_XK = mask_XKG.any(-1)
            codes: Tensor = self.latents
        else:
            division = Division.of(mask_XN, counts_X, self.group_size)
            groups_XKGD, alive_XK = self._merged(normed_XND, mask_XN, division), division.alive
            codes = self.latents[division.middle]
            if self.merge_level is not None:
                codes = codes + division.merged.log2().unsqueeze(-1).to(codes.dtype) * self.merge_level
        own_XKD = self.group_mlp(groups_XKGD.flatten(2))
        if self.group_shortcut is not None:
            own_XKD = own_XKD + self.group_shortcut(groups_XKGD.flatten(2))
        latents_XKD = own_XKD + codes
        if len(self.beside) > 1:
            seen_XKD = self.beside_norm(own_XKD).masked_fill(~alive_XK.unsqueeze(-1), 0)
            latents_XKD = latents_XKD + self.beside_mlp(self._with_neighbours(seen_XKD))
        cls_X1D = self.cls_latent.expand(latents_XKD.shape[0], 1, -1)
        alive_XL = torch.cat([alive_XK, alive_XK.new_ones(alive_XK.shape[0], 1)], dim=1)
        return torch.cat([latents_XKD, cls_X1D.to(latents_XKD.dtype)], dim=1), alive_XL

    def _merged(self, features_XND: Tensor, mask_XN: Tensor, division: Division) -> Tensor:
        """Inked patches pooled into the places of their merged parts -> (X,J,G,D), zero where there is no ink."""
        places = division.alive.shape[1] * self.group_size
        features_XND = features_XND.masked_fill(~mask_XN.unsqueeze(-1), 0)
        if self.merge_order is not None:
            order_XN1 = division.order.unsqueeze(-1).to(features_XND.dtype)
            features_XND = features_XND + order_XN1 * self.merge_order(features_XND)
        index_XND = division.place.unsqueeze(-1).expand_as(features_XND)
        sums = features_XND.new_zeros(len(features_XND), places, features_XND.shape[-1])
        sums = sums.scatter_add(1, index_XND, features_XND)
        filled = sums.new_zeros(sums.shape[:2]).scatter_add(1, division.place, mask_XN.to(sums.dtype))
        return (sums / filled.clamp(min=1).sqrt().unsqueeze(-1)).unflatten(1, (-1, self.group_size))

    def _with_neighbours(self, own_XKD: Tensor) -> Tensor:
        """The vectors of the groups from `local_following` after each to `local_preceding` before it, side by side."""
        shifted = [nn.functional.pad(own_XKD, (0, 0, back, -back)) for back in self.beside]  # zeros beyond the page
        return torch.cat(shifted, dim=-1)

    def _groups(self, features_XND: Tensor, mask_XN: Tensor) -> tuple[Tensor, Tensor]:
        """Inked patches moved to the front, cut into K groups of G -> (X,K,G,D) zero-padded, and (X,K,G) bool."""
        slots = self.num_visual_tokens * self.group_size
        if mask_XN.shape[1] > slots:
            raise VistError(
                f"A page has {mask_XN.shape[1]} patches but the model was built for at most {slots}; "
                "render with the page style the model was built for."
            )
        order_XN = (~mask_XN).to(torch.uint8).argsort(dim=1, stable=True)
        packed = features_XND.gather(1, order_XN.unsqueeze(-1).expand_as(features_XND))
        packed = nn.functional.pad(packed, (0, 0, 0, slots - packed.shape[1]))
        filled = torch.arange(slots, device=mask_XN.device) < mask_XN.sum(1, keepdim=True)
        packed = packed.masked_fill(~filled.unsqueeze(-1), 0)
        split = (self.num_visual_tokens, self.group_size)
        return packed.unflatten(1, split), filled.unflatten(1, split)


class Division(NamedTuple):
    """Which patches of a page share a visual token when there are fewer tokens than parts.

    For each patch (X,N): its `place`, counted over J tokens of G places, and its `order` among those that share the
    place, from -1 to 1, 0 if it is alone; both 0 for a patch without ink. For each token (X,J): `alive`, whether it is
    in use; `merged`, how many parts it stands for (at least 1); `middle`, the middle one of them.
    """

    place: Tensor
    order: Tensor
    alive: Tensor
    merged: Tensor
    middle: Tensor

    @classmethod
    def of(cls, mask_XN: Tensor, counts_X: Tensor, group: int) -> Division:
        """The most even division of each page's parts of `group` inked patches among at most `counts_X` tokens."""
        parts_X1 = (-(-mask_XN.sum(1, keepdim=True) // group)).clamp(min=1)
        tokens_X1 = torch.minimum(counts_X.unsqueeze(1), parts_X1).clamp(min=1)
        token_J = torch.arange(int(tokens_X1.max()) if len(tokens_X1) else 0, device=mask_XN.device)
        first_XJ = -(-token_J * parts_X1 // tokens_X1)
        merged_XJ = (-(-(token_J + 1) * parts_X1 // tokens_X1) - first_XJ).clamp(min=1)
        alive_XJ = token_J < tokens_X1
        rank_XN = (mask_XN.cumsum(1) - 1).clamp(min=0)
        token_XN = rank_XN // group * tokens_X1 // parts_X1
        merged_XN, inside_XN = merged_XJ.gather(1, token_XN), rank_XN - first_XJ.gather(1, token_XN) * group
        order_XN = (2 * (inside_XN % merged_XN) + 1) / merged_XN - 1
        return cls(
            (token_XN * group + inside_XN // merged_XN).masked_fill(~mask_XN, 0),
            order_XN.masked_fill(~mask_XN, 0),
            alive_XJ,
            merged_XJ,
            (first_XJ + (merged_XJ - 1) // 2).masked_fill(~alive_XJ, 0),
        )


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


REDUCERS: tuple[str, ...] = ("perceiver", "local")


def build_reducer(name: str, config: ResamplerConfig, num_patches: int) -> PerceiverResampler:
    """The reducer called `name` for pages of `num_patches` patches. Raises VistError on an unknown name."""
    if name == "perceiver":
        return PerceiverResampler(config)
    if name == "local":
        return LocalResampler(config, num_patches)
    raise VistError(f"Unknown reducer {name!r}; choose one of {', '.join(REDUCERS)}.")
