"""One page for a whole text, as large as it takes.

Owns the search for its size. The idea is that of "Text or Pixels?" (arXiv 2510.18279), where letters shrink until the
text fits an image of a given size; here letters stay readable and the image grows.
"""

from __future__ import annotations

import math

from vist.errors import VistError
from vist.render.draft import Draft
from vist.render.style import PageStyle

_ROW = 14  # px
_SIDES = (20, 146)  # rows: 280 to 2,044 px wide
_TALLEST = 16_384 // _ROW  # rows
_UPRIGHT = math.sqrt(2)  # height of a sheet of paper in widths


def single_page(text: str, font_size: int = 10) -> PageStyle:
    """Return the style of the narrowest page, no taller than a sheet of paper, that holds a text.

    Raises VistError for a text that does not fit one page of the largest size.
    """
    low, high = _SIDES
    while low < high:
        middle = (low + high) // 2
        if _rows(text, middle, font_size) <= math.floor(_UPRIGHT * middle):
            high = middle
        else:
            low = middle + 1
    rows = _rows(text, low, font_size)
    if rows > _TALLEST:
        raise VistError(f"The text needs {rows:,} rows and one page has room for {_TALLEST:,}; use another style.")
    return _style(low, max(1, rows), font_size)


def _rows(text: str, width: int, font_size: int) -> int:
    """Rows that a text takes on a page of this width."""
    return sum(int(bottom) for _, bottom in Draft(text, _style(width, _TALLEST, font_size)).filled()) // _ROW


def _style(width: int, rows: int, font_size: int) -> PageStyle:
    return PageStyle(
        name="single",
        width=width * _ROW,
        height=rows * _ROW,
        row_height=_ROW,
        font_size=font_size,
        newline="break",
        tab_width=4,
    )
