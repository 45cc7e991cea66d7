"""Memory of one forward pass, by formula: weights, keys and values, and the activations alive at the worst moment.

Owns the formulas. Does not know methods or presets.

Decisions
- Inference without gradients and with attention kernels that do not write scores out (sdpa, flash). The tests hold the
  activations against the bytes that torch keeps alive while the real modules run.
- The worst moment of a transformer is inside a feed-forward, or at the logits where all positions are scored.
- Pages and text chunks go through their encoders in passes of at most 64, as `vist.vision.encoder.encode` does it.
- Parameters are counted on the meta device, on the real modules.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedConfig

from vist.compress.reducers import build_reducer
from vist.eval.flops import kv_size, query_size
from vist.fuse.cross_attention import CrossAttention
from vist.model.configuration import VistConfig
from vist.vision.encoder import num_patches

PAGES_PER_PASS = 64


def kv_bytes(config: PreTrainedConfig, tokens: int, value_bytes: int) -> int:
    """Keys and values of `tokens` positions in all layers; visual tokens of cross-attention take as much as text."""
    return 2 * config.num_hidden_layers * kv_size(config) * tokens * value_bytes


def decoder_activation_bytes(config: Any, text: int, logits: int, value_bytes: int) -> int:
    """Alive at the worst moment of an LLM's forward: inside attention, inside the feed-forward, or at the logits."""
    width, inner = config.hidden_size, _inner_size(config)
    # residual stream and normed input, then: queries, rotated queries, keys and values, output
    attend = text * (2 * width + 3 * query_size(config) + 3 * kv_size(config))
    feed = text * (2 * width + 3 * inner)  # gate after its activation, up, their product
    score = text * width + logits * config.vocab_size
    return max(attend, feed, score) * value_bytes


def _inner_size(config: Any) -> int:
    """Feed-forward units that one token passes."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", 0)
    if not experts:
        return config.intermediate_size
    return config.num_experts_per_tok * (getattr(config, "moe_intermediate_size", None) or config.intermediate_size)


def tower_activation_bytes(config: Any, patches: int, pages: int, value_bytes: int) -> int:
    """Alive at the worst moment of one pass of a vision tower."""
    tokens = min(pages, PAGES_PER_PASS) * (patches + (1 if config.model_type == "clip_vision_model" else 0))
    # residual stream and normed input; hidden units before and after activation, CLIP's with one step between
    copies = 3 if getattr(config, "hidden_act", None) == "quick_gelu" else 2
    return tokens * (2 * config.hidden_size + copies * config.intermediate_size) * value_bytes


def text_encoder_activation_bytes(config: Any, tokens: int, chunk: int, value_bytes: int) -> int:
    """Alive at the worst moment of one pass of a text encoder over chunks."""
    return decoder_activation_bytes(config, min(tokens, PAGES_PER_PASS * chunk), 0, value_bytes)


def language_model_parameters(config: PreTrainedConfig, causal: bool = True) -> int:
    """Parameters of an LLM (or of an encoder of its shape, without output layer)."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config) if causal else AutoModel.from_config(config)
    return _count(model)


def tower_parameters(config: PreTrainedConfig) -> int:
    """Parameters of a vision tower."""
    with torch.device("meta"):
        return _count(AutoModel.from_config(config))


def resampler_parameters(config: VistConfig) -> int:
    """Parameters of the reducer."""
    with torch.device("meta"):
        return _count(build_reducer(config.reducer, config, num_patches(config.vision_config)))


def cross_parameters(config: PreTrainedConfig, states_size: int) -> int:
    """Parameters of the cross-attention sublayers of all layers, without families' biases and head norms."""
    with torch.device("meta"):
        return config.num_hidden_layers * _count(CrossAttention(config, states_size, 0))


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
