"""Rows with right-to-left characters, put in visual order after they were broken in reading order.

Owns the application of `bidi` to a laid out block. Knows nothing about shaping or pixels.

Decisions
- The base direction is that of the paragraph, by its first strong letter; a paragraph ends at a newline of the text,
  also where the style draws that as a blank. Rows begin at the left edge in both directions, so the ink mask is the
  same kind of thing for every script.
- Brackets and the like are mirrored in right-to-left stretches when the mirrored glyph is as wide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vist.render.atlas import GlyphAtlas
from vist.render.bidi import MIRRORABLE, MIRRORED, base_level, bidi_type, levels, visual_order
from vist.render.characters import NEWLINES, RTL

if TYPE_CHECKING:
    from vist.render.block import Block

_TURNING = frozenset(("L", "EN", "AN"))  # what may run the other way in a right-to-left row
_NEWLINES = "".join(map(chr, sorted(NEWLINES)))


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
    paragraphs = np.append(0, np.flatnonzero(np.isin(block.codes, list(NEWLINES))) + 1)
    starts = paragraphs[np.searchsorted(paragraphs, block.row_start[rows], side="right") - 1]
    bases: dict[int, int | None] = {0: base} if base is not None else {}
    for row, start in zip(rows.tolist(), starts.tolist(), strict=True):
        if start not in bases:
            bases[start] = base_level(text, start)
        _reorder_row(block, row, text, bases[start] or 0, atlas)


def _reorder_row(block: Block, row: int, text: str, base: int, atlas: GlyphAtlas) -> None:
    begin, end = block.row_start[row : row + 2].tolist()
    row_text = text[begin:end]
    kinds = {bidi_type(char) for char in set(row_text)}
    if base and not kinds & _TURNING:
        row_levels = [1] * len(row_text)  # nothing in the row can be on another level
        order = np.arange(end - 1, begin - 1, -1)
    else:
        row_levels = levels(row_text, base)
        order = np.array(visual_order(row_levels)) + begin
    if not MIRRORABLE.isdisjoint(row_text):
        _mirror(block, begin, row_levels, atlas)
    block.order[begin:end] = order  # type: ignore[index]
    advance = block.advance[order]
    block.x[order] = np.cumsum(advance) - advance + atlas.style.margin_left
    inked = np.flatnonzero(advance)
    if len(inked):
        block.ink_end[row] = block.text_end[row] + block.right[order[inked[-1]]]


def _mirror(block: Block, begin: int, row_levels: list[int], atlas: GlyphAtlas) -> None:
    for position, level in enumerate(row_levels, begin):
        mirrored = MIRRORED.get(int(block.codes[position])) if level % 2 else None
        if mirrored is None:
            continue
        glyph = atlas.glyph_of[mirrored]
        if atlas.advance[glyph] == block.advance[position]:
            block.glyph[position], block.column[position] = glyph, atlas.first_column[glyph]
            block.left[position], block.right[position] = atlas.left[glyph], atlas.right[glyph]
