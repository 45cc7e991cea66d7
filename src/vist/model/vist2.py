"""VIST2: an LLM whose history is pages. Encoder, modal aligner, LLM; one causal sequence of text and visual tokens.

Owns the assembly, the teacher-forced forward over interleaved sequences, the loss, and `generate`. The loop that
drops finished text while writing is chunked_generation.py. Source: VIST2 (arXiv 2601.10378).

Decisions
- The LLM stays stock: visual tokens are embeddings in its sequence, and mask and positions are arguments. So any
  decoder works whose attention is full and causal; the families with a test are accepted.
- Without `roles` the model is that LLM, to the bit.
- Sliding windows are not applied: what is distant is visual already, and the mask says who is seen.
- The tower is frozen from the start, the LLM is not: in VIST2 it learns to read visual tokens.
- A visual token may have levels for several of the LLM's layers (fuse/levels.py). A text token has the first only.
- B batch, T places of the sequence, P pages, C chunks, M visual tokens of the batch, E levels, D width.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AutoModel, AutoModelForCausalLM, Cache, GenerationConfig, GenerationMixin, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ModelOutput
from transformers.utils import can_return_tuple

from vist.compress.aligner import build_aligner, pack_patches
from vist.compress.resampler import PerceiverResampler
from vist.errors import VistError
from vist.fuse.interleave import Interleaving, Role, layout_mask, positions
from vist.fuse.levels import LEVELS, take_levels
from vist.model.checkpoint import load_llm
from vist.model.chunked_generation import chunked_sample, nothing_written, read_context, read_request
from vist.model.chunked_state import ChunkedState
from vist.model.composed import ComposedModel
from vist.model.vist2_configuration import Vist2Config
from vist.vision.encoder import encode, freeze, load_vision_tower, patch_grid

SUPPORTED_FAMILIES = ("llama", "mistral", "qwen3")


@dataclass
class Vist2Output(ModelOutput):
    """`loss` is the mean over the places that predict something; the rest as any causal LM returns it."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Vist2ForCausalLM(ComposedModel, GenerationMixin):
    """A causal LM that sees finished chunks of its text as the visual tokens of their pages."""

    config_class = Vist2Config
    _supports_flex_attn = True

    def __init__(
        self,
        config: Vist2Config,
        language_model: PreTrainedModel | None = None,
        vision_tower: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        if config.text_config.model_type not in SUPPORTED_FAMILIES:
            raise VistError(
                f"The LLM family {config.text_config.model_type!r} is not tested with VIST2; "
                f"supported families: {', '.join(SUPPORTED_FAMILIES)}."
            )
        self.language_model = language_model or AutoModelForCausalLM.from_config(config.text_config)
        self.vision_tower = vision_tower or AutoModel.from_config(config.vision_config)
        config.text_config, config.vision_config = self.language_model.config, self.vision_tower.config
        self.aligner = build_aligner(config)
        if config.visual_levels > 1:
            take_levels(self.language_model)
        self.post_init()
        self.freeze_backbones()

    def _init_weights(self, module: nn.Module) -> None:
        """Raw parameters, which the default initialisation does not know."""
        super()._init_weights(module)
        if isinstance(module, PerceiverResampler):
            init.normal_(module.latents, std=0.02)
            init.normal_(module.cls_latent, std=0.02)

    @classmethod
    def from_backbones(
        cls,
        llm: str | os.PathLike[str] | PreTrainedModel,
        vision: str | os.PathLike[str] | PreTrainedModel,
        *,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        **choices: Any,
    ) -> Vist2ForCausalLM:
        """A new model around two backbones, each a Hub id, a folder or a model object (used in place, not copied).

        `choices` are fields of `Vist2Config`. The aligner is new; its tokens have the size of the LLM's embeddings.
        Raises VistError when a backbone cannot be read or is not supported, or a choice is out of range.
        """
        if not isinstance(llm, PreTrainedModel):
            llm = load_llm(llm, dtype=dtype, attn_implementation=attn_implementation)
        vision = vision if isinstance(vision, PreTrainedModel) else load_vision_tower(vision, dtype)
        config = Vist2Config(text_config=llm.config, vision_config=vision.config, **choices)
        config.dtype = llm.dtype
        model = cls(config, llm, vision)
        model.aligner.to(device=llm.device, dtype=llm.dtype)
        embeddings: Any = llm.get_input_embeddings()
        nn.init.constant_(model.aligner.norm.weight, float(embeddings.weight.detach().float().std()))
        model.take_generation_config(llm)
        return model

    def freeze_backbones(self) -> None:
        """Take the vision tower out of training; LLM and aligner stay in."""
        freeze(self.vision_tower)

    def encode_chunks(
        self, pixel_values: Tensor, ink_mask: Tensor, page_chunks: Tensor, visual_counts: Tensor
    ) -> Tensor:
        """Read pages: -> (M,E,D), the visual tokens of all chunks, sample by sample and chunk by chunk.

        `pixel_values` (B,P,H,W) uint8, `ink_mask` (B,P,rows,cols) bool on the tower's grid of patches, `page_chunks`
        (B,P), to which chunk of its sample a page belongs (-1 = none), `visual_counts` (B,C), tokens of each chunk.
        Raises VistError when a cell of the page is no patch of the tower, or the aligner has no room.
        """
        grid = patch_grid(self.vision_tower.config, *pixel_values.shape[-2:])
        if grid != tuple(ink_mask.shape[-2:]):
            raise VistError(
                f"The pages have {ink_mask.shape[-2]} x {ink_mask.shape[-1]} cells but the vision tower sees "
                f"{grid[0]} x {grid[1]} patches; draw with a page style whose row_height is the tower's patch size."
            )
        device = self.vision_tower.device
        seen = encode(self.vision_tower, pixel_values.to(device), ink_mask.to(device))
        chunks = visual_counts.shape[1]
        packed, there = pack_patches(seen.features, seen.mask, page_chunks.to(device), chunks)
        counts = visual_counts.to(device).flatten()
        used = counts > 0
        tokens_XKED = self.aligner(packed[used].to(self.aligner.norm.weight.dtype), there[used], counts[used])
        alive_XK = torch.arange(tokens_XKED.shape[1], device=device) < counts[used][:, None]
        return tokens_XKED[alive_XK]

    def embed(
        self,
        input_ids: Tensor | None,
        roles: Tensor,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        ink_mask: Tensor | None = None,
        page_chunks: Tensor | None = None,
        visual_counts: Tensor | None = None,
        visual_tokens: Tensor | None = None,
    ) -> Tensor:
        """The embeddings of a sequence, visual tokens in their places -> (B,T,E,D); text has the first level only.

        `visual_tokens` (M,E,D), as `encode_chunks` returns them, spare the pages a second reading.

        Raises VistError when the places and the visual tokens of a sample differ in number.
        """
        if inputs_embeds is None:
            assert input_ids is not None
            inputs_embeds = self.get_input_embeddings()(input_ids)
        places = roles == int(Role.VISUAL)
        wanted = places.sum(1)
        given = torch.zeros_like(wanted) if visual_counts is None else visual_counts.sum(1).to(wanted.device)
        if not torch.equal(wanted, given):
            sample = int((wanted != given).nonzero()[0])
            raise VistError(
                f"Sample {sample} has {int(wanted[sample])} places for visual tokens but its pages bring "
                f"{int(given[sample])}; pass roles and visual_counts of the same sequence."
            )
        if visual_tokens is None and pixel_values is not None:
            assert ink_mask is not None and page_chunks is not None and visual_counts is not None
            visual_tokens = self.encode_chunks(pixel_values, ink_mask, page_chunks, visual_counts)
        above = inputs_embeds.new_zeros(*roles.shape, self.config.visual_levels - 1, inputs_embeds.shape[-1])
        embeds_BTED = torch.cat([inputs_embeds.unsqueeze(2), above], dim=2)
        if visual_tokens is None:
            return embeds_BTED
        return embeds_BTED.masked_scatter(places[..., None, None], visual_tokens.to(inputs_embeds))

    def _slides(self) -> bool:
        """Whether the LLM's own mask would hide what is far back."""
        return getattr(self.language_model.config, "sliding_window", None) is not None

    def read(self, embeds_BTED: Tensor, **options: Any) -> Any:
        """One pass of the LLM over embeddings as `embed` makes them; options and output are those of its `forward`."""
        if embeds_BTED.shape[2] > 1:
            options[LEVELS] = embeds_BTED[:, :, 1:]
        return self.language_model(inputs_embeds=embeds_BTED[:, :, 0], **options)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | BlockMask | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        roles: Tensor | None = None,
        spans: Tensor | None = None,
        documents: Tensor | None = None,
        pixel_values: Tensor | None = None,
        ink_mask: Tensor | None = None,
        page_chunks: Tensor | None = None,
        visual_counts: Tensor | None = None,
        visual_tokens: Tensor | None = None,
        labels: Tensor | None = None,
        shift_labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs: Any,
    ) -> Vist2Output:
        """Logits of an interleaved sequence, teacher-forced, as `Vist2Processor.pack` builds it.

        `roles`, `spans`, `documents` (B,T): see fuse/interleave.py; the pages as in `encode_chunks`, or what that
        returned as `visual_tokens` (M,E,D). `inputs_embeds` (B,T,D) replaces the text's embeddings. `shift_labels`
        (B,T): the token that each place predicts, -100 = none; `labels` as usual, for plain text.
        Without `roles` this is the stock LLM.
        """
        if roles is not None:
            assert spans is not None and documents is not None
            layout = Interleaving(roles, spans, documents)
            pages = (pixel_values, ink_mask, page_chunks, visual_counts, visual_tokens)
            embeds_BTED = self.embed(input_ids, roles, inputs_embeds, *pages)
            kernel = self.language_model.config._attn_implementation
            output = self.read(
                embeds_BTED,
                attention_mask=layout_mask(layout, kernel, embeds_BTED.dtype, own_causal=not self._slides()),
                position_ids=positions(layout),
                past_key_values=past_key_values,
                use_cache=bool(use_cache),
                logits_to_keep=logits_to_keep,
                **kwargs,
            )
        else:
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
        if labels is not None or shift_labels is not None:
            loss = self.next_token_loss(output.logits, labels, num_items_in_batch, shift_labels=shift_labels)
        return Vist2Output(loss, output.logits, output.past_key_values, output.hidden_states, output.attentions)

    @torch.no_grad()
    def generate(  # type: ignore[override]
        self, inputs: Tensor | None = None, generation_config: GenerationConfig | None = None, **kwargs: Any
    ) -> Any:
        """Continue `input_ids`: every finished chunk, read or written, becomes visual tokens.

        `processor` (a `Vist2Processor`) cuts and draws; it is needed. `state` (a `ChunkedState`) goes on where an
        earlier call with `return_dict_in_generate` ended, was interrupted or was saved. The usual options of sampling,
        stopping and streaming work; beams, assistants and other ways to search are refused.
        Raises VistError for a request that cannot be served.
        """
        request = read_request(self, inputs, generation_config, kwargs)
        if request.nothing_to_write:
            return nothing_written(self, request)
        loop = partial(
            chunked_sample, streamer=kwargs.get("streamer"), processor=request.processor, state=request.state
        )
        ours = {"attention_mask": request.attention_mask, "custom_generate": loop, **kwargs}
        return super().generate(request.ids, generation_config, **ours)  # type: ignore[misc]

    def start(self, processor: Any, input_ids: Tensor, attention_mask: Tensor | None = None) -> ChunkedState:
        """Read a context, to be continued by `generate(state=...)`: finished chunks as pages, the rest as text."""
        return read_context(self, processor, input_ids, attention_mask)


AutoModelForCausalLM.register(Vist2Config, Vist2ForCausalLM, exist_ok=True)
