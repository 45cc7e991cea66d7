"""An LLM that reads distant text through an encoder of text: what VIST is compared with at equal ratio.

Owns the assembly of text encoder and LLM. Does not know what the encoders do: "cepe" (cepe.py), "pooled" (pooled.py),
"hierarchical" (hierarchical.py).

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
from typing import Any

from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Cache, PreTrainedModel
from transformers.utils import can_return_tuple

from vist.baselines.cepe import CepeEncoder
from vist.baselines.configuration import TextContextConfig
from vist.baselines.hierarchical import HierarchicalEncoder
from vist.baselines.pooled import PooledEncoder
from vist.fuse.insert import CrossAttentionOptions, cross_attentions, insert_cross_attention
from vist.model.checkpoint import load_llm
from vist.model.crossed import CrossAttendingModel, VistOutput, VisualContext, cross_inputs

TEXT_ENCODERS: dict[str, Any] = {"cepe": CepeEncoder, "pooled": PooledEncoder, "hierarchical": HierarchicalEncoder}


class TextContextForConditionalGeneration(CrossAttendingModel):
    """An LLM that reads text as tokens and distant text as the states of a text encoder."""

    config_class = TextContextConfig
    context_inputs = ("context_ids", "context_mask")
    context_processor = "TextContextProcessor"

    def __init__(self, config: TextContextConfig, language_model: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        config.text_config = self.language_model.config
        gates = (config.cross_gate, config.cross_norm, config.cross_output_gate, config.cross_subtokens)
        insert_cross_attention(self.language_model, CrossAttentionOptions(config.states_size, *gates))
        self.encoder = TEXT_ENCODERS[config.encoder](config)
        self.post_init()
        self.freeze_backbones()

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
        model.take_generation_config(llm)
        return model

    def freeze_backbones(self) -> None:
        """Leave only the text encoder and the cross-attention to training."""
        self.language_model.requires_grad_(False)
        for sublayer in cross_attentions(self.language_model):
            sublayer.requires_grad_(True)

    def encode_context(self, context_ids: Tensor, context_mask: Tensor) -> VisualContext:
        """Read a text: `context_ids` (B,L), `context_mask` (B,L) bool -> context tokens (B,M,D) and their mean."""
        device = self.language_model.device
        ids, mask = context_ids.to(device), context_mask.to(device).bool()
        states, alive = self.encoder(ids, self.get_input_embeddings()(ids), mask)
        weight = alive.unsqueeze(-1).to(states.dtype)
        return VisualContext(states, alive, (states * weight).sum(1) / weight.sum(1).clamp(min=1))

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
        context = None
        if cross_states is None and cross_kv is None:
            context = self.encode_given({"context_ids": context_ids, "context_mask": context_mask})
        if context is not None:
            cross_states, cross_mask = context.states, context.mask
        output = self.language_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **cross_inputs(cross_states, cross_kv, cross_mask),
            **kwargs,
        )
        loss = None if labels is None else self.next_token_loss(output.logits, labels, num_items_in_batch)
        return VistOutput.of(output, loss=loss, lm_loss=loss)


AutoModelForImageTextToText.register(TextContextConfig, TextContextForConditionalGeneration, exist_ok=True)
