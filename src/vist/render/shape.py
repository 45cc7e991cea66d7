"""Characters whose form or place depends on their neighbours: Arabic, Indic scripts, combining marks, joined emoji.

Owns the cutting of such stretches into pieces of one font and direction, and the drawing of a piece through Pillow's
raqm (HarfBuzz). Knows nothing about rows; the order of right-to-left text is `bidi`'s.

Decisions
- Words repeat, so a shaped word is kept whole (least recently used go first): the memory stays bounded however long
  the text is, and a word that is known costs one look-up.
- Each character of a piece owns a slice of the piece's columns, measured from the lengths of the piece's beginnings
  in joined form. So a word is broken at a row's edge, and looked up by patch, like any other stretch of characters.
- Where clusters do not touch each other (Latin with marks, Hebrew, Thai) each cluster is a piece; elsewhere a piece is
  as much of a word as one font covers.
- Letter spacing goes to pieces: between clusters where these are pieces, and around a whole word in scripts whose
  letters are joined or stacked, which it would tear.
- A cluster that no single font covers is drawn character by character, so that what is missing is known one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from vist.render.atlas import Cells, GlyphAtlas, glyph_atlas
from vist.render.characters import BLANK, JOINERS, LOST, RTL, SHAPE, classify, follows
from vist.render.fonts import FontStack, sized_font
from vist.render.style import PageStyle

_ZWJ = 0x200D
_LONGEST = 32  # characters of a piece, and of a word that is kept
_APART = ((0x0590, 0x05FF), (0x0E00, 0x0EFF))  # Hebrew, Thai, Lao


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


_FIELDS = ("column", "advance", "left", "right", "glued", "shaped", "found")
_COLUMN, _ADVANCE, _LEFT, _RIGHT, _GLUED, _SHAPED, _FOUND = range(len(_FIELDS))


@dataclass(frozen=True)
class Word:
    """A shaped word of n characters: its own `columns`, and a `table` (n, 7) int32 of what is known of each character.

    The table's columns are `_FIELDS`. `column` counts in the word's columns. `shaped` marks the characters that a piece
    draws; the others keep the glyphs that they have by themselves. `found` marks joiners and selectors that the font
    knows, which therefore are not lost.
    """

    columns: np.ndarray
    table: np.ndarray


def shape_run(run: Run, text: str, atlas: GlyphAtlas) -> None:
    """Replace the glyphs of all stretches that need shaping by slices of shaped words, in place.

    The columns of the words are put behind those of the atlas in a copy that belongs to this run.
    """
    spans = _spans(run.codes, run.classes)
    begins, ends = spans.T
    number: dict[str, int] = {}
    used = [  # two flat lists: one of pairs is work for Python's garbage collector
        number.setdefault(text[begin:end], len(number))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)
    ]
    words = [shape_word(atlas.style, word) for word in number]
    lengths = np.array([len(word.table) for word in words], np.int64)
    widths = np.array([len(word.columns) for word in words], np.int64)
    home = np.cumsum(widths) - widths + len(run.columns)
    size = ends - begins
    place = np.repeat(begins - (np.cumsum(size) - size), size) + np.arange(size.sum())
    source = np.repeat((np.cumsum(lengths) - lengths)[used] - begins, size) + place
    table = np.concatenate([word.table for word in words])[source]
    run.glued = np.zeros(len(run.codes), bool)
    run.glued[place] = table[:, _GLUED]
    run.classes[place[table[:, _FOUND] > 0]] &= ~np.uint8(LOST)
    shaped = table[:, _SHAPED] > 0
    place, table = place[shaped], table[shaped]
    run.glyph[place] = 0
    run.advance[place], run.left[place], run.right[place] = table[:, _ADVANCE], table[:, _LEFT], table[:, _RIGHT]
    run.column[place] = table[:, _COLUMN] + np.repeat(home[used], size)[shaped]
    run.columns = np.concatenate([run.columns, *(word.columns for word in words)])


def _spans(codes: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the stretches that need shaping, (S, 2), with the bases that marks sit on and what joiners tie to them."""
    edges = np.flatnonzero(np.diff((classes & SHAPE).astype(bool), prepend=False, append=False)).reshape(-1, 2)
    begins, ends = edges.T
    following = [follows(code) for code in codes[begins].tolist()]
    last = ends == len(codes)
    joined = (codes[ends - 1] == _ZWJ) & ~last & (classes[ends - last] & BLANK == 0)
    if any(following) or joined.any():
        based = np.array(following) & (begins > 0) & (classes[begins - 1] & (BLANK | LOST) == 0)
        edges = np.array(_widened(edges.tolist(), based.tolist(), joined.tolist()), np.int64)
    if (edges[:, 1] - edges[:, 0]).max() <= _LONGEST:
        return edges
    return np.array([part for begin, end in edges.tolist() for part in _parts(codes, begin, end)], np.int64)


def _widened(edges: list[list[int]], based: list[bool], joined: list[bool]) -> list[list[int]]:
    """Take the base before and what is joined behind into stretches, and make those that then touch one."""
    spans: list[list[int]] = []
    for (begin, end), has_base, is_joined in zip(edges, based, joined, strict=True):
        floor = spans[-1][1] if spans else 0
        if spans and begin <= floor:
            spans[-1][1] = max(end, floor)
        else:
            spans.append([begin - (has_base and begin > floor), end])
        if is_joined:
            spans[-1][1] = end + 1
    return spans


