"""Cross-attention inside the decoder layers of a stock LLM, by class swap.

Owns the forward of a decoder layer with the extra sublayer. Does not know which families can have it (families.py) nor
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
- One forward for all families: what a family adds to the stock layer is done where the layer has it. Phi-3 has a
  dropout on each residual; what cross-attention adds gets none. A mixture of experts is a feed-forward like another.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from vist.fuse.cross_attention import CrossAttention
from vist.fuse.families import SUPPORTED_FAMILIES, check_supported, decoder_layers


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
        _swap(layer)


def without_cross_attention(language_model: PreTrainedModel) -> PreTrainedModel:
    """A stock LLM with the weights of one whose layers were swapped, without the cross-attention."""
    stock: PreTrainedModel = type(language_model)(copy.deepcopy(language_model.config))
    module: nn.Module = stock.train(language_model.training)
    kept = {name: value for name, value in language_model.state_dict().items() if ".cross_attn." not in name}
    module.to(dtype=language_model.dtype).load_state_dict(kept)
    return stock


def cross_attentions(language_model: PreTrainedModel) -> list[CrossAttention]:
    """The inserted sublayers in the order of `cross_kv`'s second axis."""
    return [layer.cross_attn for layer in decoder_layers(language_model)]


def project_states(language_model: PreTrainedModel, states_BMD: Tensor) -> Tensor:
    """Keys and values of a context for all layers: (B,M,Dv) -> `cross_kv` (B, layers, 2, Hkv, M, Dh).

    The states are taken to the type of the cross-attention's weights first.
    """
    sublayers = cross_attentions(language_model)
    states_BMD = states_BMD.to(sublayers[0].k_proj.weight.dtype)
    return torch.stack([sublayer.project(states_BMD) for sublayer in sublayers], dim=1)


def _build(config: PreTrainedConfig, layer: Any, slot: int, options: CrossAttentionOptions) -> CrossAttention:
    cross = CrossAttention(
        config, options.states_size, slot, options.gate, options.norm, options.output_gate, options.subtokens
    )
    cross.match(layer.self_attn)
    reference = layer.input_layernorm.weight  # floating point even where projections are quantised
    cross.to(device=reference.device, dtype=reference.dtype)
    if not reference.is_meta:
        cross.copy_from(layer.self_attn, layer.input_layernorm)
        keep_weights(cross)
    return cross


def _swap(layer: Any) -> None:
    """Change the layer's class. A model spread over devices runs the bound forward of the old one; bind it anew."""
    hook = getattr(layer, "_hf_hook", None)
    if hook is None:
        layer.__class__ = _swapped(type(layer))
        return
    hooks = import_module("accelerate.hooks")
    hooks.remove_hook_from_module(layer)
    vars(layer).pop("forward", None)
    layer.__class__ = _swapped(type(layer))
    hooks.add_hook_to_module(layer, hook)


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
    hidden_states = hidden_states + _dropped(self, "resid_attn_dropout", attended)
    if cross_kv is not None:
        hidden_states = hidden_states + self.cross_attn(hidden_states, cross_kv[:, self.cross_slot], cross_mask)
    elif cross_states is not None:
        kv = self.cross_attn.project(cross_states)
        hidden_states = hidden_states + self.cross_attn(hidden_states, kv, cross_mask)
    fed = self.mlp(self.post_attention_layernorm(hidden_states))
    return hidden_states + _dropped(self, "resid_mlp_dropout", fed)


def _dropped(layer: Any, name: str, added: Tensor) -> Tensor:
    """What a sublayer adds, through the residual dropout of that name where the family has one."""
    dropout = getattr(layer, name, None)
    return added if dropout is None else dropout(added)


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
