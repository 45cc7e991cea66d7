"""What a character is to the renderer, and the pixels of every glyph, drawn once.

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
- A code point that no font covers is drawn as U+FFFD and marked, and so are control characters and surrogates.
"""

from __future__ import annotations

import threading
import unicodedata
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from vist.render.fonts import FontStack, font_stack, sized_font
from vist.render.style import PageStyle

# Bits of a character's class.
BLANK = 1  # leaves no ink, and a row may break after it
NEWLINE = 2
TAB = 4
WIDE = 8  # a row may break on both sides: CJK
DASH = 16  # a row may break after it
SHAPE = 32  # its form or place depends on its neighbours
RTL = 64
LOST = 128  # not drawn as it is: `GlyphAtlas.loss` says how

REPLACEMENT = 0xFFFD
_NEWLINES = frozenset((0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029))
_NO_BREAK = frozenset((0xA0, 0x2007, 0x202F))
_INVISIBLE = frozenset((0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0))  # letters by category, drawn as nothing
_JOINERS = frozenset((0x200C, 0x200D, 0xFE0E, 0xFE0F))
_DASHES = frozenset((0x2D, 0x2010, 0x2012, 0x2013, 0x2014))
_WIDE_RANGES = ((0x2E80, 0xA4CF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF), (0xFF00, 0xFFEF), (0x20000, 0x3FFFF))
# Blocks whose letters change form, place or order: Indic and South-East Asian, Tibetan, Mongolian, old Hangul.
_SHAPE_RANGES = (
    (0x0900, 0x0DFF), (0x0E00, 0x109F), (0x1100, 0x11FF), (0x1700, 0x18AF), (0x1900, 0x1CFF), (0xA800, 0xABFF),
    (0xD7B0, 0xD7FF), (0x11000, 0x11FFF), (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF), (0xE0020, 0xE007F),
)  # fmt: skip


def _within(code_point: int, ranges: tuple[tuple[int, int], ...]) -> bool:
    return any(low <= code_point <= high for low, high in ranges)


def classify(code_point: int) -> tuple[int, str]:
    """Return a code point's class bits and what is lost by drawing it ("" for nothing, if a font has it)."""
    if code_point in _NEWLINES:
        return BLANK | NEWLINE, ""
    if code_point == 0x09:
        return BLANK | TAB, ""
    char = chr(code_point)
    category = unicodedata.category(char)
    if category in ("Cc", "Cs"):
        return 0, "replaced"
    if code_point in _JOINERS or _within(code_point, _SHAPE_RANGES) or category in ("Mn", "Mc", "Me"):
        return SHAPE, ""
    if category == "Cf" and unicodedata.bidirectional(char) != "AN" or code_point in _INVISIBLE:
        return 0, "dropped"
    if category == "Zs":
        return (0 if code_point in _NO_BREAK else BLANK), ""
    if unicodedata.bidirectional(char) in ("R", "AL", "AN"):
        return SHAPE | RTL, ""
    if _within(code_point, _WIDE_RANGES):
        return WIDE, ""
    return (DASH if code_point in _DASHES else 0), ""


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


