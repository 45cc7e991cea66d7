"""Places to pixels: one gather from the glyph atlas.

Owns the painting of a laid out block. Knows nothing about text, fonts or files.

Decisions
- A row is a list of column numbers of the atlas, so the block is one list: `np.repeat` writes each character's
  columns, `take` fetches them (16 bytes each), a transposition turns columns into rows of pixels. The last two go
  tile by tile, so that the columns in between never leave the cache.
- Antialiased edges outside a glyph's advance box are laid over the neighbour's pixels, the stronger one wins, so the
  order of drawing cannot matter.
"""

from __future__ import annotations

import numpy as np

from vist.render.block import Block
from vist.render.style import PageStyle

_TILE = 64  # rows painted at a time


def paint(block: Block, style: PageStyle, out: np.ndarray) -> None:
    """Draw a block into `out` (P, height, width) uint8, rows below the text in the background colour."""
    rows, width = block.rows, style.width
    pixels = out.reshape(-1, style.row_height, width)
    numbers = _column_numbers(block, style)
    scratch = np.empty((min(_TILE, rows) * width, block.columns.shape[1]), np.uint8)
    for first in range(0, rows, _TILE):
        last = min(first + _TILE, rows)
        columns = scratch[: (last - first) * width]
        block.columns.take(numbers[first * width : last * width], axis=0, mode="clip", out=columns)
        drawn = columns.reshape(last - first, width, -1)[:, :, : style.row_height]
        pixels[first:last] = drawn.transpose(0, 2, 1)
    pixels[rows:] = style.background
    _lay_over(pixels, block, style)


def _column_numbers(block: Block, style: PageStyle) -> np.ndarray:
    """Return the atlas column of every pixel column of every row, (rows * width,) int64; 0 is background.

    Each character's columns run on to where the next one starts, so the last of a row is given what its row leaves
    free. As a rule that is a hanging blank, which is sent to the wide background at the atlas's start; a row that ends
    in ink is cleared behind it.
    """
    rows, width = block.rows, style.width
    order = slice(None) if block.order is None else block.order
    column, start = block.column[order], (block.row * width + block.x)[order]
    filled = np.flatnonzero(np.diff(block.row_start))
    last = block.row_start[filled + 1] - 1
    hangs = block.advance[order][last] == 0
    column = column.copy()
    column[last[hangs]] = 0
    share = np.diff(start, append=rows * width)
    share[0] += start[0]
    numbers = np.repeat(column - start, share)
    numbers += np.arange(rows * width)
    by_row = numbers.reshape(rows, width)
    by_row[:, : style.margin_left] = 0
    inked = filled[~hangs]
    by_row[inked] *= np.arange(width) < block.text_end[inked, None]
    return numbers


def _lay_over(pixels: np.ndarray, block: Block, style: PageStyle) -> None:
    """Add the ink that glyphs have outside their advance boxes to pixels (rows, row_height, width)."""
    stronger = np.minimum if style.foreground < style.background else np.maximum
    for reach, side in ((block.right, 1), (block.left, -1)):
        over = np.flatnonzero(reach)
        reach, row = reach[over], block.row[over]
        offset = block.advance[over] if side > 0 else np.full(len(over), -1)
        source, x = block.column[over] + offset, block.x[over] + offset
        for step in range(int(reach.max(initial=0))):
            deep = reach > step
            ink = block.columns[source[deep] + side * step, : style.row_height]
            place = row[deep], slice(None), x[deep] + side * step
            pixels[place] = stronger(pixels[place], ink)
