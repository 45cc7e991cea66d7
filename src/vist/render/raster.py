"""Places to pixels: one gather from the glyph atlas.

Owns the painting of a laid out block. Knows nothing about text, fonts or files.

Decisions
- A row is a list of column numbers of the atlas, so the block is one list: `np.repeat` writes each glyph's columns,
  one `take` fetches them (16 bytes each), one transposition turns columns into rows of pixels.
- Antialiased edges outside a glyph's advance box are laid over the neighbour's columns by the darker (stronger) pixel,
  so the order of drawing cannot matter.
"""

from __future__ import annotations

import numpy as np

from vist.render.atlas import GlyphAtlas
from vist.render.layout import Block


def paint(block: Block, atlas: GlyphAtlas) -> np.ndarray:
    """Draw a block: (P, height, width) uint8, rows below the text in the background colour."""
    style, rows = atlas.style, block.rows
    pages = block.pages(style.rows)
    columns = atlas.columns.take(_column_numbers(block, atlas), axis=0, mode="clip")
    _lay_over(columns, block, atlas)
    pixels = np.empty((pages * style.rows, style.row_height, style.width), np.uint8)
    drawn = columns.reshape(rows, style.width, -1)[:, :, : style.row_height]
    pixels[:rows] = drawn.transpose(0, 2, 1)
    pixels[rows:] = style.background
    return pixels.reshape(pages, style.height, style.width)


def _column_numbers(block: Block, atlas: GlyphAtlas) -> np.ndarray:
    """Return the atlas column of every pixel column of every row, (rows * width,) int64."""
    width, rows = atlas.style.width, block.rows
    counts = np.diff(block.row_start)
    entry = np.arange(len(block.codes)) + block.row + 1
    length = np.zeros(len(block.codes) + rows + 1, np.int64)
    length[entry] = block.advance
    # one stretch of background before each row and after the last: its margins and what its text leaves free
    edge = block.row_start + np.arange(rows + 1)
    text_end = _text_ends(block, atlas, counts)
    length[edge[:-1]] = atlas.style.margin_left
    length[edge[1:]] += width - text_end
    first = np.zeros(len(length), np.int64)
    first[entry] = atlas.first_column.take(block.glyph)
    start = np.cumsum(length) - length
    return np.repeat(first - start, length) + np.arange(rows * width)


def _text_ends(block: Block, atlas: GlyphAtlas, counts: np.ndarray) -> np.ndarray:
    last = np.maximum(block.row_start[1:] - 1, 0)
    ends = block.x[last].astype(np.int64) + block.advance[last]
    return np.where(counts > 0, ends, atlas.style.margin_left)


def _lay_over(columns: np.ndarray, block: Block, atlas: GlyphAtlas) -> None:
    """Add the ink that glyphs have outside their advance boxes."""
    stronger = np.minimum if atlas.style.foreground < atlas.style.background else np.maximum
    pen = block.row * atlas.style.width + block.x
    for reach, side in ((atlas.right.take(block.glyph), 1), (atlas.left.take(block.glyph), -1)):
        over = np.flatnonzero(reach)
        reach = reach[over]
        offset = block.advance[over].astype(np.int64) if side > 0 else np.full(len(over), -1)
        source, target = atlas.first_column[block.glyph[over]] + offset, pen[over] + offset
        for step in range(int(reach.max(initial=0))):
            deep = reach > step
            to = target[deep] + side * step
            columns[to] = stronger(columns[to], atlas.columns[source[deep] + side * step])