def _parts(codes: np.ndarray, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a stretch that is too long to be kept as one word, between clusters."""
    while end - begin > _LONGEST:
        stretch = tuple(codes[begin : begin + 2 * _LONGEST].tolist())
        stop = _cluster_end(stretch, 0)
        while not _stands_apart(stretch[0]) and stop < _LONGEST:
            stop = _cluster_end(stretch, stop)
        yield begin, min(begin + stop, end)
        begin += stop
    if begin < end:
        yield begin, end


@lru_cache(maxsize=1 << 16)
def _stands_apart(code: int) -> bool:
    return not classify(code)[0] & SHAPE or any(low <= code <= high for low, high in _APART)


def _cluster_end(codes: tuple[int, ...], begin: int) -> int:
    """Return the end of the cluster at `begin`: a base, its marks, and what a joiner ties to it."""
    position = begin + 1
    if codes[begin : begin + 2] and all(0x1F1E6 <= code <= 0x1F1FF for code in codes[begin : begin + 2]):
        position = min(begin + 2, len(codes))  # a flag is two letters
    while position < len(codes) and position - begin < _LONGEST:
        if codes[position - 1] != _ZWJ and not follows(codes[position]):
            break
        position += 1
    return position


@lru_cache(maxsize=1 << 14)
def shape_word(style: PageStyle, text: str) -> Word:
    """Shape a word in the fonts of a style."""
    atlas = glyph_atlas(style)
    codes = tuple(map(ord, text))
    table = np.zeros((len(text), len(_FIELDS)), np.int32)
    columns = [np.zeros((0, atlas.columns.shape[1]), np.uint8)]
    used = 0
    for begin, end, face, rtl in _items(codes, atlas.stack):
        piece = draw_piece(style, face, text[begin:end], rtl)
        if piece is None:
            continue
        cells = piece.cells
        table[begin:end, _SHAPED] = True
        table[begin + 1 : end, _GLUED] = True
        table[begin:end, _COLUMN] = used + cells.left + piece.start
        table[begin:end, _ADVANCE] = piece.advance
        table[end - 1 if rtl else begin, _LEFT] = cells.left
        table[begin if rtl else end - 1, _RIGHT] = cells.right
        table[begin:end, _FOUND] = [c in JOINERS and atlas.stack.covers(face, {c}) for c in codes[begin:end]]
        columns.append(cells.columns)
        used += len(cells.columns)
    return Word(np.concatenate(columns), table)


def _items(codes: tuple[int, ...], stack: FontStack) -> Iterator[tuple[int, int, int, bool]]:
    """Yield (begin, end, face, right-to-left) of the pieces; clusters that no font covers are left out."""
    begin = 0
    while begin < len(codes):
        end = _cluster_end(codes, begin)
        face, rtl = _covering_face(codes[begin:end], stack), _is_rtl(codes[begin])
        while not _stands_apart(codes[begin]) and end < len(codes) and end - begin < _LONGEST:
            after = _cluster_end(codes, end)
            if _is_rtl(codes[end]) != rtl or _covering_face(codes[end:after], stack) != face:
                break
            end = after
        if face is not None:
            yield begin, end, face, rtl
        begin = end


def _is_rtl(code: int) -> bool:
    return bool(classify(code)[0] & RTL)


@lru_cache(maxsize=1 << 14)
def _covering_face(cluster: tuple[int, ...], stack: FontStack) -> int | None:
    needed = {code for code in cluster if code not in JOINERS} or set(cluster)
    return next((face for face in stack.covering(cluster[0]) if stack.covers(face, needed)), None)


@lru_cache(maxsize=1 << 14)
def draw_piece(style: PageStyle, face: int, text: str, rtl: bool) -> Piece | None:
    """Draw a piece of text with one face; None when it leaves no ink."""
    atlas, direction = glyph_atlas(style), "rtl" if rtl else "ltr"
    for size in range(style.font_size, 0, -1):
        cells = atlas.cells(face, text, size, direction)
        if cells is None:
            return None
        stops = _stops(atlas, face, text, size, direction, cells.advance)
        advance = np.diff(stops)
        if size == 1 or (cells.fits and advance.max() <= style.text_width):
            return Piece(cells, cells.advance - stops[1:] if rtl else stops[:-1], advance)
    return None


def _stops(atlas: GlyphAtlas, face: int, text: str, size: int, direction: str, total: int) -> np.ndarray:
    """Return where each character's share of the width begins and ends, (n + 1,) int64, in reading order.

    A beginning is measured with a joiner at its end, which keeps an Arabic letter in the form it has inside the word.
    """
    font = sized_font(atlas.stack.paths[face], size, raqm=True)
    before = atlas.style.space_before
    lead = before if direction == "ltr" else atlas.style.letter_spacing - before  # is the first character's
    stops = np.zeros(len(text) + 1, np.int64)
    for position in range(1, len(text)):
        if follows(ord(text[position])):
            stops[position] = -1  # a mark has no width of its own: all of it is its base's
        else:
            stops[position] = lead + round(font.getlength(text[:position] + chr(_ZWJ), direction=direction))
    stops[-1] = total
    stops = np.minimum(np.maximum.accumulate(stops), total)
    for position in range(len(text) - 1, 0, -1):
        if follows(ord(text[position])):
            stops[position] = stops[position + 1]
    return stops
