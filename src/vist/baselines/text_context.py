"""An LLM that reads distant text through an encoder of text: what VIST is compared with at equal ratio.

Owns the assembly of text encoder and LLM, the loss, and generation with a context. Does not know what the encoders do:
"cepe" (cepe.py), "pooled" (pooled.py), "hierarchical" (hierarchical.py).

Decisions
- The cross-attention, its start from self-attention, `cross_states`, `cross_kv` and `cross_mask` are VIST's own. Only
  what comes in differs: `context_ids` with `context_mask` in the place of pages with their ink.
- There is no PVE: it ties pages to text, and here there is nothing but text.
- The LLM is frozen; cross-attention and encoder are trained. (VIST's tower is frozen because it was trained before;
  these encoders are new.)
- B batch, L text tokens of the context, M context tokens, T text tokens, D width.
"""

from __future__ import annotations

import os
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Cache, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from vist.baselines.cepe import CepeEncoder
from vist.baselines.configuration import TextContextConfig
from vist.baselines.hierarchical import HierarchicalEncoder
from vist.baselines.pooled import PooledEncoder
from vist.errors import VistError
from vist.fuse.cross_attention import CrossAttention
from vist.fuse.insert import CrossAttentionOptions, cross_attentions, insert_cross_attention, project_states
from vist.model.checkpoint import checked_loading
from vist.model.composed import ComposedModel
from vist.model.vist import VistOutput, VisualContext, load_llm

TEXT_ENCODERS: dict[str, Any] = {"cepe": CepeEncoder, "pooled": PooledEncoder, "hierarchical": HierarchicalEncoder}


class TextContextForConditionalGeneration(ComposedModel, GenerationMixin):
    """An LLM that reads text as tokens and distant text as the states of a text encoder."""

    config_class = TextContextConfig
    base_model_prefix = ""
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True
    _supports_sdpa = True
    _skip_keys_device_placement = ["past_key_values"]

    def __init__(self, config: TextContextConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        config.text_config = self.language_model.config
        gates = (config.cross_gate, config.cross_norm, config.cross_output_gate, config.cross_subtokens)
        insert_cross_attention(self.language_model, CrossAttentionOptions(config.states_size, *gates))
        self.encoder = TEXT_ENCODERS[config.encoder](config)
        self.post_init()
        self.freeze_backbones()

    def _init_weights(self, module: nn.Module) -> None:
        """As VIST: the cross-attention starts without effect."""
        super()._init_weights(module)
        if isinstance(module, CrossAttention):
            init.zeros_(module.o_proj.weight if module.gate is None else module.gate)
            if module.g_proj is not None:
                init.zeros_(module.g_proj.weight)
                init.ones_(module.g_proj.bias)
            if module.null_key is not None:
                init.zeros_(module.null_key)

    @classmethod
    def from_language_model(
        cls, llm: str | os.PathLike[str] | PreTrainedModel, **choices: Any
    ) -> TextContextForConditionalGeneration:
        """A new model around an LLM: a Hub id, a folder or a model object (used in place, not copied).

        `choices` are fields of `TextContextConfig`. Before training the model's logits are those of the LLM.
        Raises VistError when the LLM cannot be read or is not supported, or a choice is out of range.
        """
        if not isinstance(llm, PreTrainedModel):
            llm = load_llm(llm)
        config = TextContextConfig(text_config=llm.config, **choices)
        config.dtype = llm.dtype
        model = cls(config, llm)
        model.encoder.to(device=llm.device, dtype=llm.dtype)
        if model.generation_config is not None and llm.generation_config is not None:
            model.generation_config = llm.generation_config
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model, strictly. Raises CheckpointError as `VistForConditionalGeneration.from_pretrained`."""
        loaded = checked_loading(
            super().from_pretrained, cls.config_class.model_type, pretrained_model_name_or_path, *args, **kwargs
        )
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.freeze_backbones()
        return loaded

    def train(self, mode: bool = True) -> Self:
        """Training mode for all parts; there is no tower to keep out of it."""
        return super(ComposedModel, self).train(mode)

    def freeze_backbones(self) -> None:
        """Leave only the text encoder and the cross-attention to training."""
        self.language_model.requires_grad_(False)
        for sublayer in cross_attentions(self.language_model):
            sublayer.requires_grad_(True)

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        """Names and parameters that training changes."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def encode_context(self, context_ids: Tensor, context_mask: Tensor) -> VisualContext:
        """Read a text: `context_ids` (B,L), `context_mask` (B,L) bool -> context tokens (B,M,D) and their mean."""
        device = self.language_model.device
        ids, mask = context_ids.to(device), context_mask.to(device).bool()
        states, alive = self.encoder(ids, self.get_input_embeddings()(ids), mask)
        weight = alive.unsqueeze(-1).to(states.dtype)
        return VisualContext(states, alive, (states * weight).sum(1) / weight.sum(1).clamp(min=1))

    def project_context(self, states: Tensor) -> Tensor:
        """Keys and values of all layers, once per context: (B,M,D) -> `cross_kv` (B, layers, 2, Hkv, M, Dh)."""
        return project_states(self.language_model, states)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        context_ids: Tensor | None = None,
        context_mask: Tensor | None = None,
        cross_states: Tensor | None = None,
        cross_kv: Tensor | None = None,
        cross_mask: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> VistOutput:
        """Next-token logits of the text, given the distant text.

        The context comes as `context_ids` (B,L) with `context_mask` (B,L), or in the two later forms that VIST's
        `forward` takes too. None of them: the stock LLM. `labels` (B,T) gives `lm_loss`.
        """
        if context_ids is not None and cross_states is None and cross_kv is None:
            cross_states, cross_mask, _ = self.encode_context(context_ids, _required(context_mask))
        if cross_states is not None or cross_kv is not None:
            kwargs["cross_states"], kwargs["cross_kv"] = cross_states, cross_kv
            kwargs["cross_mask"] = None if cross_mask is None else cross_mask[:, None, None, :]
        output = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **kwargs,
        )
        loss = None
        if labels is not None:
            size = self.config.text_config.vocab_size
            loss = self.loss_function(
                logits=output.logits, labels=labels, vocab_size=size, num_items_in_batch=num_items_in_batch
            )
        return VistOutput(
            loss=loss,
            logits=output.logits,
            past_key_values=output.past_key_values,
            hidden_states=output.hidden_states,
            attentions=output.attentions,
            lm_loss=loss,
        )

    @torch.no_grad()
    def generate(self, inputs: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """Continue `input_ids`, given the distant text; every option of transformers' `generate` works.

        The text is encoded and projected once, before the first token; `cross_states` or `cross_kv` with `cross_mask`
        may be passed instead.
        """
        context_ids, context_mask = kwargs.pop("context_ids", None), kwargs.pop("context_mask", None)
        states = kwargs.pop("cross_states", None)
        if context_ids is not None and states is None and kwargs.get("cross_kv") is None:
            states, kwargs["cross_mask"], _ = self.encode_context(context_ids, _required(context_mask))
        if states is not None:
            kwargs["cross_kv"] = self.project_context(states)
        return super().generate(inputs, *args, **kwargs)  # type: ignore[misc]


def _required(context_mask: Tensor | None) -> Tensor:
    if context_mask is None:
        raise VistError("context_ids came without context_mask; pass both, as TextContextProcessor returns them.")
    return context_mask


AutoModelForImageTextToText.register(TextContextConfig, TextContextForConditionalGeneration, exist_ok=True)
