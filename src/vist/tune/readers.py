"""Who reads the pages of a candidate style: an encoder's reading head, Tesseract, or any vision-language endpoint.

Owns the readers and what each can read. Does not know scores, genes' values beyond what it must fix, or generations.

Decisions
- A reader turns pages into text and says nothing about how good that is.
- A reader narrows the search: TextViT was built for one page size and one row height, and a style with others would be
  refused by it. The genes that remain are those of the letters on that page.
- What reads images gets pages cut to their text, as they are priced: paper is slow to read and costs tokens.
- An endpoint is any server of OpenAI's chat completions that takes images. One request a page, temperature 0, nothing
  is retried: what fails is an error in one sentence, since a page without an answer must not count as unread.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

from vist.errors import VistError
from vist.eval import ocr
from vist.render import Pages
from vist.render.png import encode_png
from vist.tune.genome import Space, narrow

if TYPE_CHECKING:  # torch, which only the encoder needs
    from vist.eval.reader import Reader as VistReader

PROMPT = "Write down all text of this page, line by line, exactly as it stands there. Write nothing else."
_SECONDS = 300.0


class PageReader(Protocol):
    """Reads pages."""

    @property
    def name(self) -> str:
        """Who it is, for logs and tables."""

    def narrow(self, space: Space) -> Space:
        """Return the part of a space whose pages it can read."""

    def read(self, pages: Pages) -> str:
        """Return the text of pages, in order."""


@dataclass(frozen=True)
class EncoderReader:
    """The reading head of a model's TextViT.

    Raises VistError for a model whose encoder cannot read.
    """

    model: VistReader

    def __post_init__(self) -> None:
        if not hasattr(self.model.model.vision_tower, "read_logits"):
            tower = type(self.model.model.vision_tower).__name__
            raise VistError(f"The model's encoder, {tower}, has no reading head; use a model with TextViT.")

    @property
    def name(self) -> str:
        """The encoder's class."""
        return type(self.model.model.vision_tower).__name__

    def narrow(self, space: Space) -> Space:
        """Fix the page's size and its rows to those of the encoder."""
        height, width = self.model.model.vision_tower.config.image_size
        row = self.model.model.vision_tower.config.patch_size
        sizes = tuple(size for size in range(6, row + 1))
        fixed = {"dpi": (72,), "width": (width,), "height": (height,), "row_height": (row,), "font_size": sizes}
        return narrow(space, fixed)

    def read(self, pages: Pages) -> str:
        """Return what the reading head names, patch by patch."""
        from vist.eval.readback import PageText, encoder_reads

        return " ".join(encoder_reads(self.model, [PageText(page, "", page.text) for page in pages]))


@dataclass(frozen=True)
class TesseractReader:
    """Tesseract, on pages enlarged as `eval.ocr` does.

    Raises VistError where it is not installed.
    """

    def __post_init__(self) -> None:
        reason = ocr.why_not()
        if reason:
            raise VistError(f"Tesseract cannot read: {reason}.")

    @property
    def name(self) -> str:
        """Engine and version."""
        return ocr.engine()

    def narrow(self, space: Space) -> Space:
        """All of the space."""
        return space

    def read(self, pages: Pages) -> str:
        """Return what Tesseract finds."""
        return " ".join(ocr.read_image(Image.fromarray(page)) for page in cut_to_text(pages))


@dataclass(frozen=True)
class EndpointReader:
    """A vision-language model behind OpenAI's chat completions; `url` ends in `/v1`, `key` may be empty."""

    url: str
    model: str
    key: str = ""

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model

    def narrow(self, space: Space) -> Space:
        """All of the space."""
        return space

    def read(self, pages: Pages) -> str:
        """Return what the model writes for each page. Raises VistError for a failing endpoint."""
        return " ".join(self._read_one(page) for page in cut_to_text(pages))

    def _read_one(self, pixels: Any) -> str:
        url = f"data:image/png;base64,{base64.b64encode(encode_png(pixels)).decode('ascii')}"
        blocks = [{"type": "image_url", "image_url": {"url": url, "detail": "high"}}, {"type": "text", "text": PROMPT}]
        return ask(self.url, self.model, self.key, blocks)


def cut_to_text(pages: Pages) -> list[np.ndarray]:
    """Return the pixels (H, W) uint8 of each page without the paper below its last row and beside its widest."""
    cut = []
    for pixels, ink in zip(pages.pixels, pages.ink, strict=True):
        rows, cols = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
        cell = pages.style.row_height
        bottom, right = (int(places[-1] + 1) * cell if len(places) else cell for places in (rows, cols))
        cut.append(pixels[:bottom, : min(right + pages.style.margin_right, pixels.shape[1])])
    return cut


def ask(url: str, model: str, key: str, content: object) -> str:
    """Return what a chat model answers to one user message.

    Raises VistError for a server that cannot be reached, refuses, or answers in another form.
    """
    import httpx

    body = {"model": model, "temperature": 0, "messages": [{"role": "user", "content": content}]}
    headers = {"authorization": f"Bearer {key}"} if key else {}
    place = f"{url.rstrip('/')}/chat/completions"
    try:
        answer = httpx.post(place, json=body, headers=headers, timeout=_SECONDS)
        answer.raise_for_status()
        text = answer.json()["choices"][0]["message"]["content"]
    except httpx.HTTPStatusError as error:
        raise VistError(f"{place} answered {error.response.status_code}; check the model's name and the key.") from None
    except httpx.HTTPError as error:
        raise VistError(f"{place} could not be asked ({type(error).__name__}); check the address.") from None
    except (json.JSONDecodeError, KeyError, IndexError, TypeError):
        raise VistError(f"{place} answered in a form that is not OpenAI's; check the address.") from None
    if not isinstance(text, str):
        raise VistError(f"{place} answered without a text; check that {model!r} takes images.")
    return text
