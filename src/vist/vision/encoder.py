"""One interface over the vision towers that read pages: CLIP, SigLIP, SigLIP2 and TextViT.

Owns loading a tower, bringing pages into the form it was trained on, and the mapping of its output to features and
mask. Does not know where pages come from nor what reads the features.

Decisions
- Only pages with ink go through the tower: they are gathered first and scattered back, so padding pages cost nothing.
- Pixel values: every page is stretched to its own full contrast, darkest pixel 0 and brightest 1 (the paper
  normalises per image), then shifted and scaled by the mean and deviation the tower was trained with. So any ink on
  any paper looks alike, and a frozen tower gets the range it knows. TextViT takes the page as it is.
- The ink mask reaches into the tower where its attention takes a mask (SigLIP2, TextViT); CLIP and SigLIP see the
  blank patches, whose features are masked afterwards. The CLS feature of CLIP is dropped.
- `drop_blank` takes blank patches out of CLIP and SigLIP before their first layer, which saves their cost, as TextViT
  always does. The other patches then no longer see them, so features differ from the stock tower's: an option.
- `layers` keeps a tower's first layers alone: cheaper, and for reading often as good, which training decides.
- A page of another size than the tower's is resized (bilinear); the ink mask follows by max-pooling: a patch has ink
  if any cell it overlaps has. SigLIP2 takes any size that is a multiple of its patch.
- A tower without a trainable parameter runs without gradients.
- B batch, P pages, X visible pages of the batch, N patches, H and W pixels, D width.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from vist.errors import VistError
from vist.vision.text_vit import gather_order  # importing it also registers TextViT with the Auto classes

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
SIGLIP_MEAN, SIGLIP_STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

#: model_type of every supported tower -> (mean, deviation) of its training images; None = takes gray pages as they are.
SUPPORTED_TOWERS: dict[str, tuple[tuple[float, ...], tuple[float, ...]] | None] = {
    "clip_vision_model": (CLIP_MEAN, CLIP_STD),
    "siglip_vision_model": (SIGLIP_MEAN, SIGLIP_STD),
    "siglip2_vision_model": (SIGLIP_MEAN, SIGLIP_STD),
    "text_vit": None,
}


class PageFeatures(NamedTuple):
    """What a tower saw: `features` (B,P,N,D), zero on padding pages and blank patches, and `mask` (B,P,N) bool."""

    features: Tensor
    mask: Tensor


def vision_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The vision part of a config; itself if it is one. Raises VistError for a tower that is not supported."""
    config = getattr(config, "vision_config", config)
    if config.model_type not in SUPPORTED_TOWERS:
        raise VistError(
            f"The vision tower {config.model_type!r} is not supported; use one of {', '.join(SUPPORTED_TOWERS)}."
        )
    return config


def load_vision_tower(
    source: str | os.PathLike[str] | PreTrainedConfig,
    dtype: torch.dtype | str | None = None,
    device_map: str | dict[str, Any] | None = None,
    revision: str | None = None,
    layers: int | None = None,
) -> PreTrainedModel:
    """A vision tower from a Hub id or folder (also of a whole CLIP or SigLIP model), or untrained from a config.

    `dtype`, `device_map` and `revision` are as for transformers' `from_pretrained`; `layers` keeps the first ones.
    Raises VistError when the source holds no supported tower or cannot be read.
    """
    if isinstance(source, PreTrainedConfig):
        return AutoModel.from_config(_shortened(vision_config(source), layers))
    try:
        config = _shortened(vision_config(AutoConfig.from_pretrained(source, revision=revision)), layers)
        return AutoModel.from_pretrained(source, config=config, dtype=dtype, device_map=device_map, revision=revision)
    except (OSError, ImportError) as error:
        first_line = str(error).splitlines()[0]
        raise VistError(f"Cannot load a vision tower from {str(source)!r}: {first_line}") from error


def _shortened(config: PreTrainedConfig, layers: int | None) -> PreTrainedConfig:
    """The config of the tower's first `layers` layers. Raises VistError when it has fewer."""
    if layers is not None:
        if not 1 <= layers <= config.num_hidden_layers:
            raise VistError(f"vision_layers must be 1 to {config.num_hidden_layers} for this tower, got {layers}.")
        config.num_hidden_layers = layers
    return config


def shorten(tower: Any, layers: int | None) -> None:
    """Keep the first `layers` layers of a tower, in place; None keeps all. Raises VistError when it has fewer."""
    _shortened(tower.config, layers)
    if layers is not None:
        holder = tower if tower.config.model_type == "text_vit" else tower.encoder
        holder.layers = holder.layers[:layers]


