"""What the methods that train nothing have in common: the LLM itself reads the distant text, as text.

Owns the interface: the same inputs as a model with a text context, `forward` and `generate`. Does not know how the text
is read; streaming.py and replug.py say that.

Decisions
- The LLM is used in place, swapped layers and all: without a context given to its cross-attention it is the stock LLM.
- The "states" of a context are its token ids, and projecting them changes nothing: so whoever encodes once and asks
  often, as evaluation does, treats these methods like all others.
- A text is read as [start token, context, rest of the prompt], as the condition "full text" of evaluation is.
- B batch, L text tokens of the context, T tokens of the prompt, S tokens of one row, V vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from vist.model.crossed import VistOutput, VisualContext


class PlainTextModel(ABC):
    """An LLM that reads a context as text in some way of its own."""

    def __init__(self, language_model: PreTrainedModel) -> None:
        self.language_model: Any = language_model
        self.config = SimpleNamespace(text_config=language_model.config)

    @property
    def device(self) -> torch.device:
        """Where the LLM is."""
        return self.language_model.device

    def encode_context(self, context_ids: Tensor, context_mask: Tensor) -> VisualContext:
        """The context as it is: ids (B,L) and which are real (B,L); the summary is not there."""
        ids = context_ids.to(self.device)
        return VisualContext(ids, context_mask.to(self.device).bool(), ids.new_zeros(len(ids), 0))

    def project_context(self, states: Tensor) -> Tensor:
        """Nothing is projected: the LLM makes keys and values when it reads."""
        return states

    def __call__(self, *args: Any, **kwargs: Any) -> VistOutput:
        """`forward`."""
        return self.forward(*args, **kwargs)

    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        logits_to_keep: int = 0,
        use_cache: bool | None = None,
        **context: Tensor | None,
    ) -> VistOutput:
        """Log-probabilities (B,K,V), float32, of what follows each of the last K = `logits_to_keep` tokens; 0 = all.

        The context comes as `context_ids`, `cross_states` or `cross_kv` (B,L), all of them ids, with `context_mask` or
        `cross_mask` (B,L). Positions before a prompt's first token (padding on the left) are zero.
        """
        prompts, contexts = self._rows(input_ids, attention_mask, context)
        keep = logits_to_keep or input_ids.shape[1]
        scores = input_ids.new_zeros(len(prompts), keep, self.config.text_config.vocab_size, dtype=torch.float32)
        for number, (prompt, text) in enumerate(zip(prompts, contexts, strict=True)):
            wanted = min(keep, len(prompt))
            scores[number, keep - wanted :] = self.read(prompt, text, wanted)
        return VistOutput(logits=scores)

    @torch.no_grad()
    def generate(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Tensor:
        """Continue the prompts (B,T) -> (B,T + new), shorter answers padded; options as for `generate`, no beams."""
        names = ("context_ids", "context_mask", "cross_states", "cross_kv", "cross_mask")
        context = {name: options.pop(name) for name in names if name in options}
        prompts, contexts = self._rows(input_ids, attention_mask, context)
        new = [self.write(prompt, text, options) for prompt, text in zip(prompts, contexts, strict=True)]
        padding = self.config.text_config.pad_token_id
        rows = torch.full((len(new), max(len(row) for row in new)), 0 if padding is None else padding)
        for number, row in enumerate(new):
            rows[number, : len(row)] = row
        return torch.cat([input_ids, rows.to(input_ids.device)], dim=1)

    @abstractmethod
    def read(self, prompt: Tensor, text: Tensor, keep: int) -> Tensor:
        """Log-probabilities (keep,V), float32, after the last tokens of one prompt (T,), the context (L,) before it."""

    @abstractmethod
    def write(self, prompt: Tensor, text: Tensor, options: dict[str, Any]) -> Tensor:
        """The new tokens after one prompt (T,), the context (L,) before it."""

    def _rows(
        self, input_ids: Tensor, attention_mask: Tensor | None, context: dict[str, Tensor | None]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Prompts and contexts of all samples without their padding."""
        ids = next(
            (context[name] for name in ("context_ids", "cross_states", "cross_kv") if _there(context, name)), None
        )
        mask = next((context[name] for name in ("context_mask", "cross_mask") if _there(context, name)), None)
        prompt_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        prompts = [row[real.bool()] for row, real in zip(input_ids, prompt_mask, strict=True)]
        if ids is None:
            return prompts, [input_ids.new_zeros(0) for _ in prompts]
        real_BL = torch.ones_like(ids) if mask is None else mask
        return prompts, [row[real.bool()].to(self.device) for row, real in zip(ids, real_BL, strict=True)]


def _there(context: dict[str, Tensor | None], name: str) -> bool:
    return context.get(name) is not None


def whole(prompt: Tensor, text: Tensor) -> Tensor:
    """(S,) the start token, the context, the rest of the prompt."""
    return torch.cat([prompt[:1], text, prompt[1:]])
