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

from vist.render.characters import BLANK, DASH, NEWLINE, WIDE

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
    blank = (classes & BLANK).view(bool)
    turns = np.flatnonzero(blank[1:] != blank[:-1]) + 1  # where ink turns to blank or back
    inked = int(not blank[0])
    starts = np.append(0, turns[inked::2])
    ends = turns[1 - inked :: 2] if inked else np.append(0, turns[1::2])
    if not blank[-1]:
        ends = np.append(ends, len(classes))
    newlines = np.flatnonzero(classes & NEWLINE) if present & NEWLINE else None
    cuts = _cuts(classes, blank, glued, present)
    if newlines is not None:
        after = newlines + 1
        after = after[after < len(classes)]
        cuts = np.union1d(cuts, after[blank[after]])  # a line that begins with ink begins a word already
    if len(cuts):
        starts = np.sort(np.concatenate([starts, cuts]), kind="stable")
        ends = np.sort(np.concatenate([ends, cuts]), kind="stable")
    return Words(starts, ends, _lines(starts, newlines))


def _cuts(classes: np.ndarray, blank: np.ndarray, glued: np.ndarray | None, present: int) -> np.ndarray:
    """Return the positions at which a row may break between two characters with ink, ascending."""
    if not present & (WIDE | DASH):
        return np.zeros(0, np.int64)
    begins = np.zeros(len(classes), bool)
    if present & WIDE:
        wide = (classes & WIDE).astype(bool)
        begins[1:] = wide[1:] | wide[:-1]
    if present & DASH:
        dashes = np.flatnonzero(classes & DASH)
        dashes = dashes[(dashes > 0) & (dashes + 1 < len(classes))]
        single = (classes[dashes - 1] | classes[dashes + 1]) & DASH == 0
        begins[dashes[single] + 1] |= ~blank[dashes[single] - 1]  # neither a leading minus nor a rule of dashes
    if glued is not None:
        begins &= ~glued
    cuts = np.flatnonzero(begins)
    return cuts[~(blank[cuts] | blank[cuts - 1])]


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
    step, starts = following.data, words.starts.data
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
    widths = cum.data
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


def break_tabbed_rows(
    words: Words, cum: np.ndarray, width: int, tabs: np.ndarray, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows as `break_rows` does, and by how many pixels each tab grows to reach its stop.

    `tabs` are the positions of tabs, measured in `cum` as one blank each; stops are `stop` pixels apart in each row.
    """
    starts, reach, end = words.starts, cum[words.ends], len(cum) - 1
    widths, growth = cum.data, np.zeros(len(tabs), np.int64)
    rows: list[int] = []
    position = tab = 0
    while position < end:
        rows.append(position)
        extra, floor = 0, position + 1
        while True:
            following = _row_stop(words, reach, widths, position, width - extra)
            following = min(max(following, floor), position + MAX_ROW)
            if tab == len(tabs) or tabs[tab] >= following:
                break
            at = int(tabs[tab])
            growth[tab] = -(widths[at + 1] - widths[position] + extra) % stop
            extra += int(growth[tab])
            after = int(np.searchsorted(starts, at, side="right"))  # blanks behind the tab hang with it
            floor = int(starts[after]) if after < len(starts) else end
            tab += 1
        position = following
    return np.array(rows, np.int64), growth


def _row_stop(words: Words, reach: np.ndarray, widths: memoryview, position: int, width: int) -> int:
    """Return the first character of the row after the one that begins at `position`, were it `width` wide."""
    starts, end = words.starts, len(widths) - 1
    word = int(np.searchsorted(starts, position, side="right")) - 1
    limit = widths[position] + width
    following = min(int(np.searchsorted(reach, limit, side="right")), int(words.line[word]))
    if following > word:
        return int(starts[following]) if following < len(starts) else end
    return bisect_right(widths, limit, position + 1) - 1