def patch_grid(config: PreTrainedConfig, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of patches that the tower makes of a page of height x width pixels."""
    if config.model_type == "siglip2_vision_model":
        return max(1, round(height / config.patch_size)), max(1, round(width / config.patch_size))
    if config.model_type == "text_vit":
        return config.grid
    side = config.image_size // config.patch_size
    return side, side


def num_patches(config: PreTrainedConfig) -> int:
    """The largest number of patches that the tower makes of a page."""
    if config.model_type == "siglip2_vision_model":
        return config.num_patches
    rows, columns = patch_grid(config, 0, 0)
    return rows * columns


def encode(
    tower: PreTrainedModel,
    pixel_values: Tensor,
    ink_mask: Tensor,
    pages_per_pass: int = 64,
    drop_blank: bool = False,
) -> PageFeatures:
    """Features of every patch of every page.

    `pixel_values` (B,P,H,W) uint8 gray; `ink_mask` (B,P,rows,cols) bool on any grid over the page. At most
    `pages_per_pass` pages are in the tower at once, which bounds the memory of long contexts. `drop_blank` computes
    patches with ink alone, also in CLIP and SigLIP.
    Raises VistError when the two do not describe the same pages.
    """
    if pixel_values.ndim != 4 or ink_mask.ndim != 4 or pixel_values.shape[:2] != ink_mask.shape[:2]:
        raise VistError(
            f"Pages and ink mask do not match: pixel_values {tuple(pixel_values.shape)}, "
            f"ink_mask {tuple(ink_mask.shape)}; expected (B,P,H,W) and (B,P,rows,cols)."
        )
    grid = patch_grid(tower.config, *pixel_values.shape[-2:])
    visible_BP = ink_mask.flatten(2).any(-1)
    ink_XN = F.adaptive_max_pool2d(ink_mask[visible_BP].float(), grid).flatten(1).bool()
    mask_BPN = ink_XN.new_zeros(*visible_BP.shape, ink_XN.shape[1])
    mask_BPN[visible_BP] = ink_XN
    features_BPND = torch.zeros(*mask_BPN.shape, tower.config.hidden_size, dtype=tower.dtype, device=tower.device)
    pages_XHW = pixel_values[visible_BP]
    frozen = not any(parameter.requires_grad for parameter in tower.parameters())
    with torch.no_grad() if frozen else nullcontext():
        passes = zip(pages_XHW.split(pages_per_pass), ink_XN.split(pages_per_pass), strict=True)
        parts = [
            _run(tower, pages, ink, grid, drop_blank).masked_fill(~ink[..., None], 0)
            for pages, ink in passes
            if len(pages)
        ]
        if parts:
            features_BPND[visible_BP] = torch.cat(parts).to(features_BPND.dtype)
    return PageFeatures(features_BPND, mask_BPN)


def _run(tower: PreTrainedModel, pages_XHW: Tensor, ink_XN: Tensor, grid: tuple[int, int], drop_blank: bool) -> Tensor:
    """Features (X,N,D) of visible pages, in reading order."""
    kind = tower.config.model_type
    if kind == "text_vit":
        return tower(pages_XHW, ink_XN)
    patch = tower.config.patch_size
    images = normalize_pages(tower, pages_XHW, (grid[0] * patch, grid[1] * patch))
    if kind == "siglip2_vision_model":
        shapes = torch.tensor([grid] * len(images), device=images.device)
        output = tower(_patchify(images, patch), pixel_attention_mask=ink_XN.int(), spatial_shapes=shapes)
        return output.last_hidden_state
    if drop_blank:
        return _run_on_ink(tower, images, ink_XN)
    features = tower(images).last_hidden_state
    return features[:, 1:] if kind == "clip_vision_model" else features


def _run_on_ink(tower: Any, images_XCHW: Tensor, ink_XN: Tensor) -> Tensor:
    """Features (X,N,D) of CLIP or SigLIP with blank patches, zero here, left out of every layer."""
    hidden_XND = tower.embeddings(images_XCHW)
    first = hidden_XND.shape[1] - ink_XN.shape[1]  # 1 for CLIP's CLS, which always takes part
    order, kept = gather_order(F.pad(ink_XN, (first, 0), value=True))
    index = order[..., None].expand(-1, -1, hidden_XND.shape[-1])
    compact = hidden_XND.gather(1, index)
    if first:
        compact = tower.pre_layrnorm(compact)
    mask = None
    if not kept.all():
        mask = torch.zeros_like(kept, dtype=compact.dtype).masked_fill(~kept, torch.finfo(compact.dtype).min)
        mask = mask[:, None, None]
    compact = tower.encoder(inputs_embeds=compact, attention_mask=mask).last_hidden_state
    if not first:
        compact = tower.post_layernorm(compact)
    return torch.zeros_like(hidden_XND).scatter(1, index, compact * kept[..., None])[:, first:]


def normalize_pages(tower: PreTrainedModel, pages_XHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Gray pages as the tower's input (X,C,H',W'): full contrast per page, resized, the tower's mean and deviation."""
    gray = pages_XHW[:, None].float()
    low, high = gray.amin((1, 2, 3), keepdim=True), gray.amax((1, 2, 3), keepdim=True)
    gray = (gray - low) / (high - low).clamp(min=1)
    if gray.shape[-2:] != size:
        gray = F.interpolate(gray, size=size, mode="bilinear", align_corners=False, antialias=True)
    statistics = SUPPORTED_TOWERS[tower.config.model_type]
    assert statistics is not None
    mean, std = (torch.tensor(values, device=gray.device).view(1, -1, 1, 1) for values in statistics)
    return ((gray - mean) / std).to(tower.dtype)


def _patchify(images_XCHW: Tensor, patch: int) -> Tensor:
    """(X,C,H,W) -> (X,N,patch*patch*C), row by row, channels innermost: the order SigLIP2's image processor uses."""
    pages, channels, height, width = images_XCHW.shape
    blocks = images_XCHW.reshape(pages, channels, height // patch, patch, width // patch, patch)
    return blocks.permute(0, 2, 4, 3, 5, 1).reshape(pages, -1, patch * patch * channels)


def freeze(module: nn.Module) -> None:
    """Take a whole module out of training: no gradients, evaluation mode."""
    module.requires_grad_(False)
    module.eval()
