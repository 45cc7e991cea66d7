"""Places to pixels: one gather from the glyph atlas.

Owns the painting of a laid out block. Knows nothing about text, fonts or files.

Decisions
- A row is a list of column numbers of the atlas: `np.repeat` writes each character's columns, one `take` fetches them
  (16 bytes each), a transposition turns columns into rows of pixels. All of it tile by tile, so that what lies in
  between never leaves the cache.
- Antialiased edges outside a glyph's advance box are laid over the neighbour's columns, the stronger pixel wins, so
  the order of drawing cannot matter.
"""

from __future__ import annotations

import numpy as np

from vist.render.block import Block
from vist.render.style import PageStyle

_TILE = 128  # rows painted at a time


def paint(block: Block, style: PageStyle, out: np.ndarray) -> None:
    """Draw a block into `out` (P, height, width) uint8, rows below the text in the background colour."""
    rows, width = block.rows, style.width
    pixels = out.reshape(-1, style.row_height, width)
    scratch = np.empty((min(_TILE, rows) * width, block.columns.shape[1]), np.uint8)
    for first in range(0, rows, _TILE):
        last = min(first + _TILE, rows)
        order = slice(int(block.row_start[first]), int(block.row_start[last]))
        pen = (block.row[order] - first) * width + block.x[order]
        columns = scratch[: (last - first) * width]
        numbers = _column_numbers(block, first, last, pen, style)
        block.columns.take(numbers, axis=0, mode="clip", out=columns)
        _lay_over(columns, block, order, pen, style)
        drawn = columns.reshape(last - first, width, -1)[:, :, : style.row_height]
        pixels[first:last] = drawn.transpose(0, 2, 1)
    pixels[rows:] = style.background


def _column_numbers(block: Block, first: int, last: int, pen: np.ndarray, style: PageStyle) -> np.ndarray:
    """Return the atlas column of every pixel column of rows `first` to `last`, (rows * width,) int64.

    `pen` is the pixel column at which each of their characters starts, counted from the first row's left edge. Each
    character's columns run on to where the next one starts, so the last of a row is given what its row leaves free.
    As a rule that is a hanging blank, which is sent to the wide background at the atlas's start; a row that ends in
    ink is cleared behind it.
    """
    rows, width = last - first, style.width
    row_start = block.row_start[first : last + 1]
    begin, end = int(row_start[0]), int(row_start[-1])
    column, advance = block.column[begin:end].copy(), block.advance[begin:end]
    if block.order is not None:
        order = block.order[begin:end] - begin
        column, advance, pen = column[order], advance[order], pen[order]
    filled = np.flatnonzero(np.diff(row_start))
    ending = row_start[filled + 1] - 1 - begin
    hangs = advance[ending] == 0
    column[ending[hangs]] = 0
    share = np.diff(pen, append=rows * width)
    share[0] += pen[0]
    numbers = np.repeat(column - pen, share)
    numbers += np.arange(rows * width)
    numbers[: pen[0]] = 0
    by_row = numbers.reshape(rows, width)
    by_row[:, : style.margin_left] = 0
    if block.text_start is not None:  # a row that ended in ink runs on to where this one begins
        by_row *= np.arange(width) >= block.text_start[first:last, None]
    inked = filled[~hangs]
    by_row[inked] *= np.arange(width) < block.text_end[first + inked, None]
    return numbers


def _lay_over(columns: np.ndarray, block: Block, order: slice, pen: np.ndarray, style: PageStyle) -> None:
    """Add the ink that the characters of a tile have outside their advance boxes to columns (rows * width, height)."""
    stronger = np.minimum if style.foreground < style.background else np.maximum
    advance, column = block.advance[order], block.column[order]
    for reaches, side in ((block.right[order], 1), (block.left[order], -1)):
        over = np.flatnonzero(reaches != 0)  # on bools it is five times as fast
        reach = reaches[over]
        offset = advance[over] if side > 0 else np.full(len(over), -1)
        source, target = column[over] + offset, pen[over] + offset
        for step in range(0, side * int(reach.max(initial=0)), side):
            if step:
                deep = reach > abs(step)
                source, target, reach = source[deep], target[deep], reach[deep]
            place = target + step
            ink = block.columns.take(source + step, axis=0, mode="clip")
            columns[place] = stronger(columns.take(place, axis=0, mode="clip"), ink)
