"""Rows with right-to-left characters, put in visual order after they were broken in reading order.

Owns the application of `bidi` to a laid out block. Knows nothing about shaping or pixels.

Decisions
- The base direction is that of the paragraph, by its first strong letter; a paragraph ends at a newline of the text,
  also where the style draws that as a blank. Rows begin at the left edge in both directions, so the ink mask is the
  same kind of thing for every script.
- Brackets and the like are mirrored in right-to-left stretches when the mirrored glyph is as wide.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from vist.render.atlas import GlyphAtlas
from vist.render.bidi import MIRRORED, base_level, bidi_type, levels, visual_order
from vist.render.characters import NEWLINES, RTL

if TYPE_CHECKING:
    from vist.render.block import Block

_TURNING = frozenset(("L", "EN", "AN"))  # what may run the other way in a right-to-left row
_MIRRORABLE = re.compile("[" + re.escape("".join(map(chr, MIRRORED))) + "]")
_NEWLINES = "".join(map(chr, sorted(NEWLINES)))
_NEWLINE = re.compile(f"[{_NEWLINES}]")


def running_base(text: str, base: int | None) -> int | None:
    """Return the direction of the paragraph that is open at the end of a text, given that of its beginning."""
    start = max(text.rfind(char) for char in _NEWLINES) + 1
    if start == 0 and base is not None:
        return base
    return base_level(text, start)


def reorder(block: Block, text: str, atlas: GlyphAtlas, base: int | None) -> None:
    """Put the rows of a block that hold right-to-left characters in visual order, in place."""
    block.order = np.arange(len(block.codes))
    rows = np.unique(block.row[np.flatnonzero(block.classes & RTL)])
    paragraphs = np.array([0, *(newline.end() for newline in _NEWLINE.finditer(text))])
    starts = paragraphs[np.searchsorted(paragraphs, block.row_start[rows], side="right") - 1]
    bases: dict[int, int | None] = {0: base} if base is not None else {}
    for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
        if start not in bases:
            bases[start] = base_level(text, start)
        _order_row(block, row, text, bases[start] or 0, atlas)
    _place_rows(block, rows, atlas.style.margin_left)


def _order_row(block: Block, row: int, text: str, base: int, atlas: GlyphAtlas) -> None:
    """Put one row in visual order and mirror what runs from right to left in it."""
    begin, end = block.row_start[row : row + 2].tolist()
    row_text = text[begin:end]
    if base and _TURNING.isdisjoint(map(bidi_type, set(row_text))):
        row_levels = [1] * len(row_text)  # nothing in the row can be on another level
        order = np.arange(end - 1, begin - 1, -1)
    else:
        row_levels = levels(row_text, base)
        order = np.array(visual_order(row_levels)) + begin
    block.order[begin:end] = order  # type: ignore[index]
    for found in _MIRRORABLE.finditer(row_text):
        if row_levels[found.start()] % 2:
            _mirror(block, begin + found.start(), found[0], atlas)


def _mirror(block: Block, position: int, char: str, atlas: GlyphAtlas) -> None:
    glyph = atlas.glyph_of[MIRRORED[ord(char)]]
    if atlas.advance[glyph] == block.advance[position]:
        block.glyph[position], block.column[position] = glyph, atlas.first_column[glyph]
        block.left[position], block.right[position] = atlas.left[glyph], atlas.right[glyph]


def _place_rows(block: Block, rows: np.ndarray, margin: int) -> None:
    """Set the pens of rows (R,) along their visual order, and where their ink ends."""
    begins, ends = block.row_start[rows], block.row_start[rows + 1]
    sizes = ends - begins
    stops = np.cumsum(sizes)  # where each row ends when these rows alone stand behind each other
    starts = stops - sizes
    order = block.order[np.arange(stops[-1]) + np.repeat(begins - starts, sizes)]  # type: ignore[index]
    advance = block.advance[order]
    pen = np.cumsum(advance) - advance
    block.x[order] = pen - np.repeat(pen[starts] - margin, sizes)
    inked = np.flatnonzero(advance)
    last = np.searchsorted(inked, stops) - 1  # the row's last character with a width, if it is in the row
    filled = (last >= 0) & (inked[last] >= starts)
    block.ink_end[rows[filled]] = block.text_end[rows[filled]] + block.right[order[inked[last[filled]]]]
