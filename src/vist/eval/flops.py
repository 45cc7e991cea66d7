"""Floating-point operations of one forward pass, by formula: exact, without weights and in no time.

Owns the formulas. Does not know methods, presets or memory.

Decisions
- Matrix products only, two operations per multiply-add, as torch's counter counts; attention counts every pair of query
  and key, masked or not, as the counter does. The tests hold every formula against that counter on real modules.
- Products with weights (`linear`) and attention's scores and weighted sums (`mixing`) are kept apart, because published
  figures differ in whether they hold the second.
- Rotary tables are left out: in current transformers they are no matrix product, and where they are one it is half a
  head wide, less than a ten-thousandth of a layer.
- T text tokens, M visual tokens, N patches, P pages, K visual tokens per page, D width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedConfig

from vist.model.configuration import VistConfig
from vist.model.vist2_configuration import Vist2Config


@dataclass(frozen=True)
class Work:
    """Operations of products with weights (`linear`) and of attention's own products (`mixing`)."""

    linear: int = 0
    mixing: int = 0

    @property
    def total(self) -> int:
        """All operations."""
        return self.linear + self.mixing

    def __add__(self, other: Work) -> Work:
        return Work(self.linear + other.linear, self.mixing + other.mixing)

    def __mul__(self, times: int) -> Work:
        return Work(self.linear * times, self.mixing * times)


def linear(rows: int, inputs: int, outputs: int) -> Work:
    """A linear layer over `rows` vectors."""
    return Work(linear=2 * rows * inputs * outputs)


def attention(queries: int, keys: int, width: int) -> Work:
    """Scores and weighted sum of `queries` over `keys`, all heads together `width` wide."""
    return Work(mixing=4 * queries * keys * width)


def query_size(config: PreTrainedConfig) -> int:
    """Width of all query heads."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return head * config.num_attention_heads


def kv_size(config: PreTrainedConfig) -> int:
    """Width of all key heads (and of all value heads)."""
    return query_size(config) * config.num_key_value_heads // config.num_attention_heads


def language_model_work(config: PreTrainedConfig, text: int, logits: int) -> Work:
    """A decoder LLM of a supported family over `text` tokens, with `logits` positions scored."""
    width, query, kv = config.hidden_size, query_size(config), kv_size(config)
    attend = linear(text, width, query + 2 * kv) + attention(text, text, query) + linear(text, query, width)
    feed = sum((_feed_forward(config, layer, text) for layer in range(config.num_hidden_layers)), Work())
    return attend * config.num_hidden_layers + feed + linear(logits, width, config.vocab_size)


def _feed_forward(config: Any, layer: int, text: int) -> Work:
    """One gated feed-forward, or a router and the experts that each token is sent to."""
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", 0) or 0
    sparse = layer not in (getattr(config, "mlp_only_layers", None) or ())
    sparse = sparse and (layer + 1) % (getattr(config, "decoder_sparse_step", None) or 1) == 0
    if not experts or not sparse:
        return linear(text, config.hidden_size, 3 * config.intermediate_size)
    inner = getattr(config, "moe_intermediate_size", None) or config.intermediate_size
    sent = linear(text * config.num_experts_per_tok, config.hidden_size, 3 * inner)
    return linear(text, config.hidden_size, experts) + sent


def cross_reading_work(config: PreTrainedConfig, text: int, visual: int) -> Work:
    """Cross-attention of every layer, `text` tokens over `visual` ones whose keys and values are there."""
    query = query_size(config)
    layer = linear(text, config.hidden_size, query) + attention(text, visual, query)
    return (layer + linear(text, query, config.hidden_size)) * config.num_hidden_layers


def cross_projection_work(config: PreTrainedConfig, states_size: int, visual: int) -> Work:
    """Keys and values of all layers, once per context."""
    return linear(visual, states_size, 2 * kv_size(config)) * config.num_hidden_layers


def tower_work(config: Any, patches: int, pooled: bool = True) -> Work:
    """A vision tower over one page of which `patches` are computed (all of its grid, or those with ink).

    `pooled`: with the pooling head of SigLIP, which runs unless blank patches are dropped.
    """
    width, inner = config.hidden_size, config.intermediate_size
    tokens = patches + (1 if config.model_type == "clip_vision_model" else 0)
    layer = linear(tokens, width, 4 * width + 2 * inner) + attention(tokens, tokens, width)
    head = _pooling_head(config, patches) if pooled else Work()
    return layer * config.num_hidden_layers + _pixels_in(config) + head


def _pixels_in(config: Any) -> Work:
    """Pixels to patches, always for the whole page."""
    if config.model_type == "text_vit":
        rows, columns = config.grid
        window = config.patch_size * (config.patch_size + 2 * config.overlap)
        return linear(rows * columns, window, config.hidden_size)
    side = config.num_patches if config.model_type == "siglip2_vision_model" else None
    count = side or (config.image_size // config.patch_size) ** 2
    return linear(count, config.num_channels * config.patch_size**2, config.hidden_size)


def _pooling_head(config: Any, patches: int) -> Work:
    """SigLIP's pooled output, which the tower computes though no one reads it here."""
    if not config.model_type.startswith("siglip") or not getattr(config, "vision_use_head", True):
        return Work()
    width = config.hidden_size
    pooled = linear(1, width, 2 * width + 2 * config.intermediate_size)
    return pooled + linear(patches, width, 2 * width) + attention(1, patches, width)


