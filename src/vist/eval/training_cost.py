"""What a step of training costs, by count: operations, and bytes on one device.

Owns the rules by which a forward pass becomes a training step. Does not know recipes; forward passes are counted in
flops.py, a row's parts in cost_table.py.

Decisions
- Operations: a frozen tower runs forward only. Through the frozen LLM gradients flow without being formed for its
  weights: products with weights count twice, attention's own products three times (both of their sides have
  gradients). What is trained counts three times. Computing activations again adds the LLM's forward pass.
- Activations: the real modules run on the meta device, without weights and in seconds, and every tensor that autograd
  keeps for the backward pass is counted once. What the attention kernel of a GPU keeps can differ a little.
- Memory is weights, gradients and optimizer of what is trained (fp32, AdamW's two moments), frozen weights in the
  precision of the products, and those activations or the tower's, whichever is more. Allocators add their own.
- T_e tokens of distant text, T_d of proximal text (td), P pages, N patches, K visual tokens per page.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from vist.compress.resampler import PerceiverResampler
from vist.eval.flops import (
    Work,
    cross_projection_work,
    cross_reading_work,
    language_model_work,
    resampler_work,
    tower_work,
)
from vist.eval.memory import tower_activation_bytes
from vist.model.configuration import VistConfig
from vist.model.vist import VistForConditionalGeneration
from vist.vision.encoder import num_patches

FP32 = 4


def training_work(config: VistConfig, td: int, pages: int, checkpointing: bool = False) -> dict[str, Work]:
    """Operations of one sample, forward and backward, by part."""
    patches = num_patches(config.vision_config)
    visual = pages * config.num_visual_tokens
    llm = language_model_work(config.text_config, td, td)
    cross = cross_reading_work(config.text_config, td, visual)
    cross += cross_projection_work(config.text_config, config.resampler_size, visual)
    again = 1 if checkpointing else 0
    return {
        "encoder": tower_work(config.vision_config, patches) * pages,
        "resampler": resampler_work(config, patches) * (3 * pages),
        "cross_attention": cross * (3 + again),
        "llm": Work(llm.linear * (2 + again), llm.mixing * (3 + again)),
    }


def meta_model(config: VistConfig) -> VistForConditionalGeneration:
    """The model without weights."""
    with torch.device("meta"):
        return VistForConditionalGeneration(config)


def parameters_by_part(model: VistForConditionalGeneration) -> dict[str, int]:
    """Parameters that are trained, and frozen ones of both backbones."""
    trained = {name: value.numel() for name, value in model.trainable_parameters().items()}
    cross = sum(count for name, count in trained.items() if "cross_attn" in name)
    return {
        "trained": sum(trained.values()),
        "trained_cross_attention": cross,
        "trained_resampler": sum(trained.values()) - cross,
        "frozen_llm": _count(model.language_model)
        - sum(count for name, count in trained.items() if name.startswith("language_model.")),
        "frozen_vision": _count(model.vision_tower),
    }


def training_memory(
    model: VistForConditionalGeneration, td: int, pages: int, batch_size: int, value_bytes: int, llm_bits: int = 16
) -> dict[str, int]:
    """Bytes on one device by kind, without sharding. `value_bytes`: of the products and of frozen weights."""
    counts = parameters_by_part(model)
    llm_bytes = counts["frozen_llm"] // 2 if llm_bits == 4 else counts["frozen_llm"] * value_bytes
    tower: Any = model.config.vision_config
    encoding = tower_activation_bytes(tower, num_patches(tower), pages * batch_size, value_bytes)
    return {
        "frozen_weights": llm_bytes + counts["frozen_vision"] * value_bytes,
        "trained_weights": counts["trained"] * FP32,
        "gradients": counts["trained"] * FP32,
        "optimizer": counts["trained"] * 2 * FP32,
        "activations": max(encoding, kept_for_backward(model, td, pages, batch_size) * value_bytes // FP32),
    }


def kept_for_backward(model: VistForConditionalGeneration, td: int, pages: int, batch_size: int) -> int:
    """Bytes that autograd keeps of one forward pass through Resampler and LLM in fp32, on the meta device."""
    config = model.config
    patches, visual = num_patches(config.vision_config), pages * config.num_visual_tokens
    device = next(model.parameters()).device
    features = torch.zeros(batch_size * pages, patches, config.vision_size, device=device)
    states = torch.zeros(batch_size, visual, config.resampler_size, device=device, requires_grad=True)
    ids = torch.zeros(batch_size, td, dtype=torch.long, device=device)
    mask = torch.ones(batch_size, 1, 1, visual, dtype=torch.bool, device=device)
    causal = torch.ones(batch_size, 1, td, td, dtype=torch.bool, device=device)  # a whole mask needs no look at values

    def forward() -> Any:
        read = model.language_model(
            input_ids=ids, attention_mask=causal, cross_states=states, cross_mask=mask, use_cache=False
        )
        return read.logits.float().log_softmax(-1), _reduce(model.resampler, features)

    return saved_bytes(model, forward)


def saved_bytes(model: nn.Module, forward: Callable[[], Any]) -> int:
    """Bytes of tensors that autograd keeps while `forward` runs, each storage once, weights left out."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, Any] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = forward()
    found = sum(storage.nbytes() for storage in kept.values())
    del result
    return found


def _reduce(resampler: PerceiverResampler, features_XND: torch.Tensor) -> torch.Tensor:
    """The Resampler's layers over pages full of ink, without the gathering by ink that needs values."""
    mask_XN = torch.ones(features_XND.shape[:2], dtype=torch.bool, device=features_XND.device)
    latents_XLD, alive_XL = resampler.start(features_XND, mask_XN)
    mask = torch.cat([mask_XN, alive_XL], dim=1)
    adapted = resampler.adapt(features_XND)
    for layer in resampler.layers:
        latents_XLD = layer(latents_XLD, adapted, mask)
    return resampler.norm(latents_XLD)


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