class GlyphAtlas:
    """The glyphs of one style, growing as texts bring new characters.

    By code point (length 0x110000): `glyph_of` (-1 = not met yet), `class_of`. By glyph: `first_column` (of the
    advance box), `advance`, `left` and `right` (columns of ink before and after the box), `face`. `columns` is
    (columns, row_height) uint8. Glyph 0 is empty and is followed by a page's width of background columns.
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
        self.baseline = (style.row_height - ascent - descent) // 2 + ascent
        self._reserve()
        self.blank_advance = max(draw(self.stack, 0, " ", style.font_size).advance, 1)

    def _reserve(self) -> None:
        width, pad = self.style.width, -self.style.row_height % 16
        self.used_columns, self.used_glyphs = width, 1
        self.columns = np.full((4096 + width, self.style.row_height + pad), self.style.background, np.uint8)
        self.first_column = np.zeros(1024, np.int64)
        self.advance, self.left, self.right, self.face = (np.zeros(1024, np.int32) for _ in range(4))

    def learn(self, code_points: np.ndarray) -> None:
        """Draw and classify the code points that were not met yet."""
        with self._lock:
            for code_point in np.unique(code_points).tolist():
                if self.glyph_of[code_point] < 0:
                    self._learn_one(code_point)

    def _learn_one(self, code_point: int) -> None:
        bits, loss = classify(code_point)
        if bits & NEWLINE and self.style.newline == "space":
            bits ^= NEWLINE
        if loss == "dropped":
            glyph = self._add_empty(0)
        elif loss == "replaced":
            glyph = self._drawn(REPLACEMENT)
        elif bits & BLANK or unicodedata.category(chr(code_point)) == "Zs":
            glyph = self._add_empty(self._blank_width(code_point, bits))
        else:
            glyph = self._drawn(code_point)
            if glyph < 0:
                loss, glyph = "missing", self._drawn(REPLACEMENT)
        if loss:
            self.loss[code_point] = loss
            bits |= LOST
        self.class_of[code_point] = bits
        self.glyph_of[code_point] = glyph  # last: another thread may look as soon as it is there

    def _blank_width(self, code_point: int, bits: int) -> int:
        if bits & NEWLINE:
            return 0
        if bits & TAB or code_point in _NEWLINES or not self.stack.covers(0, {code_point}):
            return self.style.font_size if code_point == 0x3000 else self.blank_advance
        return draw(self.stack, 0, chr(code_point), self.style.font_size).advance

    def _drawn(self, code_point: int) -> int:
        """Return the glyph of a code point from the first face that has ink for it; -1 when none has."""
        if code_point == REPLACEMENT and self.glyph_of[code_point] >= 0:
            return int(self.glyph_of[code_point])
        for face in self.stack.covering(code_point):
            glyph = self.add_text(face, chr(code_point))
            if glyph is not None:
                return glyph
        return self._add_box() if code_point == REPLACEMENT else -1

    def add_text(self, face: int, text: str, direction: str | None = None) -> int | None:
        """Draw text as one glyph, at the style's size or the largest below it that fits a row; None without ink."""
        style = self.style
        for size in range(style.font_size, 0, -1):
            bitmap = draw(self.stack, face, text, size, direction)
            if not bitmap.ink.size:
                return None
            bitmap = self._inside_margins(bitmap)
            if bitmap.ink.shape[0] <= style.row_height and bitmap.advance <= style.text_width:
                break
        return self._add(bitmap, face)

    def _inside_margins(self, bitmap: Bitmap) -> Bitmap:
        """Widen the advance of a glyph whose ink would reach further out of its box than the margins are wide."""
        shift = max(-bitmap.x - self.style.margin_left, 0)
        x = bitmap.x + shift
        reach = x + bitmap.ink.shape[1] - self.style.margin_right
        return bitmap._replace(x=x, advance=max(bitmap.advance + shift, reach, 1))

    def _add_box(self) -> int:
        """Add the hollow box that stands for U+FFFD when not even that has a glyph."""
        size = max(self.style.font_size - 3, 3)
        ink = np.full((size, size - 2), 255, np.uint8)
        ink[1:-1, 1:-1] = 0
        return self._add(Bitmap(ink, 1, -size, size), 0)

    def _add_empty(self, advance: int) -> int:
        return self._add(Bitmap(np.zeros((0, 0), np.uint8), 0, 0, advance), 0)

    def _add(self, bitmap: Bitmap, face: int) -> int:
        style, (height, width) = self.style, bitmap.ink.shape
        left = max(-bitmap.x, 0) if width else 0
        right = max(bitmap.x + width - bitmap.advance, 0) if width else 0
        cells = np.zeros((left + bitmap.advance + right, self.columns.shape[1]), np.uint8)
        if width:
            top = min(max(self.baseline + bitmap.y, 0), style.row_height - height)
            cells[left + bitmap.x : left + bitmap.x + width, top : top + height] = bitmap.ink.T
        glyph, column = self.used_glyphs, self.used_columns
        self._grow(glyph + 1, column + len(cells))
        self.columns[column : column + len(cells)] = self._levels[cells]
        self.first_column[glyph], self.advance[glyph] = column + left, bitmap.advance
        self.left[glyph], self.right[glyph], self.face[glyph] = left, right, face
        self.used_glyphs, self.used_columns = glyph + 1, column + len(cells)
        return glyph

    def _grow(self, glyphs: int, columns: int) -> None:
        if glyphs > len(self.advance):
            for name in ("first_column", "advance", "left", "right", "face"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        while columns > len(self.columns):
            self.columns = np.concatenate([self.columns, np.zeros_like(self.columns)])


def _levels(style: PageStyle) -> np.ndarray:
    """Return the pixel value for each coverage from 0 to 255."""
    coverage = np.arange(256)
    step = (style.foreground - style.background) * coverage
    return (style.background + np.round(step / 255)).astype(np.uint8)


@lru_cache(maxsize=16)
def glyph_atlas(style: PageStyle) -> GlyphAtlas:
    """Return the atlas of a style; styles that differ only in name or page limit are equal to the cache by value."""
    return GlyphAtlas(style)
