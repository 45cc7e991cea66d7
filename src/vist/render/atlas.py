"""The pixels of every glyph of a style, drawn once.

Owns the tables that are looked up by code point (class, glyph) and by glyph (columns, advance, overhang). Knows
nothing about rows or pages.

Decisions
- Glyphs are kept as columns: `columns[c]` holds the pixels of one column of a row, top to bottom, already in the
  style's colours. A row is then a list of column numbers, and drawing is one gather.
- Advances are whole pixels, hinted, without kerning: a glyph looks the same wherever it stands, which is easier to
  read for a small encoder and makes the page independent of the order of drawing.
- A glyph may put ink outside its advance box, but never further than the style's margins: the advance of the few
  glyphs that would is widened. A glyph that is too high is moved, then drawn smaller, until it fits the row. So
  nothing is ever clipped.
- Letter spacing belongs to the glyph: half of it stands before the ink and half behind, so a row needs no further
  thought and the centre of an advance box stays the centre of its letter. Spacing below zero takes from an advance only
  as long as the ink stays within the margins, and never its last pixel.
- A code point that no font covers is drawn as U+FFFD and marked, and so are control characters and surrogates.
"""

from __future__ import annotations

import threading
import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vist.render.bidi import MIRRORED
from vist.render.characters import BLANK, LOST, NEWLINE, NEWLINES, REPLACEMENT, SHAPE, TAB, can_shape, classify
from vist.render.fonts import FontStack, font_stack, sized_font
from vist.render.style import PageStyle


class Bitmap(NamedTuple):
    """One drawn glyph: coverage `ink` (height, width) whose top left corner stands at (`x`, `y`) from the pen."""

    ink: np.ndarray
    x: int
    y: int
    advance: int


def draw(stack: FontStack, face: int, text: str, size: int, direction: str | None = None) -> Bitmap:
    """Draw text with one face at a size; `direction` ("ltr" or "rtl") asks for shaping.

    Returns coverage 0 to 255, cut to the ink; the pen is at the left end of the baseline.
    """
    font = sized_font(stack.paths[face], size, raqm=direction is not None)
    advance = round(font.getlength(text, direction=direction))
    left, top, right, bottom = (int(edge) for edge in font.getbbox(text, anchor="ls", direction=direction))
    left, top, right, bottom = left - 2, top - 2, right + 2, bottom + 2  # hinting can reach past the box it reports
    image = Image.new("L", (max(right - left, 1), max(bottom - top, 1)), 0)
    ImageDraw.Draw(image).text((-left, -top), text, fill=255, font=font, anchor="ls", direction=direction)
    box = image.getbbox()
    if box is None:
        return Bitmap(np.zeros((0, 0), np.uint8), 0, 0, advance)
    return Bitmap(np.asarray(image.crop(box)), box[0] + left, box[1] + top, advance)


class Cells(NamedTuple):
    """A glyph as columns of a row, in the style's colours: (left + advance + right, height) uint8.

    `left` and `right` count the columns of ink outside the advance box. `fits` is False for a glyph that was higher
    than the row and had to be cut.
    """

    columns: np.ndarray
    left: int
    advance: int
    right: int
    fits: bool


