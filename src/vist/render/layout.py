"""Text to places: which page, row and pixel every character gets. Pure data, no pixels.

Owns `Layout` and the way from a string to it, block by block. Knows nothing about how glyphs are painted, pages are
hashed or files are written.

Decisions
- Every character of the input belongs to exactly one page and row, also when it leaves no ink: a blank that hangs at
  a row's end, a newline, an invisible character. So page spans join back to the input.
- A text is laid out in blocks of `BLOCK` characters, small enough for the cache. Each block begins where a page
  begins and leaves its unfinished page to the next. Blocks depend on the text alone: one string, a file read in
  pieces and a stream of any chunk size give the same pages.
- Only rows with right-to-left characters are put in visual order, after rows were broken in logical order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from vist.errors import VistError
from vist.render.atlas import GlyphAtlas, glyph_atlas
from vist.render.block import Block, lay_block
from vist.render.style import PageStyle
from vist.render.visual import running_base

BLOCK = 1 << 15  # characters laid out at a time
_LOOKAHEAD = 3  # rows behind a page that must be known before it is final


def lay_blocks(chunks: Iterable[str], atlas: GlyphAtlas) -> Iterator[tuple[str, Block]]:
    """Yield stretches of whole pages with their text, in order, from a text that comes in pieces of any size."""
    rows_per_page, rest, wanted = atlas.style.rows, "", BLOCK
    base: int | None = None
    for piece in _pieces(chunks):
        rest += piece
        while len(rest) >= wanted:
            block = lay_block(rest[:wanted], atlas, base)
            keep = (block.rows - _LOOKAHEAD) // rows_per_page * rows_per_page
            if keep <= 0:  # a page that holds so much has rows full of blanks: look further
                wanted += BLOCK
                continue
            block, wanted = block.head(keep), BLOCK
            stretch, rest = rest[: len(block.codes)], rest[len(block.codes) :]
            base = running_base(stretch, base)
            yield stretch, block
    if rest:
        yield rest, lay_block(rest, atlas, base)


def _pieces(chunks: Iterable[str]) -> Iterator[str]:
    for chunk in chunks:
        if not isinstance(chunk, str):
            raise VistError(f"The text came in a piece of type {type(chunk).__name__}: open the file in text mode.")
        for start in range(0, len(chunk), BLOCK):
            yield chunk[start : start + BLOCK]


@dataclass(frozen=True)
class Layout:
    """Where every one of n characters stands; arrays are int32 unless said.

    `page`, `row` (on its page), `x` (pixels from the page's left edge, of the advance box), `advance` (pixels, with the
    letter spacing, half of it on each side, and what a justified blank gained; 0 for what takes no room), `glyph`
    (number in this process's atlas), all (n,). `spans` (P, 2) int64: first character of each page and the one after its
    last. `ink` (P, rows, cols) bool: cells touched by the text of their row.
    """

    style: PageStyle
    page: np.ndarray
    row: np.ndarray
    x: np.ndarray
    advance: np.ndarray
    glyph: np.ndarray
    spans: np.ndarray
    ink: np.ndarray

    def __len__(self) -> int:
        return len(self.spans)

    def cells(self) -> np.ndarray:
        """Return the patch column in which the centre of each character's advance box lies, (n,) int32."""
        centre = (2 * self.x + self.advance) // 2
        return np.minimum(centre // self.style.row_height, self.style.cols - 1)


def ink_mask(block: Block, style: PageStyle) -> np.ndarray:
    """Return (P, rows, cols) bool: the cells from a row's start to the end of its last glyph.

    The start is the page's left edge, unless rows are moved to the right or to the middle.
    """
    pages = block.pages(style.rows)
    ends = np.zeros(pages * style.rows, np.int64)
    ends[: block.rows] = block.ink_end
    cells = np.arange(style.cols) * style.row_height
    mask = cells < ends[:, None]
    if block.ink_start is not None:
        mask[: block.rows] &= cells + style.row_height > block.ink_start[:, None]
    return mask.reshape(pages, style.rows, style.cols)


def page_spans(block: Block, style: PageStyle) -> np.ndarray:
    """Return (P, 2) int64: the characters of each page, counted from the block's first."""
    edges = np.append(block.row_start[: block.rows : style.rows], len(block.codes))
    return np.stack([edges[:-1], edges[1:]], axis=1)


def layout(text: str, style: str | PageStyle = "vist") -> Layout:
    """Place a text on pages of a style without drawing them.

    Raises VistError for a text that is no string, an unknown style, or more pages than the style's limit.
    """
    if not isinstance(text, str):
        raise VistError(f"layout() places a string and was given {type(text).__name__}: decode it or join it first.")
    style = PageStyle.named(style)
    atlas = glyph_atlas(style)
    places: list[list[np.ndarray]] = [[], [], [], [], []]
    spans, ink = [np.zeros((0, 2), np.int64)], [np.zeros((0, style.rows, style.cols), bool)]
    pages = chars = 0
    for _, block in lay_blocks([text], atlas):
        page, row = np.divmod(block.row, style.rows)
        for values, kept in zip((page + pages, row, block.x, block.advance, block.glyph), places, strict=True):
            kept.append(values.astype(np.int32))
        spans.append(page_spans(block, style) + chars)
        ink.append(ink_mask(block, style))
        pages += len(spans[-1])
        chars += len(block.codes)
    check_page_limit(pages, style, style.max_pages)
    none = np.zeros(0, np.int32)
    page, row, x, advance, glyph = (np.concatenate([none, *kept]) for kept in places)
    return Layout(style, page, row, x, advance, glyph, np.concatenate(spans), np.concatenate(ink))


def check_page_limit(pages: int, style: PageStyle, limit: int | None) -> None:
    """Raise VistError when a text needs more pages than allowed."""
    if limit is not None and pages > limit:
        raise VistError(
            f"The text needs {pages} pages of style {style.name!r} and the limit is {limit}: "
            "shorten the text, use a smaller font or raise max_pages."
        )
