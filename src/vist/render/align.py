"""Where rows stand between the margins: moved to the right or to the middle, or stretched from margin to margin.

Owns the alignments other than the left one, which needs nothing done. Knows rows that are broken; nothing about fonts
or pixels.

Decisions
- Rows are broken first and aligned afterwards, so every alignment has the same rows and page spans.
- A justified row grows at the blanks between its words, in whole pixels, spread evenly from left to right in reading
  order. Blanks before the first letter or the last tab of a row keep their width: indents and tab stops stay in line.
- The last row of a paragraph is not stretched, nor is a row without such a blank. A paragraph ends at a newline that
  the style keeps, and at the end of the text.
- "right" and "center" move whole rows, whichever way they are read; "left" and "justify" begin at the left margin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from vist.render.characters import BLANK, NEWLINE, TAB
from vist.render.style import PageStyle

if TYPE_CHECKING:
    from vist.render.block import Block


def justify(block: Block, style: PageStyle) -> None:
    """Widen the blanks of the rows that a paragraph goes on behind until they end at the right margin, in place."""
    rows = block.row
    slack = style.margin_left + style.text_width - block.text_end
    slack[~_goes_on(block)] = 0
    places = np.flatnonzero((block.classes & BLANK).astype(bool) & (block.advance > 0))
    places = places[(places > _first_free(block)[rows[places]]) & (slack[rows[places]] > 0)]
    home = rows[places]
    count = np.bincount(home, minlength=block.rows)
    rank = np.arange(len(places)) - (np.cumsum(count) - count)[home]
    room, share = slack[home], count[home]
    growth = (rank + 1) * room // share - rank * room // share
    moved = np.zeros(len(rows) + 1, np.int64)
    moved[places + 1] = growth
    moved = np.cumsum(moved)
    block.x += (moved[:-1] - moved[block.row_start[rows]]).astype(np.int32)
    block.advance[places] += growth.astype(np.int32)
    block.column[places] = 0  # the wide background, since a blank's own columns are too few
    gained = np.where(count > 0, slack, 0)
    block.text_end += gained
    block.ink_end += gained


def _goes_on(block: Block) -> np.ndarray:
    """Return which rows (R,) another row of the same paragraph follows."""
    ends = block.row_start[1:]
    return (ends < len(block.codes)) & ~(block.classes[ends - 1] & NEWLINE).astype(bool)


def _first_free(block: Block) -> np.ndarray:
    """Return for each row (R,) the character behind which blanks may grow: its first with ink or its last tab."""
    free = np.full(block.rows, len(block.codes))
    inked = np.flatnonzero(~(block.classes & BLANK).astype(bool) & (block.advance > 0))
    home, first = np.unique(block.row[inked], return_index=True)
    free[home] = inked[first]
    tabs = np.flatnonzero((block.classes & TAB).astype(bool) & (block.advance > 0))
    last = np.zeros(block.rows, np.int64)
    np.maximum.at(last, block.row[tabs], tabs)
    return np.maximum(free, last)


def move_rows(block: Block, style: PageStyle) -> None:
    """Move the rows that have ink to the right margin or to the middle, in place, as the style says."""
    slack = style.margin_left + style.text_width - block.text_end
    offset = np.where(block.ink_end > 0, slack if style.align == "right" else slack // 2, 0)
    block.x += offset[block.row].astype(np.int32)
    block.text_end += offset
    block.ink_end += offset
    block.text_start = style.margin_left + offset
    block.ink_start = block.text_start.copy()
    filled = np.flatnonzero(np.diff(block.row_start))
    leftmost = np.minimum.reduceat(block.x - block.left.astype(np.int32), block.row_start[filled])
    block.ink_start[filled] = leftmost


def widen_ink(block: Block) -> None:
    """Let the ink of each row end where the last pixel of any of its glyphs may be, in place.

    Letters set closer than their advances can reach over the last one of a row.
    """
    filled = np.flatnonzero(np.diff(block.row_start))
    reach = np.maximum.reduceat(block.x + block.advance + block.right, block.row_start[filled])
    block.ink_end[filled] = np.where(block.ink_end[filled] > 0, reach, 0)