class GlyphAtlas:
    """The glyphs of one style, growing as texts bring new characters.

    By code point (length 0x110000): `glyph_of` (-1 = not met yet), `class_of`; `loss` names the kind for the LOST. By
    glyph: `first_column` (of the advance box), `advance`, `left` and `right` (columns of ink before and after the
    box). `columns` is (columns, row_height padded to 16) uint8. Glyph 0 is empty; the first columns, thrice a
    page's width, are background: what a row can leave free, and an empty row below it.
    """

    def __init__(self, style: PageStyle):
        self.style = style
        self.stack = font_stack(style.font, style.fallback)
        self.glyph_of = np.full(0x110000, -1, np.int32)
        self.class_of = np.zeros(0x110000, np.uint8)
        self.loss: dict[int, str] = {}
        self._lock = threading.Lock()
        self._levels = _levels(style)
        ascent, descent = sized_font(self.stack.paths[0], style.font_size).getmetrics()
        self._baseline = (style.row_height - ascent - descent) // 2 + ascent
        self._used_columns, self._used_glyphs = 3 * style.width, 1
        padded = style.row_height + -style.row_height % 16
        self.columns = np.full((4096 + 3 * style.width, padded), style.background, np.uint8)
        self.first_column = np.zeros(1024, np.int64)
        self.advance = np.zeros(1024, np.int32)
        self.left, self.right = np.zeros(1024, np.uint8), np.zeros(1024, np.uint8)
        self._blank = self._spaced_blank(max(draw(self.stack, 0, " ", style.font_size).advance, 1))

    @property
    def blank_advance(self) -> int:
        """Width of a blank in pixels."""
        return self._blank

    def learn(self, codes: np.ndarray) -> None:
        """Draw and classify the code points that were not met yet, and the mirror images of brackets."""
        with self._lock:
            new = np.unique(codes).tolist()
            for code in new + [MIRRORED[code] for code in new if code in MIRRORED]:
                if self.glyph_of[code] < 0:
                    self._learn_one(code)

    def _learn_one(self, code: int) -> None:
        bits, loss = classify(code)
        folded = NEWLINE if self.style.newline == "space" else 0
        folded |= TAB if self.style.tab_width == 1 else 0
        if bits & folded:
            bits, loss = BLANK, "folded"
        if loss == "dropped":
            glyph = self._add(self._empty(0))
        elif bits & BLANK or unicodedata.category(chr(code)) == "Zs":
            glyph = self._add(self._empty(self._blank_width(code, bits)))
        else:
            found = None if loss == "replaced" else self._drawn(code)
            if found is None:
                loss = loss or "missing"
                found = self._replacement()
            elif bits & SHAPE and not can_shape():
                loss = "unshaped"
            glyph = self._add(found)
        if loss:
            self.loss[code] = loss
            bits |= LOST
        self.class_of[code] = bits
        self.glyph_of[code] = glyph  # last: another thread may look as soon as it is there

    def _blank_width(self, code: int, bits: int) -> int:
        if bits & NEWLINE:
            return 0
        if code == 0x3000:
            return self._spaced_blank(self.style.font_size)
        if code in NEWLINES or bits & TAB or not self.stack.covers(0, {code}):
            return self._blank
        return self._spaced_blank(draw(self.stack, 0, chr(code), self.style.font_size).advance)

    def _spaced_blank(self, advance: int) -> int:
        return max(advance + self.style.letter_spacing, min(advance, 1))

    def _drawn(self, code: int) -> Cells | None:
        """Return the cells of a code point from the first face that has ink for it; None when none has."""
        style = self.style
        for face in self.stack.covering(code):
            for size in range(style.font_size, 0, -1):
                cells = self.cells(face, chr(code), size)
                if cells is None:
                    break
                if (cells.fits and cells.advance <= style.text_width) or size == 1:
                    return cells
        return None

    def _replacement(self) -> Cells:
        """Return U+FFFD, or a hollow box where not even that has a glyph."""
        drawn = self._drawn(REPLACEMENT)
        if drawn is not None:
            return drawn
        size = max(self.style.font_size - 3, 4)
        ink = np.full((size, size - 2), 255, np.uint8)
        ink[1:-1, 1:-1] = 0
        return self._cells(self._spaced(Bitmap(ink, 1, -size, size)))

    def cells(self, face: int, text: str, size: int, direction: str | None = None) -> Cells | None:
        """Draw text as one glyph at a size; None when it leaves no ink. `direction` asks for shaping."""
        bitmap = draw(self.stack, face, text, size, direction)
        return self._cells(self._spaced(self._inside_margins(bitmap))) if bitmap.ink.size else None

    def _inside_margins(self, bitmap: Bitmap) -> Bitmap:
        """Widen the advance of a glyph whose ink would reach further out of its box than the margins are wide."""
        shift = max(-bitmap.x - self.style.margin_left, 0)
        x = bitmap.x + shift
        reach = x + bitmap.ink.shape[1] - self.style.margin_right
        return bitmap._replace(x=x, advance=max(bitmap.advance + shift, reach, 1))

    def _spaced(self, bitmap: Bitmap) -> Bitmap:
        """Add the letter spacing to the advance of a glyph whose ink is inside the margins."""
        x = bitmap.x + self.style.space_before
        reach = x + bitmap.ink.shape[1] - self.style.margin_right
        return bitmap._replace(x=x, advance=max(bitmap.advance + self.style.letter_spacing, reach, 1))

    def _empty(self, advance: int) -> Cells:
        return Cells(np.full((advance, self.columns.shape[1]), self.style.background, np.uint8), 0, advance, 0, True)

    def _cells(self, bitmap: Bitmap) -> Cells:
        height, width = bitmap.ink.shape
        room, advance = self.style.row_height, bitmap.advance
        left, right = max(-bitmap.x, 0), max(bitmap.x + width - advance, 0)
        ink = np.zeros((left + advance + right, self.columns.shape[1]), np.uint8)
        top = max(min(max(self._baseline + bitmap.y, 0), room - height), 0)
        ink[left + bitmap.x : left + bitmap.x + width, top : min(top + height, room)] = bitmap.ink[:room].T
        return Cells(self._levels[ink], left, advance, right, height <= room)

    def _add(self, cells: Cells) -> int:
        glyph, column = self._used_glyphs, self._used_columns
        end = column + len(cells.columns)
        while end > len(self.columns):
            self.columns = np.concatenate([self.columns, np.zeros_like(self.columns)])
        if glyph == len(self.advance):
            for name in ("first_column", "advance", "left", "right"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        self.columns[column:end] = cells.columns
        self.first_column[glyph], self.advance[glyph] = column + cells.left, cells.advance
        self.left[glyph], self.right[glyph] = cells.left, cells.right
        self._used_glyphs, self._used_columns = glyph + 1, end
        return glyph


def _levels(style: PageStyle) -> np.ndarray:
    """Return the pixel value for each coverage from 0 to 255."""
    step = (style.foreground - style.background) * np.arange(256)
    return (style.background + np.round(step / 255)).astype(np.uint8)


@lru_cache(maxsize=16)
def glyph_atlas(style: PageStyle) -> GlyphAtlas:
    """Return the atlas of a style, shared by all who draw with it."""
    return GlyphAtlas(style)
