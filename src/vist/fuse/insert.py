"""Cross-attention inside the decoder layers of a stock LLM, by class swap.

Owns the forward of a decoder layer with the extra sublayer and the question which LLM families have it. Does not know
what the states are, and changes neither the model classes nor the names of existing weights.

Decisions
- The layer keeps its object, weights and names; only its class changes, to a subclass with one more sublayer between
  self-attention and feed-forward. Every layer is swapped: wrapping by class name (FSDP) takes all layers or none.
- The subclass carries the stock class's name and lives in this module's globals, so that lists of class names keep
  matching and pickle and deepcopy find it.
- Nothing is kept on a module between calls. `cross_kv` (B, layers, 2, Hkv, M, Dh) holds keys and values projected
  once (with sub-tokens: B, layers, 2, 1, Hkv*M+1, Dh); `cross_states` (B,M,Dv) is projected in the layer, which
  activation checkpointing then recomputes; `cross_mask` (B,1,1,M) goes with both. They travel as keyword arguments,
  which the stock model classes pass on.
- Without states a swapped layer computes exactly what the stock layer computes.
- A family is supported when its bit-equality test passes; add its model type here and its row there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vist.errors import VistError
from vist.fuse.cross_attention import CrossAttention

SUPPORTED_FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
SUBLAYERS = ("input_layernorm", "self_attn", "post_attention_layernorm", "mlp")


@dataclass(frozen=True)
class CrossAttentionOptions:
    """Choices of the inserted sublayer: width of the visual states, then those of `CrossAttention`."""

    states_size: int
    gate: bool = False
    norm: bool = True
    output_gate: bool = False
    subtokens: bool = False


def insert_cross_attention(language_model: PreTrainedModel, options: CrossAttentionOptions) -> None:
    """Give every decoder layer of `language_model` a cross-attention sublayer, in place.

    New weights start as the paper has them (copied from self-attention), so the untrained model is the base LLM; on
    the meta device they wait for a checkpoint instead. New weights take the layer's dtype and device.
    Raises VistError for an architecture whose layers are not pre-norm [self-attention, feed-forward], for a family
    without a bit-equality test, and for a model that already has cross-attention.
    """
    layers = decoder_layers(language_model)
    config = language_model.config.get_text_config(decoder=True)
    check_supported(config, layers[0])
    for slot, layer in enumerate(layers):
        layer.cross_attn = _build(config, layer, slot, options)
        layer.cross_slot = slot
        layer.__class__ = _swapped(type(layer))


def decoder_layers(language_model: PreTrainedModel) -> list[Any]:
    """The decoder layers, first to last. Raises VistError where there is no `decoder.layers`."""
    layers = getattr(language_model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise VistError(
            f"{type(language_model).__name__} has no list of decoder layers; "
            f"supported families: {', '.join(SUPPORTED_FAMILIES)}."
        )
    return list(layers)


def cross_attentions(language_model: PreTrainedModel) -> list[CrossAttention]:
    """The inserted sublayers in the order of `cross_kv`'s second axis."""
    return [layer.cross_attn for layer in decoder_layers(language_model)]


def project_states(language_model: PreTrainedModel, states_BMD: Tensor) -> Tensor:
    """Keys and values of a context for all layers: (B,M,Dv) -> `cross_kv` (B, layers, 2, Hkv, M, Dh)."""
    return torch.stack([sublayer.project(states_BMD) for sublayer in cross_attentions(language_model)], dim=1)


def check_supported(config: PreTrainedConfig, layer: nn.Module) -> None:
    """Raises VistError, with the reason, unless cross-attention can go into layers like this one."""
    known = f"supported families: {', '.join(SUPPORTED_FAMILIES)}"
    if hasattr(layer, "cross_attn"):
        raise VistError(f"This {config.model_type} model already has cross-attention; load a fresh one.")
    missing = [name for name in SUBLAYERS if not hasattr(layer, name)]
    if missing:
        reason = "post-norm" if "input_layernorm" in missing else "not a pre-norm decoder"
        raise VistError(
            f"Cannot insert cross-attention into {config.model_type!r} ({reason}): "
            f"its layers have no {', '.join(missing)}; {known}."
        )
    if hasattr(layer, "pre_feedforward_layernorm"):
        raise VistError(
            f"Cannot insert cross-attention into {config.model_type!r} (sandwich norm): "
            f"its layers normalise after each sublayer too; {known}."
        )
    if config.model_type not in SUPPORTED_FAMILIES:
        raise VistError(f"The LLM family {config.model_type!r} is not tested for bit-equality with stock; {known}.")


def _build(config: PreTrainedConfig, layer: Any, slot: int, options: CrossAttentionOptions) -> CrossAttention:
    cross = CrossAttention(
        config, options.states_size, slot, options.gate, options.norm, options.output_gate, options.subtokens
    )
    cross.match(layer.self_attn)
    reference = layer.self_attn.q_proj.weight
    cross.to(device=reference.device, dtype=reference.dtype)
    if not reference.is_meta:
        cross.copy_from(layer.self_attn, layer.input_layernorm)
        keep_weights(cross)
    return cross


def keep_weights(module: nn.Module) -> None:
    """Mark weights as final, so that setting up a model around them does not draw them anew."""
    for parameter in module.parameters():
        vars(parameter)["_is_hf_initialized"] = True


def _forward(
    self: Any,
    hidden_states: Tensor,
    attention_mask: Tensor | None = None,
    position_ids: Tensor | None = None,
    past_key_values: object | None = None,
    use_cache: bool | None = False,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    cross_states: Tensor | None = None,
    cross_kv: Tensor | None = None,
    cross_mask: Tensor | None = None,
    **kwargs: object,
) -> Tensor:
    """A pre-norm decoder layer with cross-attention between self-attention and feed-forward."""
    attended, _ = self.self_attn(
        hidden_states=self.input_layernorm(hidden_states),
        attention_mask=attention_mask,
        position_ids=position_ids,
        past_key_values=past_key_values,
        use_cache=use_cache,
        position_embeddings=position_embeddings,
        **kwargs,
    )
    hidden_states = hidden_states + attended
    if cross_kv is not None:
        hidden_states = hidden_states + self.cross_attn(hidden_states, cross_kv[:, self.cross_slot], cross_mask)
    elif cross_states is not None:
        kv = self.cross_attn.project(cross_states)
        hidden_states = hidden_states + self.cross_attn(hidden_states, kv, cross_mask)
    return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


def __getattr__(name: str) -> type[nn.Module]:
    """A swapped class by its name, for pickles that are opened before anything was swapped in this process."""
    if name.endswith("DecoderLayer"):
        for family in SUPPORTED_FAMILIES:
            stock = getattr(import_module(f"transformers.models.{family}.modeling_{family}"), name, None)
            if stock is not None:
                return _swapped(stock)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _swapped(stock: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `stock` with the cross-attention sublayer; one per stock class, found again by pickle."""
    known = globals().get(stock.__name__)
    if known is not None:
        assert known.__mro__[1] is stock, f"two decoder layer classes called {stock.__name__}"
        return known
    forward: Callable[..., Tensor] = _forward
    swapped = type(
        stock.__name__, (stock,), {"forward": forward, "__module__": __name__, "__qualname__": stock.__name__}
    )
    globals()[stock.__name__] = swapped
    return swapped
