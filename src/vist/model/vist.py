"""VIST for conditional generation: pages and text in, next tokens out.

Owns the assembly of tower, reducer and LLM, the encoding of pages, and the loss. Does not know how text becomes pages
or how training data are made; what an LLM does with a context, whatever it was, is crossed.py's.

Decisions
- `language_model` is the stock causal LM with its layers swapped (fuse/insert.py); its parameter names are the stock
  ones plus `cross_attn`. Without a context the model is that LM.
- Visual tokens that no sample uses are cut off and the others moved to the front, so padding pages, blank space and
  short contexts cost nothing and change nothing.
- Backbones are frozen from the start; whoever wants to train them says so with `requires_grad_`.
- B batch, P pages, N patches, K visual tokens per page, M visual tokens of the context, T text tokens, D width.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForImageTextToText, Cache, PreTrainedModel
from transformers import initialization as init
from transformers.utils import can_return_tuple

from vist.compress.budget import page_counts
from vist.compress.pve import pool_pages, pool_text, pve_loss
from vist.compress.reducers import LocalResampler, build_reducer
from vist.compress.resampler import PerceiverResampler
from vist.fuse.insert import CrossAttentionOptions, cross_attentions, insert_cross_attention
from vist.model.adapter import AdapterMixin
from vist.model.checkpoint import load_llm
from vist.model.configuration import VistConfig
from vist.model.crossed import CrossAttendingModel, VistOutput, VisualContext, cross_inputs
from vist.model.lora import insert_lora, is_lora, merge_lora
from vist.vision.encoder import PageFeatures, encode, freeze, load_vision_tower, num_patches, shorten


# `push_to_hub` names its options, where PreTrainedModel's takes any and hands them on.
class VistForConditionalGeneration(AdapterMixin, CrossAttendingModel):  # type: ignore[misc]
    """An LLM that reads text as tokens and distant text as the visual tokens of its pages."""

    config_class = VistConfig
    context_inputs = ("pixel_values", "ink_mask", "visual_tokens", "page_weights")
    context_processor = "VistProcessor"

    def __init__(
        self,
        config: VistConfig,
        language_model: PreTrainedModel | None = None,
        vision_tower: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        self.vision_tower = vision_tower or AutoModel.from_config(config.vision_config)
        config.text_config, config.vision_config = self.language_model.config, self.vision_tower.config
        options = CrossAttentionOptions(
            config.resampler_size,
            config.cross_gate,
            config.cross_norm,
            config.cross_output_gate,
            config.cross_subtokens,
        )
        insert_cross_attention(self.language_model, options)
        if config.lora_rank:
            insert_lora(self.language_model, config.lora_rank, config.lora_alpha, list(config.lora_targets))
        self.resampler = build_reducer(config.reducer, config, num_patches(config.vision_config))
        self.page_positions = (
            nn.Embedding(config.num_page_positions, config.resampler_size) if config.num_page_positions else None
        )
        text_size = config.text_config.hidden_size
        self.pve_projection = (
            nn.Linear(config.resampler_size, text_size, bias=False) if config.resampler_size != text_size else None
        )
        self.post_init()
        self.freeze_backbones()

    def _init_weights(self, module: nn.Module) -> None:
        """Raw parameters, which the default initialisation does not know; page codes start at zero, as if off."""
        super()._init_weights(module)
        if isinstance(module, PerceiverResampler):
            init.normal_(module.latents, std=0.02)
            init.normal_(module.cls_latent, std=0.02)
            for weight in module.merge_weights() if isinstance(module, LocalResampler) else ():
                init.zeros_(weight)
        elif module is getattr(self, "page_positions", None):
            init.zeros_(module.weight)

    @classmethod
    def from_backbones(
        cls,
        llm: str | os.PathLike[str] | PreTrainedModel,
        vision: str | os.PathLike[str] | PreTrainedModel,
        *,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        device_map: str | dict[str, Any] | None = None,
        quantization_config: Any = None,
        llm_revision: str | None = None,
        vision_revision: str | None = None,
        vision_layers: int | None = None,
        **choices: Any,
    ) -> VistForConditionalGeneration:
        """A new model around two backbones, each a Hub id, a folder or a model object (used in place, not copied).

        `choices` are fields of `VistConfig`. Both backbones are frozen; Resampler and cross-attention are new, and
        before training the model's logits are those of the LLM. `vision_layers` keeps the tower's first layers alone.
        `dtype`, `device_map`, the revisions and, for the LLM alone, `attn_implementation` and `quantization_config`
        are as for transformers' `from_pretrained`.
        Raises VistError when a backbone cannot be read or is not supported, or a choice is out of range.
        """
        where: dict[str, Any] = {"dtype": dtype, "device_map": device_map}
        if not isinstance(llm, PreTrainedModel):
            kernel = {"attn_implementation": attn_implementation, "quantization_config": quantization_config}
            llm = load_llm(llm, revision=llm_revision, **where, **kernel)
        if isinstance(vision, PreTrainedModel):
            shorten(vision, vision_layers)
        else:
            vision = load_vision_tower(vision, revision=vision_revision, layers=vision_layers, **where)
        config = cls.config_class(text_config=llm.config, vision_config=vision.config, **choices)
        config.dtype = llm.dtype
        model = cls(config, llm, vision)
        for part in (model.resampler, model.page_positions, model.pve_projection):
            if part is not None:
                part.to(device=llm.device, dtype=llm.dtype)
        model.take_generation_config(llm)
        return model

    def freeze_backbones(self) -> None:
        """Leave only Resampler, cross-attention, page codes, PVE projection and LoRA to training (paper: no LoRA)."""
        freeze(self.vision_tower)
        for name, parameter in self.language_model.named_parameters():
            parameter.requires_grad_(is_lora(name))
        for sublayer in cross_attentions(self.language_model):
            sublayer.requires_grad_(True)

    def learn_merging(self) -> None:
        """Add the weights of `local_merge` to a model trained without; nothing changes until they are trained."""
        if isinstance(self.resampler, LocalResampler) and self.resampler.merge_order is None:
            self.resampler.learn_merging()
            self.config.local_merge = True

    def merge_lora(self) -> None:
        """Add the low-rank updates to the LLM's weights and take them out; nothing changes but rounding."""
        merge_lora(self.language_model)
        self.config.lora_rank = 0

    def encode_context(
        self,
        pixel_values: Tensor,
        ink_mask: Tensor,
        visual_tokens: int | Tensor | None = None,
        page_weights: Tensor | None = None,
    ) -> VisualContext:
        """Read pages: `pixel_values` (B,P,H,W) uint8, `ink_mask` (B,P,rows,cols) bool -> visual tokens and summary.

        `visual_tokens`: how many tokens a page may have; None: all. A number, or (B,P) for each page, or (B,) in all
        for each sample, shared by `page_weights` (B,P) (`vist.compress.budget`).
        """
        device = self.vision_tower.device
        seen = encode(
            self.vision_tower,
            pixel_values.to(device),
            ink_mask.to(device),
            drop_blank=self.config.vision_drop_blank,
        )
        return self.compress_features(seen, visual_tokens, page_weights)

    def compress_features(
        self, seen: PageFeatures, visual_tokens: int | Tensor | None = None, page_weights: Tensor | None = None
    ) -> VisualContext:
        """The visual tokens of pages that were encoded before (`vist.vision.encode`, `FeatureCache`).

        `visual_tokens`, `page_weights`: as for `encode_context`.
        """
        counts_BP = page_counts(visual_tokens, page_weights, self.resampler.limits(seen.mask))
        reduced = self.resampler(seen.features.to(self.resampler.norm.weight.dtype), seen.mask, counts_BP)
        page_mask_BP = seen.mask.any(-1)
        tokens_BPKD = reduced.tokens
        if self.page_positions is not None:
            codes_BPD = self.page_positions(_pages_from_the_end(page_mask_BP, self.config.num_page_positions))
            tokens_BPKD = tokens_BPKD + codes_BPD.unsqueeze(2)
        states, mask = _compact(tokens_BPKD.flatten(1, 2), reduced.token_mask.flatten(1))
        return VisualContext(states, mask, pool_pages(reduced.cls, page_mask_BP))

    def encode_given(self, given: Mapping[str, Any]) -> VisualContext | None:
        """As ever, or from `page_features` with `page_mask`: what the tower saw of pages before."""
        features, mask = given.get("page_features"), given.get("page_mask")
        if given.get("pixel_values") is not None or features is None or mask is None:
            return super().encode_given(given)
        return self.compress_features(PageFeatures(features, mask), given["visual_tokens"], given["page_weights"])

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        ink_mask: Tensor | None = None,
        page_features: Tensor | None = None,
        page_mask: Tensor | None = None,
        cross_states: Tensor | None = None,
        cross_kv: Tensor | None = None,
        cross_mask: Tensor | None = None,
        visual_tokens: int | Tensor | None = None,
        page_weights: Tensor | None = None,
        labels: Tensor | None = None,
        context_ids: Tensor | None = None,
        context_keep: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> VistOutput:
        """Next-token logits of the text, given the pages.

        The context comes in one of four forms: `pixel_values` (B,P,H,W) with `ink_mask` (B,P,rows,cols); pages that
        were encoded before, `page_features` (B,P,N,D) with `page_mask` (B,P,N) bool; visual tokens `cross_states`
        (B,M,D); or projected `cross_kv` (B, layers, 2, Hkv, M, Dh); the last two with `cross_mask` (B,M) bool, True =
        in use. None of them: the stock LLM. `visual_tokens` and `page_weights` say how many tokens a page may have, as
        for `encode_context`.
        `labels` (B,T) gives `lm_loss`; with `context_ids` (B,L), the token ids of the context, and `context_keep`
        (B,L) bool, those left by frequency-based masking, also `pve_loss`. `num_items_in_batch`, the labels in the
        whole accumulated batch, scales both.
        """
        context = None
        if cross_states is None and cross_kv is None:
            pages = (pixel_values, ink_mask, visual_tokens, page_weights)
            given = dict(zip(self.context_inputs, pages, strict=True))
            context = self.encode_given({**given, "page_features": page_features, "page_mask": page_mask})
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
        losses = self._losses(output.logits, labels, context, context_ids, context_keep, num_items_in_batch)
        return VistOutput.of(output, **losses)

    def _losses(
        self,
        logits: Tensor,
        labels: Tensor | None,
        context: VisualContext | None,
        context_ids: Tensor | None,
        context_keep: Tensor | None,
        num_items_in_batch: Tensor | int | None,
    ) -> dict[str, Tensor]:
        """Next-token loss, PVE and their sum, as far as their inputs are there (paper: loss = LM + 1 * PVE)."""
        losses: dict[str, Tensor] = {}
        if labels is not None:
            losses["lm_loss"] = self.next_token_loss(logits, labels, num_items_in_batch)
        if context is not None and context_ids is not None and self.config.pve_weight > 0:
            losses["pve_loss"] = self._pve(context, context_ids, context_keep)
        if not losses:
            return losses
        weights = {"lm_loss": 1.0, "pve_loss": self.config.pve_weight * share_of_batch(labels, num_items_in_batch)}
        return {**losses, "loss": torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()}

    def _pve(self, context: VisualContext, context_ids: Tensor, context_keep: Tensor | None) -> Tensor:
        keep = torch.ones_like(context_ids, dtype=torch.bool) if context_keep is None else context_keep
        # The text side is the target: it must not move towards the pages where the embeddings are trained too.
        text_BD = pool_text(self.get_input_embeddings(), context_ids, keep).detach()
        visual_BD = context.cls if self.pve_projection is None else self.pve_projection(context.cls)
        valid_B = keep.any(-1) & context.mask.any(-1)
        options = (self.config.pve_temperature, valid_B, self.config.pve_normalize)
        return pve_loss(visual_BD, text_BD, *options, across_ranks=self.training)


