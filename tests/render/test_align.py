"""Alignment and letter spacing, against places worked out here character by character and pixels drawn by Pillow."""

import sys
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from vist.render import Draft, Pages, PageStyle, iter_pages, layout, measure, render
from vist.render.fonts import coverage, font_path, installed_fonts

ALIGNS, SPACINGS = ("left", "right", "center", "justify"), (-1, 0, 1, 4)
PLAIN = PageStyle(name="plain", width=112, height=42, newline="break", tab_width=4, margin_right=2, fallback=())
STYLES = [replace(PLAIN, align=align, letter_spacing=n) for align, n in product(ALIGNS, SPACINGS)]
NAMES = [f"{style.align}{style.letter_spacing:+d}" for style in STYLES]
FOLDED = [replace(style, newline="space", margin_left=0, tab_width=1) for style in STYLES]
PROSE = (
    "In another moment down went Alice after it,\n\tnever once considering how in the world she was to get out again."
    "\n\n  fjord (jÅW) incomprehensibilities\tand tabs: one two three four-five—six, end"
)
needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason="this Pillow cannot shape: no raqm or no FriBidi")


def rows_of(placed):
    number = placed.page.astype(int) * placed.style.rows + placed.row
    return [np.flatnonzero(number == row) for row in np.unique(number)]


def slow_places(text, style):
    """Return (x, advance) of every character, one after the other, from the rows and widths of the left style."""
    plain = layout(text, replace(style, align="left"))
    x, advance = plain.x.tolist(), plain.advance.tolist()
    edge = style.width - style.margin_right
    for row in rows_of(plain):
        row = row.tolist()
        inked = [i for i in row if advance[i] and text[i] not in " \t\n"]
        if not inked:
            continue
        free = edge - max(x[i] + advance[i] for i in row)
        if style.align in ("right", "center"):
            for i in row:
                x[i] += free if style.align == "right" else free // 2
        last = row[-1] + 1 == len(text) or text[row[-1]] == "\n" and style.newline != "space"
        tabs = [i for i in row if text[i] == "\t" and advance[i] and style.tab_width > 1]
        blanks = [i for i in row if text[i] in " \t\n" and advance[i] and i > max([inked[0], *tabs])]
        if style.align == "justify" and not last and blanks:
            added = 0
            for i in row:
                x[i] += added
                if i in blanks:
                    wider = (blanks.index(i) + 1) * free // len(blanks) - added
                    advance[i] += wider
                    added += wider
    return x, advance


texts = st.text(alphabet="aaabcifW.  \n\t-—", max_size=120)


@pytest.mark.parametrize("style", STYLES + FOLDED, ids=NAMES + [f"{name}-folded" for name in NAMES])
@settings(max_examples=15, deadline=None)
@given(text=texts)
def test_places_are_those_of_the_left_rows_moved_or_stretched(style, text):
    placed, plain = layout(text, style), layout(text, replace(style, align="left"))
    assert np.array_equal(placed.spans, plain.spans) and np.array_equal(placed.row, plain.row)
    x, advance = slow_places(text, style)
    assert placed.x.tolist() == x and placed.advance.tolist() == advance


@pytest.mark.parametrize("style", STYLES + FOLDED, ids=NAMES + [f"{name}-folded" for name in NAMES])
@settings(max_examples=10, deadline=None)
@given(text=st.one_of(texts, st.text(max_size=120)))
def test_everything_is_on_one_page_inside_the_margins_and_under_the_ink(style, text):
    placed, pages = layout(text, style), render(text, style)
    assert "".join(text[a:b] for a, b in pages.spans) == text
    assert np.array_equal(pages.ink, placed.ink)
    assert (placed.x >= style.margin_left).all()
    assert (placed.x + placed.advance <= style.width - style.margin_right).all()
    cells = pages.pixels.reshape(len(pages), style.rows, 14, style.cols, 14)
    assert not ((cells != 255).any(axis=(2, 4)) & ~pages.ink).any()
    drawn = placed.advance > 0
    assert pages.ink[placed.page[drawn], placed.row[drawn], placed.cells()[drawn]].all()
    assert Draft(text, style).draw().hashes == pages.hashes


