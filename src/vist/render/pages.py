"""Pages: pixels, ink, text spans, hashes and the loss report of a rendered text.

Owns `Pages`, `render`, `iter_pages` and the folder format. Knows nothing about fonts or line breaking.

Decisions
- `render` is `iter_pages` on one piece, joined: there is one way through the renderer.
- An empty text has no pages: there is nothing to see, and a page without ink would have to be masked anyway.
- A page's hash covers its pixels, its ink mask and the fingerprint of style, font and renderer version; it does not
  depend on the text around it.
- A folder of pages is written beside its place and renamed, so it is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
from PIL import Image

from vist.errors import VistError
from vist.render.atlas import GlyphAtlas, glyph_atlas
from vist.render.block import Block
from vist.render.fonts import RENDERER_VERSION, fingerprint
from vist.render.layout import check_page_limit, ink_mask, lay_blocks, page_spans
from vist.render.loss import LossReport
from vist.render.raster import paint
from vist.render.style import PageStyle

OnLoss = Literal["report", "raise"]
_READ = 1 << 16  # characters read from a file at a time


@dataclass(frozen=True, eq=False)
class Pages(Sequence["Pages"]):
    """The pages of a text.

    `pixels` (P, height, width) uint8; `ink` (P, rows, cols) bool, the cells that text touches; `spans` (P, 2) int64,
    the characters of `text` on each page (joined they are the text); `losses` one report per page.
    """

    pixels: np.ndarray
    ink: np.ndarray
    spans: np.ndarray
    text: str
    style: PageStyle
    losses: tuple[LossReport, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int | slice) -> Pages:  # type: ignore[override]
        """Return the pages of a slice, or one page, as `Pages` of their own with the text that they show."""
        if not isinstance(index, slice):
            if not -len(self) <= index < len(self):
                raise IndexError(index)
            index %= len(self)
            index = slice(index, index + 1)
        start, stop, step = index.indices(len(self))
        if step != 1:
            raise VistError(f"Pages cannot be taken in steps of {step}: their text would not be one piece.")
        stop = max(start, stop)
        spans = self.spans[start:stop]
        first, last = (int(spans[0, 0]), int(spans[-1, 1])) if len(spans) else (0, 0)
        return Pages(
            self.pixels[start:stop],
            self.ink[start:stop],
            spans - first,
            self.text[first:last],
            self.style,
            self.losses[start:stop],
        )

    @property
    def loss(self) -> LossReport:
        """The loss of all pages together."""
        return LossReport.total(self.losses)

    @property
    def hashes(self) -> list[str]:
        """Content hash of each page, equal on every machine that draws the same page."""
        seed = fingerprint(self.style).encode()
        return [
            hashlib.blake2b(seed + np.packbits(ink).tobytes() + page.tobytes(), digest_size=16).hexdigest()
            for page, ink in zip(self.pixels, self.ink, strict=True)
        ]

    def to_image(self, index: int) -> Image.Image:
        """Return one page as a grey Pillow image."""
        return Image.fromarray(self.pixels[index])

    @staticmethod
    def concatenate(parts: Iterable[Pages], style: PageStyle) -> Pages:
        """Join stretches of pages of one style, in order."""
        parts = list(parts)
        if len(parts) == 1:
            return parts[0]
        offsets = np.cumsum([0] + [len(part.text) for part in parts])
        return Pages(
            np.concatenate([np.zeros((0, style.height, style.width), np.uint8)] + [part.pixels for part in parts]),
            np.concatenate([np.zeros((0, style.rows, style.cols), bool)] + [part.ink for part in parts]),
            np.concatenate(
                [np.zeros((0, 2), np.int64)] + [part.spans + at for part, at in zip(parts, offsets, strict=False)]
            ),
            "".join(part.text for part in parts),
            style,
            tuple(loss for part in parts for loss in part.losses),
        )

    def save(self, folder: str | Path) -> Path:
        """Write a PNG for each page and `manifest.json` into a new folder and return its path.

        Raises VistError when the folder exists and is not empty, or cannot be written; then nothing is left behind.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise VistError(f"{str(folder)!r} exists already: give a new or an empty folder.")
        draft: Path | None = None
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            self._write(draft)
            draft.chmod(0o755)
            draft.replace(folder)
        except OSError as error:
            raise VistError(
                f"The pages could not be written to {str(folder)!r} ({error.strerror or error}): "
                "check the space and the permissions there, or choose another folder."
            ) from error
        finally:
            if draft is not None:
                shutil.rmtree(draft, ignore_errors=True)
        return folder

    def _write(self, folder: Path) -> None:
        for number in range(len(self)):
            with open(folder / _file_name(number), "wb") as file:
                self.to_image(number).save(file, "PNG")
        with open(folder / "manifest.json", "w", encoding="utf-8") as file:
            json.dump(self.manifest(), file, ensure_ascii=False, indent=1)

    def manifest(self) -> dict[str, Any]:
        """Return what the folder's `manifest.json` holds: style, versions, and file, hash, span, loss of each page."""
        pages = zip(self.hashes, self.spans.tolist(), self.losses, strict=True)
        return {
            "format": "vist-pages",
            "renderer_version": RENDERER_VERSION,
            "fingerprint": fingerprint(self.style),
            "style": self.style.to_dict(),
            "characters": len(self.text),
            "loss": self.loss.to_dict(),
            "pages": [
                {"file": _file_name(number), "hash": page_hash, "span": span, "loss": loss.to_dict()}
                for number, (page_hash, span, loss) in enumerate(pages)
            ],
        }


