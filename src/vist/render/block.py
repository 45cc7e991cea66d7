"""A stretch of text in rows: every character's page column, width and glyph. Pure data, no pixels.

Owns `Block` and the way from a string to it. Knows nothing about the rest of the text, painting or files.

Decisions
- What a text does not need is not done: the union of its characters' classes tells whether shaping, tab stops,
  newlines or right-to-left order are to be looked at. Plain prose goes through a dozen array operations.
- Rows are aligned only where a style asks for more than the left margin, and right-to-left rows are put in order
  between their stretching and their moving: the order changes places, not widths.
- Rows are broken in reading order; only rows with right-to-left characters are put in visual order afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vist.render.align import justify, move_rows, widen_ink
from vist.render.atlas import GlyphAtlas
from vist.render.breaking import Words, break_rows, break_tabbed_rows, find_words
from vist.render.characters import BLANK, LOST, NEWLINE, RTL, SHAPE, TAB, can_shape
from vist.render.loss import LossReport
from vist.render.shape import Run, shape_run
from vist.render.visual import reorder


@dataclass
class Block:
    """The rows of a stretch of text that begins at the top of a page.

    By character (n,): `codes` uint32, `classes` uint8, `glyph` int32 (0 in shaped pieces), `column` int64 (first of its
    advance box in `columns`), `left` and `right` uint8 (columns of ink outside the box), `advance`, `x` int32 (pixels,
    x from the page's left edge), `row` int64 (from the top of the first page). By row (R,): `row_start` int64 with n at
    its end (R + 1,), `text_end` and `ink_end` int64, the pixels at which its advances and its ink end (0 without ink).
    `order` (n,) lists the characters of every row from left to right; None when that is the reading order.
    `text_start` and `ink_start` (R,) int64 are the pixels at which a row's advances and its ink begin; None when rows
    begin at the left margin.
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
    text_start: np.ndarray | None = None
    ink_start: np.ndarray | None = None

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
        by_row = {name: getattr(self, name) for name in _BY_ROW}
        cut |= {name: values[:rows] for name, values in by_row.items() if values is not None}
        order = None if self.order is None else self.order[:n]
        return replace(self, **cut, row_start=self.row_start[: rows + 1], order=order)


_BY_ROW = ("text_end", "ink_end", "text_start", "ink_start")
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
        run.column[tabs] = 0  # a tab is wider than its glyph: its columns come from the wide background
        cum = _cumulate(run.advance)
    else:
        rows = break_rows(words, cum, style.text_width)
    row_start = np.append(rows, len(text))
    if style.newline == "blank" and present & NEWLINE:
        row_start = _insert_empty_rows(row_start, classes)
    block = _place(run, cum, row_start, words, style.margin_left)
    if style.align == "justify":
        justify(block, style)
    if present & RTL:
        reorder(block, text, atlas, base)
    if style.letter_spacing < 0:
        widen_ink(block)
    if style.align in ("right", "center"):
        move_rows(block, style)
    return block


def advances(text: str, atlas: GlyphAtlas) -> np.ndarray:
    """Return the width in px of every character, (n,) int32, before rows are broken: tabs are one blank wide."""
    return _shaped(text, atlas).advance if text else np.zeros(0, np.int32)


def lost_places(text: str, atlas: GlyphAtlas) -> np.ndarray:
    """Return which characters would not be drawn as they are, (n,) int64, increasing; folded ones do not count."""
    if not text:
        return np.zeros(0, np.int64)
    run = _shaped(text, atlas)
    places = np.flatnonzero(run.classes & LOST)
    codes = np.unique(run.codes[places]).tolist()
    folded = [code for code in codes if atlas.loss[code] == "folded"]
    return places[~np.isin(run.codes[places], folded)]


def _shaped(text: str, atlas: GlyphAtlas) -> Run:
    """The characters of a non-empty text with their widths, before rows are broken."""
    run = _look_up(code_points(text), atlas)
    if int(np.bitwise_or.reduce(run.classes)) & SHAPE and can_shape():
        shape_run(run, text, atlas)
    return run


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
