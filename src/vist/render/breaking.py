"""Where a row ends: greedy word wrap over cumulative widths.

Owns the row rule. Knows widths and classes of characters; nothing about fonts or pixels of glyphs.

The row rule: a row takes words as long as the ink of the next one fits; the blanks between two rows hang at the end of
the upper one and take no room. A word wider than a row is broken at the row's edge, and begins on a row of its own. A
newline that the style keeps ends the row. A row holds at most `MAX_ROW` characters, so that a megabyte of blanks or of
invisible characters cannot make an unbounded page.

Decisions
- For every word at once, one `searchsorted` finds the first word that does not fit on a row that begins with it. What
  is left of the loop is one step per row, not per word or character.
- Tab stops depend on where in its row a tab stands, so rows with tabs are measured one by one.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from vist.render.atlas import BLANK, DASH, NEWLINE, TAB, WIDE

MAX_ROW = 4096


@dataclass(frozen=True)
class Words:
    """Unbreakable stretches of a text of n characters, in order, joined without gaps.

    `starts` and `ends` (W,) int64: the first character, and the one after the last that is no blank (a stretch of
    blanks ends where it starts). `line` (W,): number of the first word of the next line, W on the last line.
    """

    starts: np.ndarray
    ends: np.ndarray
    line: np.ndarray


def find_words(classes: np.ndarray, glued: np.ndarray | None, present: int) -> Words:
    """Split n characters with class bits `classes` (n,) uint8 into words.

    `glued` (n,) bool marks characters that stay with the one before them; `present` is the OR of all class bits.
    """
    blank = (classes & BLANK).astype(bool)
    begins = np.empty(len(classes), bool)
    begins[0] = True
    np.logical_and(blank[:-1], ~blank[1:], out=begins[1:])
    if present & WIDE:
        wide = (classes & WIDE).astype(bool)
        begins[1:] |= (wide[1:] | wide[:-1]) & ~blank[1:]
    if present & DASH:
        begins[1:] |= _after_dash(classes, blank)
    if glued is not None:
        begins &= ~glued
    newlines = np.flatnonzero(classes & NEWLINE) if present & NEWLINE else None
    if newlines is not None:
        begins[newlines[newlines + 1 < len(begins)] + 1] = True
    begins[0] = True
    starts = np.flatnonzero(begins)
    return Words(starts, _ink_ends(starts, blank), _lines(starts, newlines))


def _after_dash(classes: np.ndarray, blank: np.ndarray) -> np.ndarray:
    """Mark positions 1.. that follow a dash inside a word: neither a leading minus nor one before a blank."""
    after = np.zeros(len(classes) - 1, bool)
    dashes = np.flatnonzero(classes & DASH)
    dashes = dashes[(dashes > 0) & (dashes + 1 < len(classes))]
    inner = ~blank[dashes - 1] & ~blank[dashes + 1] & (classes[dashes + 1] & DASH == 0)
    after[dashes[inner & (classes[dashes - 1] & DASH == 0)]] = True
    return after


def _ink_ends(starts: np.ndarray, blank: np.ndarray) -> np.ndarray:
    ends = np.append(starts[1:], len(blank))
    trailing = blank[ends - 1]
    if not trailing.any():
        return ends
    ends = ends - trailing
    if not (blank[ends - 1] & (ends > starts)).any():
        return ends
    last_ink = np.maximum.accumulate(np.where(blank, -1, np.arange(len(blank))))
    return np.maximum(last_ink[np.append(starts[1:], len(blank)) - 1] + 1, starts)


def _lines(starts: np.ndarray, newlines: np.ndarray | None) -> np.ndarray:
    if newlines is None or not len(newlines):
        return np.full(len(starts), len(starts))
    firsts = np.append(np.searchsorted(starts, newlines + 1), len(starts))
    return firsts[np.searchsorted(newlines, starts)]


def break_rows(words: Words, cum: np.ndarray, width: int) -> np.ndarray:
    """Return the first character of each row, (R,) int64, for `cum` (n + 1,) cumulative widths in pixels."""
    count = len(words.starts)
    reach = cum[words.ends]
    following = np.minimum(np.searchsorted(reach, cum[words.starts] + width, side="right"), words.line)
    too_long = following == np.arange(count)
    limits = np.append(words.starts, len(cum) - 1)
    too_long |= limits[following] - words.starts > MAX_ROW
    following[too_long] = -1
    step, starts = memoryview(following), memoryview(words.starts)
    rows: list[int] = []
    word = 0
    while word < count:
        rows.append(starts[word])
        after = step[word]
        word = after if after > 0 else _break_word(words, cum, width, word, reach, rows)
    return np.array(rows, np.int64)


def _break_word(words: Words, cum: np.ndarray, width: int, word: int, reach: np.ndarray, rows: list[int]) -> int:
    """Append the rows that begin inside a word too long for one; return the word that the next row begins with."""
    starts, end, position = words.starts, len(cum) - 1, rows[-1]
    widths = memoryview(cum)
    while True:
        limit = widths[position] + width
        following = min(int(np.searchsorted(reach, limit, side="right")), int(words.line[word]))
        if following > word:
            stop = int(starts[following]) if following < len(starts) else end
            if stop - position <= MAX_ROW:
                return following
            position += MAX_ROW
            word = int(np.searchsorted(starts, position, side="right")) - 1
            if starts[word] == position:
                return word
        else:
            position = min(bisect_right(widths, limit, position + 1) - 1, position + MAX_ROW)
        rows.append(position)
