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
from dataclasses import dataclass, replace

import numpy as np

from vist.errors import VistError
from vist.render.atlas import BLANK, LOST, NEWLINE, RTL, SHAPE, TAB, GlyphAtlas, can_shape, glyph_atlas
from vist.render.breaking import Words, break_rows, break_tabbed_rows, find_words
from vist.render.loss import LossReport
from vist.render.shape import Run, shape_run
from vist.render.style import PageStyle
from vist.render.visual import reorder, running_base

BLOCK = 1 << 15  # characters laid out at a time
_LOOKAHEAD = 3  # rows behind a page that must be known before it is final


@dataclass
class Block:
    """The rows of a stretch of text that begins at the top of a page.

    By character (n,): `codes` uint32, `classes` uint8, `glyph` int32 (0 in shaped pieces), `column` int64 (first of its
    advance box in `columns`), `left` and `right` uint8 (columns of ink outside the box), `advance`, `x` int32 (pixels,
    x from the page's left edge), `row` int64 (from the top of the first page). By row (R,): `row_start` int64 with n at
    its end (R + 1,), `text_end` and `ink_end` int64, the pixels at which its advances and its ink end (0 without ink).
    `order` (n,) lists the characters of every row from left to right; None when that is the reading order.
    """

    codes: np.ndarray
    classes: np.ndarray
    glyph: np.ndarray
    column: np.ndarray
    left: np.ndarray
    right: np.ndarray
    advance: np.ndarray
    x: np.ndarray
    row: np.ndarray
    row_start: np.ndarray
    text_end: np.ndarray
    ink_end: np.ndarray
    columns: np.ndarray
    order: np.ndarray | None = None

    @property
    def rows(self) -> int:
        """Rows in the block, the last page's missing ones not counted."""
        return len(self.text_end)

    def pages(self, rows_per_page: int) -> int:
        """Pages the rows fill, the last one perhaps in part."""
        return -(-self.rows // rows_per_page)

    def losses(self, atlas: GlyphAtlas) -> list[LossReport]:
        """Return what each page lost; newlines and tabs that are drawn as blanks count as folded."""
        counts: list[dict[tuple[str, int], int]] = [{} for _ in range(self.pages(atlas.style.rows))]
        where = np.flatnonzero(self.classes & LOST)
        keys = (self.row[where] // atlas.style.rows) << 21 | self.codes[where]
        for key, count in zip(*(values.tolist() for values in np.unique(keys, return_counts=True)), strict=True):
            code = key & 0x1FFFFF
            counts[key >> 21][atlas.loss[code], code] = count
        return [LossReport(count) for count in counts]

    def head(self, rows: int) -> Block:
        """Return the block of the first rows."""
        n = int(self.row_start[rows])
        cut = {name: getattr(self, name)[:n] for name in _BY_CHARACTER}
        cut |= {"text_end": self.text_end[:rows], "ink_end": self.ink_end[:rows]}
        order = None if self.order is None else self.order[:n]
        return replace(self, **cut, row_start=self.row_start[: rows + 1], order=order)


_BY_CHARACTER = ("codes", "classes", "glyph", "column", "left", "right", "advance", "x", "row")


def code_points(text: str) -> np.ndarray:
    """Return the code points of a string, (n,) uint32; lone surrogates are kept as they are."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def lay_block(text: str, atlas: GlyphAtlas, base: int | None = None) -> Block:
    """Place all characters of a non-empty text that begins at the top of a page.

    `base` is the direction (0 left-to-right, 1 right-to-left) of a paragraph that began before the text.
    """
    style = atlas.style
    run = _look_up(code_points(text), atlas)
    classes = run.classes
    present = int(np.bitwise_or.reduce(classes))
    if present & BLANK:
        _join_crlf(run)
    if present & SHAPE and can_shape():
        shape_run(run, text, atlas)
    cum = _cumulate(run.advance)
    words = find_words(classes, run.glued, present)
    if present & TAB:
        tabs = np.flatnonzero(classes & TAB)
        rows, growth = break_tabbed_rows(words, cum, style.text_width, tabs, style.tab_width * atlas.blank_advance)
        run.advance[tabs] += growth
        cum = _cumulate(run.advance)
    else:
        rows = break_rows(words, cum, style.text_width)
    row_start = np.append(rows, len(text))
    if style.newline == "blank" and present & NEWLINE:
        row_start = _insert_empty_rows(row_start, classes)
    block = _place(run, cum, row_start, words, style.margin_left)
    if present & RTL:
        reorder(block, text, atlas, base)
    return block


def _look_up(codes: np.ndarray, atlas: GlyphAtlas) -> Run:
    """Fetch class and glyph of every code point; mode "clip" spares `take` its range check, the tables have all."""
    index = codes.astype(np.intp)
    glyph = atlas.glyph_of.take(index, mode="clip")
    if glyph.min() < 0:
        atlas.learn(codes[glyph < 0])
        glyph = atlas.glyph_of.take(index, mode="clip")
    number = glyph.astype(np.intp)
    return Run(
        codes=codes,
        classes=atlas.class_of.take(index, mode="clip"),
        glyph=glyph,
        column=atlas.first_column.take(number, mode="clip"),
        left=atlas.left.take(number, mode="clip"),
        right=atlas.right.take(number, mode="clip"),
        advance=atlas.advance.take(number, mode="clip"),
        columns=atlas.columns,
    )


def _cumulate(advance: np.ndarray) -> np.ndarray:
    cum = np.zeros(len(advance) + 1, np.int64)
    np.cumsum(advance, out=cum[1:])
    return cum


def _join_crlf(run: Run) -> None:
    """Make CR LF one newline: the CR keeps its place and loses its width and its effect."""
    returns = np.flatnonzero(run.codes[:-1] == 0x0D)
    returns = returns[run.codes[returns + 1] == 0x0A]
    run.classes[returns] = BLANK
    run.advance[returns] = 0


def _insert_empty_rows(row_start: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Put an empty row before every row that follows a newline."""
    after = np.flatnonzero(classes[row_start[1:-1] - 1] & NEWLINE) + 1
    return np.insert(row_start, after, row_start[after])


def _place(run: Run, cum: np.ndarray, row_start: np.ndarray, words: Words, margin: int) -> Block:
    """Turn cumulative widths (n + 1,) and row starts (R + 1,) into positions; hanging blanks lose their width."""
    counts = np.diff(row_start)
    base = cum[row_start[:-1]]
    ink_stop = words.ends[np.searchsorted(words.starts, row_start[1:], side="left") - 1]
    ink_stop = np.minimum(ink_stop, row_start[1:])
    stop = np.maximum(cum[ink_stop], base)
    limit = np.repeat(stop, counts)
    start = np.minimum(cum[:-1], limit)
    advance = (np.minimum(cum[1:], limit) - start).astype(np.int32)
    length = stop - base
    last = _last_inked(ink_stop - 1, length > 0, advance)
    return Block(
        codes=run.codes,
        classes=run.classes,
        glyph=run.glyph,
        column=run.column,
        left=run.left,
        right=run.right,
        advance=advance,
        x=(start - np.repeat(base - margin, counts)).astype(np.int32),
        row=np.repeat(np.arange(len(counts)), counts),
        row_start=row_start,
        text_end=length + margin,
        ink_end=np.where(length > 0, length + margin + run.right[last], 0),
        columns=run.columns,
    )


def _last_inked(last: np.ndarray, inked: np.ndarray, advance: np.ndarray) -> np.ndarray:
    """Step back from each row's last character (R,) over those without width."""
    last = np.maximum(last, 0)
    back = inked & (advance[last] == 0)
    while back.any():
        last = last - back
        back = inked & (advance[last] == 0)
    return last


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

    `page`, `row` (on its page), `x` (pixels from the page's left edge, of the advance box), `advance` (pixels; 0 for
    what takes no room), `glyph` (number in this process's atlas), all (n,). `spans` (P, 2) int64: first character
    of each page and the one after its last. `ink` (P, rows, cols) bool: cells touched by the text of their row.
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
    """Return (P, rows, cols) bool: the cells from a row's start to the end of its last glyph."""
    pages = block.pages(style.rows)
    ends = np.zeros(pages * style.rows, np.int64)
    ends[: block.rows] = block.ink_end
    return (np.arange(style.cols) * style.row_height < ends[:, None]).reshape(pages, style.rows, style.cols)


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
    by_char: list[tuple[np.ndarray, ...]] = []
    spans, ink, pages, chars = [], [], 0, 0
    for _, block in lay_blocks([text], atlas):
        page, row = np.divmod(block.row, style.rows)
        by_char.append(((page + pages).astype(np.int32), row.astype(np.int32), block.x, block.advance, block.glyph))
        spans.append(page_spans(block, style) + chars)
        ink.append(ink_mask(block, style))
        pages += len(spans[-1])
        chars += len(block.codes)
    check_page_limit(pages, style, style.max_pages)
    if not by_char:
        none = np.zeros(0, np.int32)
        return Layout(style, *[none] * 5, np.zeros((0, 2), np.int64), np.zeros((0, style.rows, style.cols), bool))
    return Layout(style, *(np.concatenate(parts) for parts in zip(*by_char, strict=True)), np.concatenate(spans), np.concatenate(ink))


def check_page_limit(pages: int, style: PageStyle, limit: int | None) -> None:
    """Raise VistError when a text needs more pages than allowed."""
    if limit is not None and pages > limit:
        raise VistError(
            f"The text needs {pages} pages of style {style.name!r} and the limit is {limit}: "
            "shorten the text, use a smaller font or raise max_pages."
        )
