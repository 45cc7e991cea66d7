"""A text laid out and not yet drawn: how much room it takes, and its pages when they are wanted.

Owns `Draft`, which spares whoever compares several styles the painting of all but one, and a second layout of that
one. Knows nothing about prices.
"""

from __future__ import annotations

import numpy as np

from vist.errors import VistError
from vist.render.atlas import glyph_atlas
from vist.render.block import Block, advances, lost_places
from vist.render.layout import check_page_limit, lay_blocks
from vist.render.pages import Pages, draw_blocks
from vist.render.style import PageStyle


class Draft:
    """A text on the pages of a style, before they are drawn.

    Raises VistError for a text that is no string, an unknown style, or more pages than the style's limit.
    """

    def __init__(self, text: str, style: str | PageStyle = "vist"):
        if not isinstance(text, str):
            raise VistError(f"Draft() places a string and was given {type(text).__name__}: decode it or join it first.")
        self.text, self.style = text, PageStyle.named(style)
        self._blocks = [block for _, block in lay_blocks([text], glyph_atlas(self.style))]
        check_page_limit(len(self), self.style, self.style.max_pages)

    def __len__(self) -> int:
        return sum(block.pages(self.style.rows) for block in self._blocks)

    def filled(self) -> np.ndarray:
        """Return the px from the left edge and from the top that text fills on each page, (P, 2) int64.

        The right margin counts as filled, blanks that hang over a row's end do not.
        """
        parts = [_filled(block, self.style) for block in self._blocks]
        return np.concatenate([np.zeros((0, 2), np.int64), *parts])

    def draw(self) -> Pages:
        """Return the pages, as `render` would."""
        return draw_blocks(self._blocks, self.text, self.style)


def _filled(block: Block, style: PageStyle) -> np.ndarray:
    tops = np.arange(0, block.rows, style.rows)
    right = np.maximum.reduceat(np.maximum(block.text_end, block.ink_end), tops) + style.margin_right
    rows = np.diff(np.append(tops, block.rows))
    return np.stack([np.minimum(right, style.width), rows * style.row_height], axis=1)


def measure(text: str, style: str | PageStyle = "vist") -> np.ndarray:
    """Return the width in px of every character of a text, (n,) int32, tabs as one blank; nothing is placed."""
    return advances(text, glyph_atlas(PageStyle.named(style)))


def undrawn(text: str, style: str | PageStyle = "vist") -> np.ndarray:
    """Return the places of the characters that a page would not show as they are, (n,) int64; nothing is placed."""
    return lost_places(text, glyph_atlas(PageStyle.named(style)))
