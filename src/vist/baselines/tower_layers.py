"""A layer of a vision tower in its parts: queries, keys and values; attention; feed-forward.

Owns where TextViT, CLIP and SigLIP keep their projections. Does not know why a layer is taken apart.

Decisions
- ToMe and FastV both step in between attention and feed-forward, and need keys or attention weights that the towers do
  not return. Put together again, the parts compute what the layer computes.
- X pages, N tokens of a page, D width, H heads, Dh width of one head.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vist.vision.text_vit import TextViTLayer

REDUCIBLE_TOWERS = ("text_vit", "clip_vision_model", "siglip_vision_model")


def project(layer: Any, hidden_XND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values (X,H,N,Dh) of the layer's attention."""
    if isinstance(layer, TextViTLayer):
        qkv = layer.qkv(layer.norm1(hidden_XND)).unflatten(-1, (3, layer.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        return query, key, value
    attn, normed = layer.self_attn, layer.layer_norm1(hidden_XND)
    split = (attn.num_heads, -1)
    parts = (part(normed).unflatten(-1, split).transpose(1, 2) for part in (attn.q_proj, attn.k_proj, attn.v_proj))
    query, key, value = parts
    return query, key, value


def attend(layer: Any, hidden_XND: Tensor, qkv: tuple[Tensor, Tensor, Tensor], bias_X11N: Tensor | None) -> Tensor:
    """The residual stream after attention; `bias_X11N` is added to the scores of each key."""
    mixed = F.scaled_dot_product_attention(*qkv, attn_mask=bias_X11N).transpose(1, 2).flatten(2)
    return hidden_XND + (layer.proj if isinstance(layer, TextViTLayer) else layer.self_attn.out_proj)(mixed)


def feed(layer: Any, hidden_XND: Tensor) -> Tensor:
    """The residual stream after the feed-forward."""
    if isinstance(layer, TextViTLayer):
        return hidden_XND + layer.fc2(F.gelu(layer.fc1(layer.norm2(hidden_XND))))
    return hidden_XND + layer.mlp(layer.layer_norm2(hidden_XND))


def key_bias(sizes_XN: Tensor) -> Tensor:
    """(X,1,1,N) log of how many patches a key stands for, which makes it count as so many; none at all: never seen."""
    bias = sizes_XN.clamp(min=1).log().masked_fill(sizes_XN == 0, torch.finfo(sizes_XN.dtype).min)
    return bias[:, None, None]
