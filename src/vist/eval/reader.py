"""A model with its processor, ready to be measured: tokens and pages in, tensors out.

Owns the text format of the models (start token, then text without other special tokens), padding, and drawing pages
for a batch. Does not know conditions, metrics or reports.

Decisions
- A sequence starts with the tokenizer's start token; where a family has none, with its end-of-text token, so that the
  first token of a text has something before it and can be scored.
- Some tokenizers put a blank before every text they are given (Llama 2, TinyLlama) and drop it again from what they
  decode. In the middle of a text there is none, so what stands after other text is tokenized and decoded after a line
  break that is then taken away. Other tokenizers, `vist-nano`'s among them, give the same either way.
- A reader has one setting of the dial, so every measure can be taken at any ratio without knowing of it.
- Padding is on the left, as for generation, so that the last tokens of all rows stand in one column.
- B batch, P pages, T text tokens, H and W pixels of a page.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vist.errors import VistError
from vist.model.dial import Dial
from vist.model.processing import VistProcessor
from vist.render import Pages, PageStyle, render
from vist.vision.feature_cache import FeatureCache

_BREAK = "\n"  # a token of its own wherever it stands, in the tokenizers that need it
PROMPT_INPUTS = ("input_ids", "attention_mask")  # all else in a batch belongs to its context


@dataclass(frozen=True)
class Reader:
    """A model and its processor, as `vist.load` returns them; `dial` says how many visual tokens pages become.

    `cache`: keeps the features of pages that are read more than once; None = every reading encodes them.
    """

    model: Any
    processor: Any
    dial: Dial = Dial()
    cache: FeatureCache | None = None

    @property
    def tokenizer(self) -> Any:
        """The LLM's tokenizer."""
        return self.processor.tokenizer

    @property
    def style(self) -> PageStyle:
        """The page style the model was trained on."""
        return self.processor.page_style

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.device

    @property
    def context_limit(self) -> int:
        """Tokens that the LLM can carry as text."""
        return int(self.model.config.text_config.max_position_embeddings)

    @property
    def start_id(self) -> int:
        """The token every sequence begins with.

        Raises VistError when the tokenizer has neither a start nor an end token.
        """
        for token in (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise VistError("The tokenizer has neither a start nor an end token; set its bos_token.")

    @property
    def reads_pages(self) -> bool:
        """Whether the model has a vision tower of its own to read pages with."""
        return hasattr(self.model, "vision_tower")

    def tower(self, measure: str) -> Any:
        """The model's vision tower. Raises VistError for a model without one, naming what needs it."""
        if not self.reads_pages:
            raise VistError(
                f"{measure} takes a model with a vision tower, which {self.model.config.model_type!r} models do not "
                "have; choose a VIST model."
            )
        return self.model.vision_tower

    def restyled(self, style: str | PageStyle) -> Reader:
        """The same model reading pages of another style.

        Raises VistError for a style that does not exist, and for a model whose processor draws chunks, not contexts.
        """
        if not isinstance(self.processor, VistProcessor):
            raise VistError("This model draws chunks in the style that it was trained on; leave --styles out.")
        changed = type(self.processor)(self.tokenizer, style=style, max_pages=self.processor.max_pages)
        changed.frequency = self.processor.frequency
        return replace(self, processor=changed)

    def dialled(self, dial: Dial) -> Reader:
        """The same model at another setting of the dial."""
        return replace(self, dial=dial)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, no special tokens."""
        return list(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def following(self, text: str) -> list[int]:
        """Token ids of a text that has other text before it: of near text in every condition, of a continuation."""
        lead = self.ids(_BREAK)
        found = self.ids(_BREAK + text)
        return found[len(lead) :] if self._adds_blank(lead) and found[: len(lead)] == lead else self.ids(text)

    def written(self, rows: Iterable[Sequence[int]]) -> list[str]:
        """What rows of new tokens add to the text before them, blanks at the beginning included."""
        lead = self.ids(_BREAK)
        lead = lead if self._adds_blank(lead) else []
        skipped = len(self._decode(lead)) if lead else 0
        return [self._decode([*lead, *row])[skipped:] for row in rows]

    @staticmethod
    def _adds_blank(lead: Sequence[int]) -> bool:
        """Whether a line break alone became more than one token: the blank put before it, and itself."""
        return len(lead) > 1

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def ids_with_places(self, text: str) -> tuple[list[int], list[int]]:
        """Token ids of a text and the character at which each begins.

        Raises VistError for a tokenizer that cannot tell where its tokens are.
        """
        if not self.tokenizer.is_fast:
            raise VistError(f"{type(self.tokenizer).__name__} does not say where its tokens are; use a fast tokenizer.")
        found = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return list(found.input_ids), [start for start, _ in found.offset_mapping]

    def draw(self, text: str) -> Pages:
        """The pages of one text in the model's style."""
        return render(text, self.style)

    def page_inputs(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """A batch of contexts as the processor makes them: `pixel_values` (B,P,H,W) uint8 and `ink_mask` for VIST."""
        asked = asdict(self.dial) if self.dial.turned else {}
        return dict(self.processor(context=list(texts), **asked).to(self.device))

    def encode_pages(self, tensors: dict[str, Tensor]) -> Any:
        """Take the context out of a batch's inputs and read it -> the model's `VisualContext`."""
        seen = {name: tensors.pop(name) for name in list(tensors) if name not in PROMPT_INPUTS}
        if self.cache is None:
            return self.model.encode_context(**seen)
        features = self.cache.encode(seen.pop("pixel_values"), seen.pop("ink_mask"))
        return self.model.compress_features(features, **seen)

    def stack_pages(self, drawn: Sequence[Sequence[Pages]]) -> dict[str, Tensor]:
        """As `page_inputs`, of pages that are already drawn, several stretches a sample."""
        counts = [sum(len(pages) for pages in stretches) for stretches in drawn]
        style = next((pages.style for stretches in drawn for pages in stretches), self.style)
        pixels = np.full((len(drawn), max([1, *counts]), style.height, style.width), style.background, np.uint8)
        ink = np.zeros((*pixels.shape[:2], style.rows, style.cols), bool)
        for sample, stretches in enumerate(drawn):
            place = 0
            for pages in stretches:
                pixels[sample, place : place + len(pages)] = pages.pixels
                ink[sample, place : place + len(pages)] = pages.ink
                place += len(pages)
        tensors = {"pixel_values": torch.from_numpy(pixels), "ink_mask": torch.from_numpy(ink)}
        if self.dial.turned:
            texts = [[page.text for pages in stretches for page in pages] for stretches in drawn]
            asked = self.processor.dial_inputs(self.dial, texts)
            tensors |= {name: torch.from_numpy(value) for name, value in asked.items()}
        return {name: value.to(self.device) for name, value in tensors.items()}

    @torch.inference_mode()
    def read_pages(self, drawn: Sequence[Sequence[Pages]]) -> tuple[dict[str, Tensor], list[int]]:
        """`cross_kv` and `cross_mask` of drawn pages, for the LLM, and the visual tokens in use of each sample."""
        return self._projected(self.stack_pages(drawn))

    @torch.inference_mode()
    def read_texts(self, texts: Sequence[str]) -> tuple[dict[str, Tensor], list[int]]:
        """As `read_pages`, of texts that the model's processor makes a context of in its own way."""
        return self._projected(self.page_inputs(texts))

    def _projected(self, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[int]]:
        context = self.encode_pages(tensors)
        visual = {"cross_kv": self.model.project_context(context.states), "cross_mask": context.mask}
        return visual, context.mask.sum(1).tolist()

    @torch.inference_mode()
    def context_tokens(self, texts: Sequence[str]) -> list[int]:
        """How many tokens of each context the LLM carries, once the model has read it in its own way."""
        return self.model.encode_context(**self.page_inputs(texts)).mask.sum(1).tolist()

    def text_inputs(self, rows: Iterable[Sequence[int]]) -> dict[str, Tensor]:
        """`input_ids` and `attention_mask` (B,T): start token before each row, padding on the left."""
        sequences = [[self.start_id, *row] for row in rows]
        length = max(len(row) for row in sequences)
        padding = self.tokenizer.pad_token_id
        ids = torch.full((len(sequences), length), self.start_id if padding is None else padding)
        mask = torch.zeros_like(ids)
        for number, row in enumerate(sequences):
            ids[number, length - len(row) :], mask[number, length - len(row) :] = torch.tensor(row), 1
        return {"input_ids": ids.to(self.device), "attention_mask": mask.to(self.device)}
