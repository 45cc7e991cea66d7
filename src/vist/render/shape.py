"""Characters whose form or place depends on their neighbours: Arabic, Indic scripts, combining marks, joined emoji.

Owns the cutting of such stretches into pieces of one font and direction, and the drawing of a piece through Pillow's
raqm (HarfBuzz). Knows nothing about rows; the order of right-to-left text is `bidi`'s.

Decisions
- A piece is at most one word. Words repeat, so drawn pieces are kept (least recently used go first), and the memory
  stays bounded however long the text is.
- Each character of a piece owns a slice of the piece's columns, measured from the lengths of the piece's beginnings
  in joined form. So a word is broken at a row's edge, and looked up by patch, like any other stretch of characters.
- A cluster that no single font covers is drawn character by character, so that what is missing is known one by one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from vist.render.atlas import BLANK, JOINERS, LOST, RTL, SHAPE, Cells, GlyphAtlas, glyph_atlas
from vist.render.fonts import FontStack, sized_font
from vist.render.style import PageStyle

_ZWJ = 0x200D
_LONGEST = 64  # characters of a piece
_FOLLOWERS = frozenset(("Mn", "Mc", "Me"))


@dataclass
class Run:
    """The characters of a block on their way to rows; arrays (n,) as in `Block`.

    `glued` (bool) marks characters that stay on the row of the one before them; None when there are none.
    """

    codes: np.ndarray
    classes: np.ndarray
    glyph: np.ndarray
    column: np.ndarray
    left: np.ndarray
    right: np.ndarray
    advance: np.ndarray
    columns: np.ndarray
    glued: np.ndarray | None = None


@dataclass(frozen=True)
class Piece:
    """A drawn piece of n characters: its `cells`, and by character the first column (from the pen) and the width."""

    cells: Cells
    start: np.ndarray
    advance: np.ndarray


@dataclass(frozen=True)
class Item:
    """Characters `begin` to `end` of a block that one font draws in one direction."""

    begin: int
    end: int
    face: int
    rtl: bool


def find_items(codes: np.ndarray, classes: np.ndarray, stack: FontStack) -> Iterator[Item]:
    """Yield the pieces of a block, in order, from code points and class bits (n,)."""
    edges = np.flatnonzero(np.diff((classes & SHAPE).astype(bool), prepend=False, append=False))
    done = 0
    for begin, end in edges.reshape(-1, 2).tolist():
        if begin < done:
            continue
        clusters = []
        position = _base_before(codes, classes, begin, done)
        while position < end:
            stop = _cluster_end(codes, classes, position)
            clusters.append((position, stop))
            position = stop
            end = max(end, stop)
        done = position
        yield from _merge(clusters, codes, classes, stack)


def _base_before(codes: np.ndarray, classes: np.ndarray, begin: int, floor: int) -> int:
    """Return where the first cluster begins: one before, if the stretch starts with what belongs to a base."""
    base = begin - 1
    if base < floor or not _follows(int(codes[begin])) or classes[base] & (BLANK | LOST):
        return begin
    return base


@lru_cache(maxsize=1 << 16)
def _follows(code: int) -> bool:
    """Tell whether a character belongs to the one before it."""
    tag = 0x1F3FB <= code <= 0x1F3FF or 0xE0020 <= code <= 0xE007F
    return code in JOINERS or tag or unicodedata.category(chr(code)) in _FOLLOWERS


def _cluster_end(codes: np.ndarray, classes: np.ndarray, begin: int) -> int:
    """Return the end of the cluster at `begin`: a base, its marks, and what a joiner ties to it."""
    position, count = begin + 1, len(codes)
    if _is_flag(codes[begin]) and position < count and _is_flag(codes[position]):
        position += 1
    while position < count and position - begin < _LONGEST:
        tied = codes[position - 1] == _ZWJ and not classes[position] & BLANK
        if not tied and not _follows(int(codes[position])):
            break
        position += 1
    return position


def _is_flag(code: np.integer) -> bool:
    return 0x1F1E6 <= code <= 0x1F1FF


def _merge(
    clusters: list[tuple[int, int]], codes: np.ndarray, classes: np.ndarray, stack: FontStack
) -> Iterator[Item]:
    """Join neighbouring clusters of one font and direction; clusters that no font covers come out as no item."""
    item: Item | None = None
    for begin, end in clusters:
        face = _covering_face(tuple(codes[begin:end].tolist()), stack)
        rtl = bool(classes[begin] & RTL)
        if item and (item.end, item.face, item.rtl) == (begin, face, rtl) and end - item.begin <= _LONGEST:
            item = replace(item, end=end)
            continue
        if item:
            yield item
        item = Item(begin, end, face, rtl) if face is not None else None
    if item:
        yield item


def _covering_face(cluster: tuple[int, ...], stack: FontStack) -> int | None:
    needed = {code for code in cluster if code not in JOINERS} or set(cluster)
    return next((face for face in stack.covering(cluster[0]) if stack.covers(face, needed)), None)


@lru_cache(maxsize=1 << 15)
def draw_piece(style: PageStyle, face: int, text: str, rtl: bool) -> Piece | None:
    """Draw a piece of text with one face; None when it leaves no ink."""
    atlas, direction = glyph_atlas(style), "rtl" if rtl else "ltr"
    for size in range(style.font_size, 0, -1):
        cells = atlas.cells(face, text, size, direction)
        if cells is None:
            return None
        stops = _stops(atlas, face, text, size, direction, cells.advance)
        advance = np.diff(stops)
        if cells.fits and advance.max() <= style.text_width:
            break
    return Piece(cells, cells.advance - stops[1:] if rtl else stops[:-1], advance)


def _stops(atlas: GlyphAtlas, face: int, text: str, size: int, direction: str, total: int) -> np.ndarray:
    """Return where each character's share of the width begins and ends, (n + 1,) int64, in reading order.

    A beginning is measured with a joiner at its end, which keeps an Arabic letter in the form it has inside the word.
    """
    font = sized_font(atlas.stack.paths[face], size, raqm=True)
    stops = np.zeros(len(text) + 1, np.int64)
    for position in range(1, len(text)):
        if _follows(ord(text[position])):
            stops[position] = -1  # a mark has no width of its own: all of it is its base's
        else:
            stops[position] = round(font.getlength(text[:position] + chr(_ZWJ), direction=direction))
    stops[-1] = total
    stops = np.minimum(np.maximum.accumulate(stops), total)
    for position in range(len(text) - 1, 0, -1):
        if _follows(ord(text[position])):
            stops[position] = stops[position + 1]
    return stops


def shape_run(run: Run, text: str, atlas: GlyphAtlas) -> None:
    """Replace the glyphs of all stretches that need shaping by slices of shaped pieces, in place.

    The columns of the pieces are put behind those of the atlas in a copy that belongs to this run.
    """
    run.glued = np.zeros(len(run.codes), bool)
    extra: list[np.ndarray] = []
    placed: dict[int, int] = {}
    used = len(run.columns)
    for item in find_items(run.codes, run.classes, atlas.stack):
        piece = draw_piece(atlas.style, item.face, text[item.begin : item.end], item.rtl)
        if piece is None:
            continue
        at = placed.get(id(piece))
        if at is None:
            at = placed[id(piece)] = used
            extra.append(piece.cells.columns)
            used += len(piece.cells.columns)
        _apply(run, item, piece, at, atlas)
    run.columns = np.concatenate([run.columns, *extra])


def _apply(run: Run, item: Item, piece: Piece, at: int, atlas: GlyphAtlas) -> None:
    """Give the characters of an item their slices of a piece whose columns begin at `at`."""
    begin, end = item.begin, item.end
    run.glyph[begin:end] = 0
    run.column[begin:end] = at + piece.cells.left + piece.start
    run.advance[begin:end] = piece.advance
    run.left[begin:end] = run.right[begin:end] = 0
    first, last = (end - 1, begin) if item.rtl else (begin, end - 1)
    run.left[first], run.right[last] = piece.cells.left, piece.cells.right
    run.glued[begin + 1 : end] = True  # type: ignore[index]
    for position in range(begin, end):
        if run.codes[position] in JOINERS and atlas.stack.covers(item.face, {int(run.codes[position])}):
            run.classes[position] &= ~np.uint8(LOST)
