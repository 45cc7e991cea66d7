"""From strings to the model's inputs: the context becomes pages, the prompt becomes token ids.

Owns the batch: which sample has how many pages, padding on both sides. Does not know how a page is drawn (render/) nor
what the model does with it.

Decisions
- Prompts are padded on the left, so that generation continues every sample at its end.
- Samples with fewer pages than others get blank pages behind theirs: no ink, so they cost nothing and change nothing.
- A tokenizer without a padding token pads with its end token; the attention mask hides it either way.
- The page style is stored with the processor: by name if it is a preset, in full otherwise.
- Token statistics, if there are any, are a file beside the processor's own; sharing by information needs them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoProcessor, BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin
from transformers.utils import cached_file

from vist.compress.frequency import TokenFrequency
from vist.errors import CheckpointError, VistError
from vist.model.checkpoint import check_folder, first_line
from vist.model.configuration import VistConfig
from vist.model.dial import Dial
from vist.render import PAGE_STYLES, Pages, PageStyle, render

FREQUENCY_FILE = "token_frequency.safetensors"


class VistProcessor(ProcessorMixin):
    """Tokenizer and page renderer behind one call.

    `style` is the name of a page style, a `PageStyle` or its `to_dict`; it must be the one the model was trained on.
    `max_pages` limits the pages of one context (None = the style's own limit). `frequency` holds the token statistics
    that came with the model, None without.
    """

    model_input_names = ["input_ids", "attention_mask", "pixel_values", "ink_mask", "visual_tokens", "page_weights"]
    frequency: TokenFrequency | None = None

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
        ratio: float | None = None,
        visual_tokens: int | None = None,
        adaptive: bool = False,
        **tokenizer_options: Any,
    ) -> BatchFeature:
        """Build the inputs of a batch.

        `context`: the distant text, one string for all prompts or one (or None) per prompt. `prompt`: the near text.
        Returns `input_ids` and `attention_mask` (B,T), and, if any sample has a context, `pixel_values` (B,P,H,W)
        uint8 with `ink_mask` (B,P,rows,cols) bool. Without a prompt only the pages are returned.
        `ratio` (text tokens per visual token) or `visual_tokens` (per page) ask for fewer visual tokens than the model
        was built with, `adaptive` shares them by information (`Dial`); the batch then also has `visual_tokens` and, for
        what is shared, `page_weights` (B,P).
        Raises VistError when both are missing, a prompt has no tokens, the two lists differ in length, a context needs
        more pages than allowed, or what is asked of the dial makes no sense.
        """
        dial = Dial(ratio, visual_tokens, adaptive)
        if context is None and prompt is None:
            raise VistError("Nothing to process: pass prompt=..., and context=... for the text to be read as pages.")
        prompts = [prompt] if isinstance(prompt, str) else None if prompt is None else list(prompt)
        contexts = _per_sample(context, None if prompts is None else len(prompts))
        inputs = {} if prompts is None else self._tokenize(prompts, padding, tokenizer_options)
        inputs.update(self._context_inputs(contexts, max_pages, dial))
        return BatchFeature(inputs, tensor_type=return_tensors)

    def _context_inputs(self, contexts: list[str | None], max_pages: int | None, dial: Dial) -> dict[str, np.ndarray]:
        """What the contexts of a batch become: pages, and how many visual tokens each gets; nothing without any."""
        drawn = self._render(contexts, max_pages if max_pages is not None else self.max_pages)
        pages = self._stack(drawn)
        if pages and dial.turned:
            pages.update(self.dial_inputs(dial, [[page.text for page in sample] for sample in drawn]))
        return pages

    def decode(self, token_ids: Any, **options: Any) -> str:
        """Text of one sequence of token ids."""
        return self.tokenizer.decode(token_ids, **options)

    def batch_decode(self, sequences: Any, **options: Any) -> list[str]:
        """Texts of several sequences of token ids."""
        return self.tokenizer.batch_decode(sequences, **options)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """Save the processor, and beside it its token statistics if it has any."""
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        if self.frequency is not None:
            self.frequency.save(Path(save_directory) / FREQUENCY_FILE)
        return saved

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a saved processor. Raises CheckpointError with one sentence when it is missing or unreadable."""
        check_folder(pretrained_model_name_or_path)
        try:
            processor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
            processor.frequency = _statistics(pretrained_model_name_or_path, kwargs)
            return processor
        except (OSError, TypeError, KeyError, ValueError) as error:
            source = str(pretrained_model_name_or_path)
            raise CheckpointError(f"Cannot load a VIST processor from {source!r}: {first_line(error)}") from error

    def _tokenize(self, prompts: list[str], padding: bool | str, options: dict[str, Any]) -> dict[str, Any]:
        encoded = self.tokenizer(prompts, padding=padding, padding_side="left", **options)
        for number, mask in enumerate(encoded["attention_mask"]):
            if not any(mask):
                raise VistError(f"Prompt {number} ({prompts[number]!r}) has no tokens; the model needs at least one.")
        return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}

    def dial_inputs(self, dial: Dial, texts: Sequence[Sequence[str]]) -> dict[str, np.ndarray]:
        """What a setting of the dial means for a batch: the texts of every page of every sample -> model arguments.

        Raises VistError when sharing by information lacks token statistics.
        """
        ids = [
            self.tokenizer(list(pages), add_special_tokens=False, verbose=False)["input_ids"] if pages else []
            for pages in texts
        ]
        importance = self.frequency.importance() if dial.adaptive and self.frequency is not None else None
        return dial.page_inputs(ids, importance)

    def _render(self, contexts: list[str | None], max_pages: int | None) -> list[Pages | tuple[()]]:
        """The pages of every sample; none for one without a context."""
        drawn = {text: render(text, self.page_style, max_pages=max_pages) for text in dict.fromkeys(contexts) if text}
        return [drawn[text] if text else () for text in contexts]

    def _stack(self, drawn: Sequence[Pages | tuple[()]]) -> dict[str, np.ndarray]:
        """Pages of every sample, padded to the longest with pages without ink; nothing if no sample has pages."""
        pages = max((len(own) for own in drawn), default=0)
        if pages == 0:
            return {}
        style = self.page_style
        pixels = np.full((len(drawn), pages, style.height, style.width), style.background, dtype=np.uint8)
        ink = np.zeros((len(drawn), pages, style.rows, style.cols), dtype=bool)
        for sample, own in enumerate(drawn):
            if isinstance(own, Pages):
                pixels[sample, : len(own)] = own.pixels
                ink[sample, : len(own)] = own.ink
        return {"pixel_values": pixels, "ink_mask": ink}


def _statistics(source: str | os.PathLike[str], options: dict[str, Any]) -> TokenFrequency | None:
    """The token statistics beside a saved processor, if there are any."""
    where = {name: options[name] for name in ("cache_dir", "revision", "token", "local_files_only") if name in options}
    found = cached_file(
        source,
        FREQUENCY_FILE,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
        **where,
    )
    return None if found is None else TokenFrequency.load(found)


def _per_sample(context: str | Sequence[str | None] | None, prompts: int | None) -> list[str | None]:
    """One context per prompt. Raises VistError when the numbers differ."""
    if context is None or isinstance(context, str):
        return [context] * (prompts or 1)
    contexts = list(context)
    if prompts is not None and len(contexts) != prompts:
        raise VistError(f"Got {len(contexts)} contexts for {prompts} prompts; pass one per prompt (None for none).")
    return contexts


AutoProcessor.register(VistConfig, VistProcessor, exist_ok=True)
