"""Where characters go, against a slow word wrap that is written here from the rule alone."""

from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from vist.render import PageStyle, layout, render
from vist.render.fonts import font_path

ALONE = {"fallback": ()}  # the bundled font alone, so that tests do not depend on the machine
STYLES = {
    "vist": PageStyle(**ALONE),
    "small": PageStyle(name="small", width=56, height=42, font_size=8, **ALONE),
    "break": PageStyle(name="break", width=56, height=42, newline="break", tab_width=4, **ALONE),
    "blank": PageStyle(name="blank", width=70, height=56, newline="blank", **ALONE),
    "spaced": PageStyle(name="spaced", width=70, height=42, newline="break", tab_width=4, letter_spacing=3, **ALONE),
}
BLANKS, DASHES, WIDE = " \t\n", "-—", "中文"


@lru_cache
def width(char, size):
    font = ImageFont.truetype(str(font_path("NotoSans-Regular")), size, layout_engine=ImageFont.Layout.BASIC)
    if char in "\n\t":
        char = " "
    return int(font.getlength("\ufffd" if char in WIDE else char))


def room(char, style):
    return width(char, style.font_size) + style.letter_spacing


def may_break(text, i):
    """Whether a row may begin at `i` although no blank stands before it."""
    if text[i - 1] in WIDE or text[i] in WIDE:
        return True
    if text[i - 1] not in DASHES or i < 2:
        return False
    return text[i - 2] not in BLANKS + DASHES and text[i] not in DASHES


def slow_rows(text, style):
    """Return (first, last + 1) of every row, by trying one character after the other."""
    rows, start, folds = [], 0, style.newline == "space"
    while start < len(text):
        x, i, stop, tab = 0, start, None, style.tab_width * room(" ", style)
        while i < len(text):
            char = text[i]
            if char == "\n" and not folds:
                stop = i + 1
                break
            wide = room(char, style)
            if char == "\t" and style.tab_width > 1:
                wide += -(x + wide) % tab
            if char not in BLANKS and x + wide > style.text_width:
                stop = stop or i
                break
            x, i = x + wide, i + 1
            if i < len(text) and text[i] not in BLANKS and (char in BLANKS or may_break(text, i)):
                stop = i
        else:
            stop = len(text)
        rows.append((start, stop))
        if not folds and text[stop - 1] == "\n" and style.newline == "blank" and stop < len(text):
            rows.append((stop, stop))
        start = stop
    return rows


def rows_of(placed):
    """Return the rows of a layout that hold characters, as (page, row, first, last + 1)."""
    number = placed.page.astype(int) * placed.style.rows + placed.row
    edges = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(number)]
    return [(int(number[a]), a, b) for a, b in pairwise(edges) if b > a]


texts = st.text(alphabet="aaabciW. " + BLANKS + DASHES + WIDE, max_size=120)


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=150, deadline=None)
@given(text=texts)
def test_rows_follow_the_rule(name, text):
    style = STYLES[name]
    expected = slow_rows(text, style)
    assert rows_of(layout(text, style)) == [(n, a, b) for n, (a, b) in enumerate(expected) if b > a]


@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=80, deadline=None)
@given(text=st.text(max_size=200))
def test_every_character_is_on_one_page_inside_its_bounds(name, text):
    style = STYLES[name]
    placed, pages = layout(text, style), render(text, style)
    assert "".join(text[a:b] for a, b in pages.spans) == text
    assert np.array_equal(pages.spans, placed.spans) and np.array_equal(pages.ink, placed.ink)
    assert len(placed.page) == len(text) and len(pages) == len(placed)
    for number, (a, b) in enumerate(placed.spans):
        assert (placed.page[a:b] == number).all()
    assert (placed.advance >= 0).all() and (placed.x >= style.margin_left).all()
    assert (placed.x + placed.advance <= style.width - style.margin_right).all()
    assert ((placed.row >= 0) & (placed.row < style.rows)).all()
    assert ((placed.cells() >= 0) & (placed.cells() < style.cols)).all()


def test_advances_are_the_fonts_whole_pixels():
    text, style = "The quick brown fox jumps over the lazy dog; 0123456789 (all of it)!", STYLES["vist"]
    placed = layout(text, style)
    for _, a, b in rows_of(placed):
        shown = [i for i in range(a, b) if placed.advance[i]]
        assert placed.x[a] == 1
        assert [int(placed.advance[i]) for i in shown] == [width(text[i], 10) for i in shown]
        assert (np.diff(placed.x[shown]) == placed.advance[shown][:-1]).all()


def test_a_blank_that_hangs_takes_no_room_at_the_rows_end():
    text = "word " * 40
    placed = layout(text, STYLES["vist"])
    for _, _, b in rows_of(placed):
        assert text[b - 1] == " " and placed.advance[b - 1] == 0
        assert placed.x[b - 1] == placed.x[b - 2] + placed.advance[b - 2]


def test_ink_ends_where_the_row_ends():
    style = STYLES["break"]
    placed = layout("i\nooo\n\nooooo", style)
    ends = [placed.x[i] + placed.advance[i] for i in (0, 4)]
    expected = [-(-int(end) // 14) for end in ends]
    assert placed.ink[0].sum(axis=1).tolist() == [*expected, 0]
    assert (placed.ink[0] == np.sort(placed.ink[0], axis=1)[:, ::-1]).all()


def test_cells_hold_the_centres():
    placed = layout("The five boxing wizards jump quickly. " * 30, "vist")
    centres = placed.x + placed.advance / 2
    assert np.array_equal(placed.cells(), np.minimum(centres // 14, 15))


def test_carriage_returns_are_one_newline():
    style = STYLES["break"]
    for ending in ("\r\n", "\n", "\r", "\u2028"):
        text = f"ab{ending}{ending}cd"
        assert [row for row, _, _ in rows_of(layout(text, style))] == [0, 1, 2]


def test_tab_stops_are_columns():
    style, blank = PageStyle(name="code", newline="break", tab_width=4, **ALONE), width(" ", 10)
    placed = layout("\ta\tb\ni\tc", style)
    assert [(int(placed.x[i]) - 1) % (4 * blank) for i in (1, 3, 7)] == [0, 0, 0]
    assert placed.x[1] == placed.x[7] == 1 + 4 * blank


def test_a_row_is_never_longer_than_the_limit():
    for text in (" " * 20000, "a" + "\u200b" * 20000, "\t" * 9000):
        for style in ("vist", "code"):
            placed = layout(text, style)
            assert max(b - a for _, a, b in rows_of(placed)) <= 4096
            assert placed.spans[-1, 1] == len(text)
