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
- B batch, P pages, X visible pages, N patches, K visual tokens per page, G patches of one latent's part, D width.
"""

from __future__ import annotations

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

    def start(self, features_XND: Tensor, mask_XN: Tensor) -> tuple[Tensor, Tensor]:
        """Latents from their part of the reading order; a latent whose part holds no ink is out of use."""
        groups_XKGD, mask_XKG = self._groups(self.group_norm(features_XND), mask_XN)
        own_XKD = self.group_mlp(groups_XKGD.flatten(2))
        if self.group_shortcut is not None:
            own_XKD = own_XKD + self.group_shortcut(groups_XKGD.flatten(2))
        latents_XKD = own_XKD + self.latents
        alive_XK = mask_XKG.any(-1)
        if len(self.beside) > 1:
            seen_XKD = self.beside_norm(own_XKD).masked_fill(~alive_XK.unsqueeze(-1), 0)
            latents_XKD = latents_XKD + self.beside_mlp(self._with_neighbours(seen_XKD))
        cls_X1D = self.cls_latent.expand(latents_XKD.shape[0], 1, -1)
        alive_XL = torch.cat([alive_XK, alive_XK.new_ones(alive_XK.shape[0], 1)], dim=1)
        return torch.cat([latents_XKD, cls_X1D.to(latents_XKD.dtype)], dim=1), alive_XL

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
