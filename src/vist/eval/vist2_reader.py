"""A VIST2 model behind the interface that evaluation measures models by: distant text first, then a prompt.

Owns how distant text becomes what stands before the prompt: chunks as visual tokens, and what cannot be drawn as text.
Does not know conditions or metrics.

Decisions
- Distant text and prompt are cut apart: the last chunk of the distant text is drawn however short it is, so that all of
  it is pages and none of it is text, as the conditions say. The prompt stays text throughout.
- The "states" of a context are embeddings in the LLM's sequence, and projecting them changes nothing.
- With everything finished on the left, the mask of VIST2 is the ordinary causal one; so the LLM reads by its own
  `forward`, and writes by its own `generate` behind the cache of what was read.
- B batch, M places of the context (visual tokens, and text that could not be drawn), T tokens of the prompt, S places
  in all, E levels of a visual token, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature, DynamicCache, PreTrainedTokenizerBase

from vist.errors import VistError
from vist.eval.reader import Reader
from vist.fuse.interleave import Role
from vist.model.chunks import DrawnChunk
from vist.model.crossed import VistOutput, VisualContext
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import Stretch, Vist2Processor
from vist.render import PageStyle

_CONTEXT = ("cross_states", "cross_kv")
_NAMES = ("context_ids", "roles", "pixel_values", "ink_mask", "page_chunks", "visual_counts")


class MemoryProcessor:
    """Contexts as the packed chunks of a `Vist2Processor`."""

    max_pages = None

    def __init__(self, processor: Vist2Processor) -> None:
        self.own = processor
        self.tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self.page_style: PageStyle = processor.page_style

    def __call__(self, context: Sequence[str]) -> BatchFeature:
        """`context_ids` and `roles` (B,M), and the pages as `Vist2Processor.pack` returns them.

        Raises VistError when the aligner cannot give the ratio.
        """
        rows = [self._stretches(text) for text in context]
        self.own.check_ratio([row for row in rows if len(row[0].ids) > 1 or len(row) > 1])
        packed = self.own.pack([[row] for row in rows], padding_side="left")
        packed["context_ids"] = packed.pop("input_ids")
        return BatchFeature({name: packed[name] for name in _NAMES if name in packed})

    def _stretches(self, text: str) -> list[Stretch]:
        found: list[Stretch] = []
        for piece in self.own.pieces(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids):
            drawn = self.own.draw(piece.ids) if piece.kind != "special" else None
            pages = isinstance(drawn, DrawnChunk)
            found += self.own.frame(drawn) if pages else [Stretch(Role.KEPT, list(piece.ids))]  # type: ignore[arg-type]
        return found or [Stretch(Role.KEPT, [])]


class MemoryModel:
    """A VIST2 model that reads a context as pages, as a VIST model does: `encode_context`, `forward`, `generate`."""

    def __init__(self, model: Vist2ForCausalLM) -> None:
        self.model, self.config = model, model.config
        self.language_model: Any = model.language_model  # its `generate` comes from a mixin that the type leaves out

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    def to(self, place: str | torch.device) -> MemoryModel:
        """Move the model there."""
        self.model.to(place)  # type: ignore[arg-type]  # torch's stubs know fewer overloads
        return self

    def encode_context(
        self, context_ids: Tensor | None = None, roles: Tensor | None = None, **pages: Any
    ) -> VisualContext:
        """`MemoryProcessor`'s tensors as embeddings (B,M,E,D) and which are real (B,M); the summary is not there.

        Raises VistError for pages without chunks: a measure that draws pages itself cannot measure VIST2.
        """
        if context_ids is None or roles is None:
            raise VistError(
                "This measure draws pages itself, but a VIST2 model reads chunks; measure it with `vist eval lm`, "
                "`vist eval recall`, `vist eval longwrite` or `vist demo`."
            )
        states = self.model.embed(context_ids, roles, **pages)
        return VisualContext(states, roles != int(Role.PADDING), states.new_zeros(len(states), 0))

    def project_context(self, states: Tensor) -> Tensor:
        """Nothing is projected: the LLM makes keys and values when it reads."""
        return states

    def __call__(self, *args: Any, **kwargs: Any) -> VistOutput:
        """`forward`."""
        return self.forward(*args, **kwargs)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, logits_to_keep: int = 0, **context: Any
    ) -> VistOutput:
        """Logits of the prompt (B,T) after its start token and the context: states (B,M,E,D), or what to encode."""
        context.pop("use_cache", None)
        embeds, mask = self._before(input_ids, attention_mask, context)
        keep = logits_to_keep or input_ids.shape[1]
        position = (mask.cumsum(1) - 1).clamp(min=0)
        output = self.model.read(
            embeds, attention_mask=mask, position_ids=position, use_cache=False, logits_to_keep=keep
        )
        return VistOutput(logits=output.logits)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Continue the prompts (B,T) -> (B,T + new); options as for the LLM's `generate`."""
        names = (*_CONTEXT, *_NAMES, "cross_mask")
        context = {name: options.pop(name) for name in names if name in options}
        embeds, mask = self._before(input_ids, attention_mask, context)
        cache = DynamicCache()
        position = (mask.cumsum(1) - 1).clamp(min=0)
        read = {"attention_mask": mask[:, :-1], "position_ids": position[:, :-1], "past_key_values": cache}
        if embeds.shape[1] > 1:
            self.model.read(embeds[:, :-1], **read, use_cache=True, logits_to_keep=1)
        ids = torch.nn.functional.pad(input_ids, (mask.shape[1] - input_ids.shape[1], 0))
        options = {"past_key_values": cache, "use_cache": True, **options}  # LLMs saved by a trainer may say False
        found = self.language_model.generate(input_ids=ids, attention_mask=mask, **options)
        return found[:, mask.shape[1] - input_ids.shape[1] :]

    def _before(
        self, input_ids: Tensor, attention_mask: Tensor | None, context: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Embeddings (B,S,E,D) and mask (B,S) of [padding, start token, context, rest of the prompt]."""
        prompt = self.model.embed(input_ids, torch.full_like(input_ids, int(Role.TEXT)))
        there = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = next((context[name] for name in _CONTEXT if context.get(name) is not None), None)
        mask = context.get("cross_mask")
        if states is None and "context_ids" in context:
            found = self.encode_context(**context)
            states, mask = found.states, found.mask
        if states is None or states.shape[1] == 0:
            return prompt, there.long()
        assert mask is not None
        rows = []
        for own, real, before, seen in zip(prompt, there.bool(), states.to(prompt), mask.bool(), strict=True):
            start, *rest = own[real].split([1, int(real.sum()) - 1])
            rows.append(torch.cat([start, before[seen], *rest]))
        longest = max(len(row) for row in rows)
        embeds = torch.stack([torch.nn.functional.pad(row, (0, 0, 0, 0, longest - len(row), 0)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows], device=embeds.device)
        return embeds, (torch.arange(longest, device=embeds.device) >= longest - lengths[:, None]).long()


def memory_reader(model: Vist2ForCausalLM, processor: Vist2Processor) -> Reader:
    """A VIST2 model and its processor, ready to be measured beside VIST models."""
    return Reader(MemoryModel(model.eval()), MemoryProcessor(processor))