def resampler_work(config: VistConfig, patches: int) -> Work:
    """The reducer over one page of `patches` patches."""
    width, latents = config.resampler_size, config.num_visual_tokens + 1
    keys = patches + latents
    layer = linear(latents, width, 2 * width) + linear(keys, width, 2 * width) + attention(latents, keys, width)
    layer += linear(latents, width, 8 * width)
    adapt = linear(patches, config.vision_size, width) if config.vision_size != width else Work()
    return layer * config.resampler_layers + adapt + _local_start(config, patches)


def _local_start(config: VistConfig, patches: int) -> Work:
    """The starts of the "local" reducer's latents."""
    if config.reducer != "local":
        return Work()
    width, tokens = config.resampler_size, config.num_visual_tokens
    group = -(-patches // tokens) * config.vision_size
    work = linear(tokens, group, config.local_expansion * width) + linear(tokens, config.local_expansion * width, width)
    if config.local_shortcut:
        work += linear(tokens, group, width)
    beside = 1 + config.local_preceding + config.local_following
    if beside > 1:
        work += linear(tokens, beside * width, 2 * width) + linear(tokens, 2 * width, width)
    return work


def aligner_work(config: Vist2Config, tokens: int, patches: int) -> Work:
    """VIST2's "shuffle" aligner without Perceiver layers, over so many patches that become so many visual tokens."""
    around, vision = config.aligner_preceding + config.aligner_following, config.vision_size
    hidden, width = config.aligner_expansion * config.text_size, config.visual_levels * config.text_size
    side_by_side = (config.patches_per_token + (0 if config.aligner_convolutions else around)) * vision
    work = linear(tokens, side_by_side, hidden) + linear(tokens, hidden, width)
    if config.aligner_shortcut:
        work += linear(tokens, side_by_side, width)
    convolution = linear(patches, (1 + around) * vision, hidden) + linear(patches, hidden, vision)
    return sum([convolution] * config.aligner_convolutions, work)


def text_encoder_work(config: PreTrainedConfig, tokens: int, chunk: int) -> Work:
    """A Llama-shaped bidirectional encoder over chunks of at most `chunk` tokens (CEPE, arXiv 2402.16617)."""
    whole, rest = divmod(tokens, chunk)
    lengths = [chunk] * whole + ([rest] if rest else [])
    return sum((language_model_work(config, length, 0) for length in lengths), Work())