def _file_name(number: int) -> str:
    return f"page-{number:05d}.png"


def render(
    text: str, style: str | PageStyle = "vist", on_loss: OnLoss = "report", max_pages: int | None = None
) -> Pages:
    """Draw a text on pages of a style; an empty text gives no pages.

    `max_pages` overrides the style's limit. Raises VistError for bad arguments and when the text needs more pages
    than the limit; RenderLossError when `on_loss` is "raise" and a character is missing, replaced or dropped.
    """
    if not isinstance(text, str):
        raise VistError(f"render() draws a string and was given {type(text).__name__}: decode it or join it first.")
    style = PageStyle.named(style)
    limit = style.max_pages if max_pages is None else replace(style, max_pages=max_pages).max_pages
    atlas, canvas, needed = glyph_atlas(style), _Canvas(style, 8 + len(text) // 600), 0
    for _, block in lay_blocks([text], atlas):
        needed += block.pages(style.rows)
        if limit is None or needed <= limit:  # beyond the limit pages are only counted, for the message
            canvas.add(block, atlas)
    check_page_limit(needed, style, limit)
    return _checked(canvas.finish(text), on_loss)


def draw_blocks(blocks: Sequence[Block], text: str, style: PageStyle) -> Pages:
    """Draw a text that was laid out: `blocks` are those of `lay_blocks`, in order."""
    atlas, canvas = glyph_atlas(style), _Canvas(style, sum(block.pages(style.rows) for block in blocks))
    for block in blocks:
        canvas.add(block, atlas)
    return canvas.finish(text)


class _Canvas:
    """Pages in the making, painted in place: room set aside for pages that do not come is never touched."""

    def __init__(self, style: PageStyle, capacity: int):
        self._style = style
        self._count = self._characters = 0
        self._pixels = np.empty((capacity, style.height, style.width), np.uint8)
        self._ink = [np.zeros((0, style.rows, style.cols), bool)]
        self._spans = [np.zeros((0, 2), np.int64)]
        self._losses: list[LossReport] = []

    def add(self, block: Block, atlas: GlyphAtlas) -> None:
        """Paint the pages of a block behind those that are there."""
        end = self._count + block.pages(self._style.rows)
        if end > len(self._pixels):
            old = self._pixels[: self._count]
            self._pixels = np.empty((max(end, 2 * len(self._pixels)), *old.shape[1:]), np.uint8)
            self._pixels[: self._count] = old
        paint(block, self._style, self._pixels[self._count : end])
        self._ink.append(ink_mask(block, self._style))
        self._spans.append(page_spans(block, self._style) + self._characters)
        self._losses.extend(block.losses(atlas))
        self._count, self._characters = end, self._characters + len(block.codes)

    def finish(self, text: str) -> Pages:
        """Return what was painted as the pages of a text."""
        assert len(text) == self._characters, "a character was laid out twice or not at all"
        return Pages(
            self._pixels[: self._count],
            np.concatenate(self._ink),
            np.concatenate(self._spans),
            text,
            self._style,
            tuple(self._losses),
        )


def iter_pages(
    source: str | TextIO | Iterable[str], style: str | PageStyle = "vist", on_loss: OnLoss = "report"
) -> Iterator[Pages]:
    """Draw a text of any length in constant memory: yield stretches of pages whose union is `render`'s result.

    `source` is a string, an open text file or any iterable of strings, cut anywhere. Spans count from the start of
    each stretch's own `text`. Raises as `render` does, at the page at which it happens.
    """
    style = PageStyle.named(style)
    atlas, count = glyph_atlas(style), 0
    for stretch, block in lay_blocks(_chunks(source), atlas):
        count += block.pages(style.rows)
        check_page_limit(count, style, style.max_pages)
        canvas = _Canvas(style, block.pages(style.rows))
        canvas.add(block, atlas)
        yield _checked(canvas.finish(stretch), on_loss)


def _chunks(source: str | TextIO | Iterable[str]) -> Iterable[str]:
    if isinstance(source, str):
        return [source]
    if hasattr(source, "read"):
        return iter(lambda: source.read(_READ), "")  # lines could be megabytes long
    return source


def _checked(pages: Pages, on_loss: OnLoss) -> Pages:
    if on_loss not in ("report", "raise"):
        raise VistError(f'on_loss={on_loss!r} is not known: use "report" or "raise".')
    if on_loss == "raise":
        pages.loss.check()
    return pages
