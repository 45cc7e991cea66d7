"""Which font draws a character: the style's font first, then the fonts that are installed.

Owns the search for font files, their coverage and their fingerprints. Knows nothing about pages, rows or pixels.

Decisions
- Noto Sans travels with the package, so Latin, Greek and Cyrillic text gives the same bytes on every machine.
- Everything else falls back to installed fonts in an order that depends on file names alone, never on the order in
  which a directory lists them. Sans before serif, regular weights only: at 10 px a bold fallback is a blot.
- Coverage is read from a font's character map when a character first needs it, and kept; a text that the first font
  covers never opens a second one.
- Fonts without outlines (colour bitmaps) are left out: they have no 10 px size.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from importlib import resources
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import ImageFont

from vist.errors import VistError
from vist.render.style import PageStyle

RENDERER_VERSION = "1"  # raise it when the same text, style and fonts give other pixels

# Fields that styles did not always have: at these values pages are what they were before, and so are their hashes.
_LATER = {"align": "left", "letter_spacing": 0}

_SUFFIXES = (".ttf", ".otf", ".ttc", ".otc")
_OUTLINES = ("glyf", "CFF ", "CFF2")
_NOT_REGULAR = re.compile(
    r"bold|italic|oblique|light|thin|black|medium|heavy|semi|extra|condensed|narrow|unjoined|lastresort|adobeblank",
    re.IGNORECASE,
)


@lru_cache(maxsize=64)
def font_path(font: str) -> Path:
    """Return the file of a bundled font's name or of a path.

    Raises VistError when there is no such font or it is no outline font.
    """
    bundled = Path(str(resources.files("vist") / "assets" / "fonts" / f"{font}.ttf"))
    path = bundled if bundled.is_file() else Path(font).expanduser()
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in bundled.parent.glob("*.ttf")))
        raise VistError(f"There is no font {font!r}: give one of the bundled names ({names}) or the path of a file.")
    if not coverage(path):
        raise VistError(f"{font!r} is not an outline font with a character map: give a TrueType or OpenType file.")
    return path


@lru_cache(maxsize=1024)
def coverage(path: Path) -> frozenset[int]:
    """Return the code points that a font file maps to a glyph; empty for a file that is no usable outline font."""
    try:
        with TTFont(path, lazy=True, fontNumber=0) as font:
            if not any(table in font for table in _OUTLINES):
                return frozenset()
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, ValueError, KeyError, AssertionError, IndexError):
        return frozenset()  # a broken file on the user's disk is simply not a fallback


def font_directories() -> list[Path]:
    """Return the places where this platform keeps fonts, existing ones only."""
    home = Path.home()
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home / "AppData" / "Local"))
        places = [Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts", local / "Microsoft" / "Windows" / "Fonts"]
    elif sys.platform == "darwin":
        places = [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    else:
        data_home = Path(os.environ.get("XDG_DATA_HOME", home / ".local" / "share"))
        places = [Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), data_home / "fonts", home / ".fonts"]
    return [place for place in places if place.is_dir()]


@lru_cache(maxsize=1)
def installed_fonts() -> tuple[Path, ...]:
    """Return the regular fonts installed on this machine, in the order in which they are asked for a glyph."""
    found: dict[str, Path] = {}
    for place in font_directories():
        for folder, _, names in os.walk(place):
            for name in names:
                if name.lower().endswith(_SUFFIXES) and not _NOT_REGULAR.search(Path(name).stem):
                    found.setdefault(name, Path(folder) / name)
    return tuple(found[name] for name in sorted(found, key=_preference))


def _preference(name: str) -> tuple[int, str]:
    lower = name.lower()
    for rank, start in enumerate(("notosans-", "notosans", "notonaskh", "notoemoji", "noto", "dejavusans")):
        if lower.startswith(start) and "serif" not in lower:
            return rank, lower
    return (9 if "serif" not in lower else 10), lower


@lru_cache(maxsize=256)
def file_digest(path: Path) -> str:
    """Return the hexadecimal BLAKE2 digest of a font file."""
    return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()


@lru_cache(maxsize=1024)
def sized_font(path: Path, size: int, raqm: bool = False) -> ImageFont.FreeTypeFont:
    """Return the font at a size in pixels, with Pillow's basic layout or its shaping one."""
    engine = ImageFont.Layout.RAQM if raqm else ImageFont.Layout.BASIC
    return ImageFont.truetype(str(path), size, layout_engine=engine)


class FontStack:
    """An ordered list of font files; face 0 is the style's own font."""

    def __init__(self, font: str, fallback: tuple[str, ...] | None = None):
        first = font_path(font)
        rest = installed_fonts() if fallback is None else tuple(font_path(name) for name in fallback)
        self.paths: tuple[Path, ...] = (first, *(path for path in rest if path != first))

    def covering(self, code_point: int) -> Iterator[int]:
        """Yield the faces that have a glyph for a code point, best first."""
        for face, path in enumerate(self.paths):
            if code_point in coverage(path):
                yield face

    def covers(self, face: int, code_points: set[int]) -> bool:
        """Tell whether one face has a glyph for every one of the code points."""
        return code_points <= coverage(self.paths[face])


@lru_cache(maxsize=64)
def font_stack(font: str, fallback: tuple[str, ...] | None) -> FontStack:
    """Return the font stack of a style's `font` and `fallback`."""
    return FontStack(font, fallback)


@lru_cache(maxsize=64)
def fingerprint(style: PageStyle) -> str:
    """Return a digest of what decides the pixels besides the text: style, the style's font file, renderer version.

    Fallback fonts differ between machines and speak through the pixels, which page hashes cover too.
    """
    parts = [RENDERER_VERSION, file_digest(font_path(style.font))]
    drawn = style.to_dict()
    del drawn["name"], drawn["max_pages"], drawn["font"], drawn["fallback"]
    for name, usual in _LATER.items():
        if drawn[name] == usual:
            del drawn[name]
    parts.extend(f"{key}={drawn[key]}" for key in sorted(drawn))
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()
