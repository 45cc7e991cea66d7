"""Which decoder LLMs can take cross-attention, and why the others cannot.

Owns the list of supported families, what their layers must look like, where a family keeps its projections, and the
sentence for every layer that is built otherwise. Does not know what is inserted.

Decisions
- A family is supported when its row in the bit-equality test passes: the untrained model computes the stock logits, bit
  for bit. Being built like a supported family is necessary, not enough.
- The reason for a refusal is read off the layer, not off a list of names: it also holds for architectures that did not
  exist when this was written.
- Projections are read through `stock_projection`: Phi-3 keeps queries, keys and values in one matrix, and a quantised
  one shows its weight only by what it does to the identity.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vist.errors import VistError

SUPPORTED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "smollm3", "phi3", "mixtral", "qwen3_moe")
SUBLAYERS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
#: Modules that a sandwich-norm layer has beside the four: Gemma 2 and 3, GLM 4.
OUTPUT_NORMS = ("pre_feedforward_layernorm", "post_feedforward_layernorm", "post_self_attn_layernorm")


def decoder_layers(language_model: PreTrainedModel) -> list[Any]:
    """The decoder layers, first to last. Raises VistError where there is no `decoder.layers`."""
    layers = getattr(language_model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise VistError(
            f"{type(language_model).__name__} has no list of decoder layers, self-attention and feed-forward in each; "
            f"{_known()}."
        )
    return list(layers)


def check_supported(config: PreTrainedConfig, layer: nn.Module) -> None:
    """Raises VistError, with the reason, unless cross-attention can go into layers like this one."""
    if hasattr(layer, "cross_attn"):
        raise VistError(f"This {config.model_type} model already has cross-attention; load a fresh one.")
    reason = _other_order(layer) or _other_arithmetic(config, layer)
    if reason is not None:
        raise VistError(f"Cannot insert cross-attention into {config.model_type!r} {reason}; {_known()}.")
    check_family(config)


def check_family(config: PreTrainedConfig) -> None:
    """Raises VistError unless the bit-equality test has a row for the config's family."""
    if config.model_type not in SUPPORTED_FAMILIES:
        raise VistError(f"The LLM family {config.model_type!r} is not tested for bit-equality with stock; {_known()}.")


def _known() -> str:
    return f"supported families: {', '.join(SUPPORTED_FAMILIES)}"


def _other_order(layer: nn.Module) -> str | None:
    """Why this layer is not [norm, self-attention, norm, feed-forward]; None if it is."""
    missing = [name for name in SUBLAYERS if not hasattr(layer, name)]
    lacks = f"its layers have no {', '.join(missing)}"
    if "self_attn" in missing:
        return f"(no self-attention under that name): {lacks}"
    if "mlp" in missing:
        return f"(feed-forward without a module of its own): {lacks}"
    if "input_layernorm" in missing:
        return f"(post-norm): {lacks}"
    if missing:
        return f"(parallel attention and feed-forward): {lacks}"
    if any(hasattr(layer, name) for name in OUTPUT_NORMS):
        return "(sandwich norm): its layers normalise after each sublayer too"
    return None


def _other_arithmetic(config: PreTrainedConfig, layer: Any) -> str | None:
    """Why a layer in the right order still computes something else than a sum of residuals; None if it does not."""
    if getattr(layer, "residual_multiplier", 1.0) != 1.0:
        return "(scaled residuals): its layers multiply what they add"
    if not (hasattr(layer.self_attn, "qkv_proj") or all(hasattr(layer.self_attn, name) for name in PROJECTIONS)):
        return "(latent attention): its self-attention has no query, key and value projections to start from"
    if not hasattr(config, "rms_norm_eps"):
        return "(LayerNorm): its layers do not use RMSNorm"
    return None


def stock_projection(self_attn: Any, name: str) -> tuple[Tensor, Tensor | None]:
    """Weight (outputs, inputs) and bias of a projection (`PROJECTIONS`) of the stock self-attention."""
    if hasattr(self_attn, name):
        return _weight(getattr(self_attn, name))
    config = self_attn.config
    query, kv = config.num_attention_heads * self_attn.head_dim, config.num_key_value_heads * self_attn.head_dim
    weight, bias = _weight(self_attn.qkv_proj)
    part = ("q_proj", "k_proj", "v_proj").index(name)
    sizes = [query, kv, kv]
    return weight.split(sizes)[part], None if bias is None else bias.split(sizes)[part]


def has_bias(self_attn: Any, name: str) -> bool:
    """Whether that projection of the stock self-attention has a bias."""
    return getattr(self_attn, name if hasattr(self_attn, name) else "qkv_proj").bias is not None


@torch.no_grad()
def _weight(linear: Any) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer; of a quantised one, from what it makes of the identity."""
    if linear.weight.is_floating_point() and linear.weight.shape == (linear.out_features, linear.in_features):
        return linear.weight, linear.bias
    device = linear.weight.device
    identity = torch.eye(linear.in_features, device=device, dtype=torch.bfloat16)
    offset = linear(torch.zeros(1, linear.in_features, device=device, dtype=torch.bfloat16))
    return (linear(identity) - offset).T, linear.bias