@pytest.mark.parametrize("style", STYLES, ids=NAMES)
def test_pixels_are_pillows_glyphs_at_the_layouts_places(style):
    font = ImageFont.truetype(str(font_path(style.font)), style.font_size, layout_engine=ImageFont.Layout.BASIC)
    x, _ = slow_places(PROSE, style)
    placed, pages = layout(PROSE, style), render(PROSE, style)
    ink = np.zeros_like(pages.pixels)
    for i, char in enumerate(PROSE):
        if char in "\n\t":
            continue
        one = Image.new("L", (style.width, style.height))
        at = (x[i] + max(style.letter_spacing, 0) // 2, int(placed.row[i]) * 14 + 11)
        ImageDraw.Draw(one).text(at, char, fill=255, font=font, anchor="ls")
        ink[placed.page[i]] = np.maximum(ink[placed.page[i]], np.asarray(one))
    assert np.array_equal(pages.pixels, 255 - ink)


@pytest.mark.parametrize("align", ["right", "justify"])
def test_rows_end_at_the_right_margin_but_for_the_last_of_a_justified_paragraph(align):
    text = "one two three four five six seven eight nine ten eleven twelve\nand another paragraph of some words\nx"
    style = replace(PLAIN, align=align)
    placed = layout(text, style)
    ends = {int(row[-1]): int((placed.x + placed.advance)[row].max()) for row in rows_of(placed)}
    last = [i for i in ends if text[i] == "\n" or i + 1 == len(text)]
    assert len(ends) > len(last) == 3
    for i, end in ends.items():
        assert (end == style.width - style.margin_right) == (align == "right" or i not in last)


def test_center_leaves_as_much_on_both_sides():
    placed = layout("one two\nthree\n", replace(PLAIN, align="center"))
    for row in rows_of(placed):
        left, right = placed.x[row].min() - 1, 110 - (placed.x + placed.advance)[row].max()
        assert 0 <= right - left <= 1


@pytest.mark.parametrize("spacing", range(9))
@settings(max_examples=20, deadline=None)
@given(words=st.lists(st.text(alphabet="abWij.—é中\u00a0", min_size=1, max_size=9), min_size=1, max_size=9))
def test_spacing_widens_a_line_by_so_many_px_for_each_character(spacing, words):
    text, style = " ".join(words), PageStyle(width=2800, fallback=())
    wide = replace(style, letter_spacing=spacing)
    assert (measure(text, wide) - measure(text, style) == spacing).all()
    (right,), (plain,) = Draft(text, wide).filled()[:, 0], Draft(text, style).filled()[:, 0]
    assert layout(text, wide).advance.sum() == layout(text, style).advance.sum() + spacing * len(text)
    assert 0 <= right - plain - spacing * len(text) + 1 <= 1  # an edge behind the last letter fits its spacing


def test_letters_set_closer_keep_one_px_and_stay_inside_narrow_margins():
    text = "".join(map(chr, range(33, 127))) + "ĴŴﬁ—…"
    for margin in (0, 1, 5):
        style = PageStyle(width=1400, margin_left=margin, margin_right=margin, fallback=())
        narrow = measure(text, replace(style, letter_spacing=-1)) - measure(text, style)
        assert set(narrow.tolist()) <= {-1, 0} and (narrow == -1).sum() > (0 if margin == 0 else len(text) // 2)
    assert (measure(" \u200b\u00ad", replace(style, letter_spacing=-1)) == [2, 0, 0]).all()


def test_ink_covers_a_letter_that_reaches_over_the_last_one_of_its_row():
    style = PageStyle(width=160, height=8, row_height=8, font_size=5, margin_left=5, margin_right=5, fallback=())
    for text, align in product(("i" * n + "#!" for n in range(40)), ALIGNS):
        pages = render(text, replace(style, letter_spacing=-1, align=align))
        cells = (pages.pixels != 255).reshape(len(pages), 8, 20, 8).any(axis=(1, 3))
        assert not (cells & ~pages.ink[:, 0]).any()


def test_characters_without_width_get_no_spacing():
    style = PageStyle(newline="break", letter_spacing=8, fallback=())
    assert measure("\ufeff\u200b\u00ad\n", style).tolist() == [0, 0, 0, 0]


@needs_raqm
def test_marks_stay_on_their_base():
    for spacing in (-1, 0, 3, 8):
        style = PageStyle(letter_spacing=spacing, fallback=())
        pair, base = measure("e\u0301x\u0323\u0301", style), measure("ex", style)
        assert pair.tolist() == [base[0], 0, base[1], 0, 0]
        spread, plain = (255 - render("e\u0301", each).pixels[0] for each in (style, PageStyle(fallback=())))
        before = max(spacing, 0) // 2
        assert np.array_equal(spread[:, before:60], plain[:, : 60 - before])


@needs_raqm
@pytest.mark.parametrize(("word", "joined"), [("السلام", True), ("क्षत्रिय", True), ("שלום", False)])
def test_joined_scripts_are_spaced_around_words_and_never_inside(word, joined):
    path = next((p for p in installed_fonts() if set(map(ord, word)) <= coverage(p)), None)
    if path is None:
        pytest.skip(f"this machine has no font for {word!r}")
    style = PageStyle(name="shaped", row_height=28, fallback=(str(path),))
    wide = replace(style, letter_spacing=4)
    gained = measure(word, wide) - measure(word, style)
    assert gained.tolist() == ([2, *[0] * (len(word) - 2), 2] if joined else [4] * len(word))
    ink, plain = (255 - render(word, each).pixels[0] for each in (wide, style))
    assert np.array_equal(ink[:, 2:100], plain[:, :98]) == joined


@pytest.mark.parametrize("align", ALIGNS)
def test_right_to_left_rows_keep_their_order_wherever_they_stand(align):
    text = "שלום עולם abc (דגה) אבג 12 הוז שלום עולם שלום\n"
    placed, plain = (layout(text, replace(PLAIN, align=each, width=140)) for each in (align, "left"))
    for row in rows_of(placed):
        shown = row[placed.advance[row] > 0]
        order = np.argsort(placed.x[shown], kind="stable")
        assert np.array_equal(order, np.argsort(plain.x[shown], kind="stable"))
        edges = placed.x[shown][order]
        assert (edges[1:] == (edges + placed.advance[shown][order])[:-1]).all()
        assert (placed.x[shown].min() == 1) == (align in ("left", "justify"))


@pytest.mark.parametrize("style", [STYLES[6], STYLES[9], STYLES[13]], ids=["right", "center", "justify"])
def test_pieces_and_tiles_give_the_same_pages(style, monkeypatch):
    text = "".join(f"{'word ' * (i % 23)}אב {i}{'x' * (i % 40)}\n" * (i % 3) for i in range(300))
    whole = render(text, style)
    monkeypatch.setattr(sys.modules["vist.render.layout"], "BLOCK", 700)
    for tile in (2, 5, 10_000):
        monkeypatch.setattr("vist.render.raster._TILE", tile)
        parts = Pages.concatenate(iter_pages((text[i : i + 37] for i in range(0, len(text), 37)), style), style)
        assert parts.hashes == whole.hashes and np.array_equal(parts.spans, whole.spans)
    for newline in ("break", "blank"):  # what other texts left in the atlas must not show
        fresh = replace(style, name=f"fresh-{newline}", newline=newline)
        first = render(PROSE, fresh).hashes
        render("completely other characters: 0123 éèê äöü", fresh)
        assert render(PROSE, fresh).hashes == first