def _pages_from_the_end(page_mask_BP: Tensor, limit: int) -> Tensor:
    """For each page how many real pages follow it, at most limit - 1 -> (B,P) int."""
    following_BP = page_mask_BP.flip(1).long().cumsum(1).flip(1) - page_mask_BP.long()
    return following_BP.clamp(max=limit - 1)


def _compact(states_BMD: Tensor, mask_BM: Tensor) -> tuple[Tensor, Tensor]:
    """Move the tokens in use to the front of each sample, keep their order, cut off what no sample uses."""
    longest = int(mask_BM.sum(1).max()) if mask_BM.numel() else 0
    order_BM = (~mask_BM).to(torch.uint8).argsort(dim=1, stable=True)[:, :longest]
    index = order_BM.unsqueeze(-1).expand(-1, -1, states_BMD.shape[-1])
    return states_BMD.gather(1, index), mask_BM.gather(1, order_BM)


def share_of_batch(labels_BT: Tensor | None, num_items_in_batch: Tensor | int | None) -> Tensor | float:
    """The part of an accumulated batch that these labels are, so that the parts of a mean loss add up to a mean."""
    if num_items_in_batch is None or labels_BT is None:
        return 1.0
    return (labels_BT[:, 1:] != -100).sum() / num_items_in_batch


AutoModelForImageTextToText.register(VistConfig, VistForConditionalGeneration, exist_ok=True)
