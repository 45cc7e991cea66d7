"""From strings to the model's inputs: the context becomes pages, the prompt becomes token ids.

Owns the batch: which sample has how many pages, padding on both sides. Does not know how a page is drawn (render/) nor
what the model does with it.

Decisions
- Prompts are padded on the left, so that generation continues every sample at its end.
- Samples with fewer pages than others get blank pages behind theirs: no ink, so they cost nothing and change nothing.
- A tokenizer without a padding token pads with its end token; the attention mask hides it either way.
- The page style is stored with the processor: by name if it is a preset, in full otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin

from vist.errors import CheckpointError, VistError
from vist.model.checkpoint import check_folder, first_line
from vist.model.configuration import VistConfig
from vist.render import PAGE_STYLES, Pages, PageStyle, render


class VistProcessor(ProcessorMixin):
    """Tokenizer and page renderer behind one call.

    `style` is the name of a page style, a `PageStyle` or its `to_dict`; it must be the one the model was trained on.
    `max_pages` limits the pages of one context (None = the style's own limit).
    """

    model_input_names = ["input_ids", "attention_mask", "pixel_values", "ink_mask"]

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        style: str | dict[str, Any] | PageStyle = "vist",
        max_pages: int | None = None,
        chat_template: str | None = None,
    ) -> None:
        self.page_style = PageStyle.from_dict(style) if isinstance(style, dict) else PageStyle.named(style)
        preset = PAGE_STYLES.get(self.page_style.name) == self.page_style
        self.style = self.page_style.name if preset else self.page_style.to_dict()
        if max_pages is not None and max_pages <= 0:
            raise VistError(f"max_pages must be positive, got {max_pages}; leave it out for no limit.")
        self.max_pages = max_pages
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        super().__init__(tokenizer, chat_template=chat_template)

    def __call__(
        self,
        context: str | Sequence[str | None] | None = None,
        prompt: str | Sequence[str] | None = None,
        return_tensors: str | None = "pt",
        padding: bool | str = True,
        max_pages: int | None = None,
        **tokenizer_options: Any,
    ) -> BatchFeature:
        """Build the inputs of a batch.

        `context`: the distant text, one string for all prompts or one (or None) per prompt. `prompt`: the near text.
        Returns `input_ids` and `attention_mask` (B,T), and, if any sample has a context, `pixel_values` (B,P,H,W)
        uint8 with `ink_mask` (B,P,rows,cols) bool. Without a prompt only the pages are returned.
        Raises VistError when both are missing, a prompt has no tokens, the two lists differ in length, or a context
        needs more pages than allowed.
        """
        if context is None and prompt is None:
            raise VistError("Nothing to process: pass prompt=..., and context=... for the text to be read as pages.")
        prompts = [prompt] if isinstance(prompt, str) else None if prompt is None else list(prompt)
        contexts = _per_sample(context, None if prompts is None else len(prompts))
        inputs = {} if prompts is None else self._tokenize(prompts, padding, tokenizer_options)
        inputs.update(self._draw(contexts, max_pages if max_pages is not None else self.max_pages))
        return BatchFeature(inputs, tensor_type=return_tensors)

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Text of one sequence of token ids."""
        return self.tokenizer.decode(token_ids, **options)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Texts of several sequences of token ids."""
        return self.tokenizer.batch_decode(sequences, **options)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved processor. Raises CheckpointError with one sentence when it is missing or unreadable."""
        check_folder(pretrained_model_name_or_path)
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except (OSError, TypeError, KeyError, ValueError) as error:
            source = str(pretrained_model_name_or_path)
            raise CheckpointError(f"Cannot load a VIST processor from {source!r}: {first_line(error)}") from error

    def _tokenize(self, prompts: list[str], padding: bool | str, options: dict[str, Any]) -> dict[str, Any]:
        encoded = self.tokenizer(prompts, padding=padding, padding_side="left", **options)
        for number, mask in enumerate(encoded["attention_mask"]):
            if not any(mask):
                raise VistError(f"Prompt {number} ({prompts[number]!r}) has no tokens; the model needs at least one.")
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def _draw(self, contexts: list[str | None], max_pages: int | None) -> dict[str, np.ndarray]:
        """Pages of every sample, padded to the longest with pages without ink; nothing if no sample has pages."""
        drawn = {text: render(text, self.page_style, max_pages=max_pages) for text in dict.fromkeys(contexts) if text}
        pages = max((len(drawn[text].pixels) for text in contexts if text), default=0)
        if pages == 0:
            return {}
        style = self.page_style
        pixels = np.full((len(contexts), pages, style.height, style.width), style.background, dtype=np.uint8)
        ink = np.zeros((len(contexts), pages, style.rows, style.cols), dtype=bool)
        for sample, text in enumerate(contexts):
            if text:
                own: Pages = drawn[text]
                pixels[sample, : len(own.pixels)] = own.pixels
                ink[sample, : len(own.ink)] = own.ink
        return {"pixel_values": pixels, "ink_mask": ink}


def _per_sample(context: str | Sequence[str | None] | None, prompts: int | None) -> list[str | None]:
    """One context per prompt. Raises VistError when the numbers differ."""
    if context is None or isinstance(context, str):
        return [context] * (prompts or 1)
    contexts = list(context)
    if prompts is not None and len(contexts) != prompts:
        raise VistError(f"Got {len(contexts)} contexts for {prompts} prompts; pass one per prompt (None for none).")
    return contexts


AutoProcessor.register(VistConfig, VistProcessor, exist_ok=True)
