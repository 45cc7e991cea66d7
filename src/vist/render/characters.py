"""What a character is to the renderer: a blank, a newline, part of a cluster, a loss.

Owns the classes of code points. Knows nothing about fonts, glyphs or rows.

Decisions
- A class is a byte of bits, so that the classes of a whole text are one table look-up and their union tells which
  steps the text needs at all.
- The classes follow Unicode's categories and directions as Python's `unicodedata` has them; the few lists are of what
  those do not say: which blocks need shaping, which characters are invisible although they are letters.
"""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import features

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
NEWLINES = frozenset((0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029))
_NO_BREAK = frozenset((0xA0, 0x2007, 0x202F))
_INVISIBLE = frozenset((0x115F, 0x1160, 0x17B4, 0x17B5, 0x3164, 0xFFA0))  # letters by category, drawn as nothing
JOINERS = frozenset((0x200C, 0x200D, 0xFE0E, 0xFE0F))
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
    if code_point in NEWLINES:
        return BLANK | NEWLINE, ""
    if code_point == 0x09:
        return BLANK | TAB, ""
    char = chr(code_point)
    category = unicodedata.category(char)
    if category in ("Cc", "Cs"):
        return 0, "replaced"
    if code_point in JOINERS:
        return SHAPE, "dropped"  # alone it does nothing; in a shaped piece it is not lost
    if _within(code_point, _SHAPE_RANGES) or category in ("Mn", "Mc", "Me"):
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


@lru_cache(maxsize=1)
def can_shape() -> bool:
    """Tell whether this Pillow has raqm; on Linux that also takes the system's FriBiDi library."""
    return bool(features.check("raqm"))


@lru_cache(maxsize=1 << 16)
def follows(code: int) -> bool:
    """Tell whether a character belongs to the one before it: a mark, a joiner, a skin tone, a tag, a Thai or Lao AM."""
    if code in (0x0E33, 0x0EB3):
        return True
    tag = 0x1F3FB <= code <= 0x1F3FF or 0xE0020 <= code <= 0xE007F
    return code in JOINERS or tag or unicodedata.category(chr(code)) in ("Mn", "Mc", "Me")
