"""The order of right-to-left text, against the standard's examples and FriBidi where the machine has it."""

import ctypes
import ctypes.util
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vist.render import PageStyle, layout, render
from vist.render.bidi import base_level, levels, visual_order

ALONE = PageStyle(name="alone", newline="break", fallback=())
HEBREW = {chr(65 + i): chr(0x5D0 + i) for i in range(26)}
LATIN = {hebrew: latin for latin, hebrew in HEBREW.items()}


def shown(text, base=None):
    """Return how a text is displayed, upper-case letters standing for Hebrew ones, as in UAX 9."""
    text = "".join(HEBREW.get(char, char) for char in text)
    base = base_level(text) or 0 if base is None else base
    return "".join(LATIN.get(text[i], text[i]) for i in visual_order(levels(text, base)))


@pytest.mark.parametrize(
    ("text", "display"),
    [
        ("car means CAR.", "car means RAC."),
        ("CAR means car.", ".means car RAC"),
        ("he said CAR 123, ok", "he said 123 RAC, ok"),
        ("THE CAR, 12.5% OFF", "FFO 12.5% ,RAC EHT"),
        ("a (B) c", "a (B) c"),
        ("A (b) C", "C )b( A"),
        ("plain text 1, 2", "plain text 1, 2"),
    ],
)
def test_examples(text, display):
    assert shown(text) == display


ALPHABET = "abc אבג اب 0123 ١٢ .,:+-/%$#!?'\"()[] \u0301\u064b _*&中"


def fribidi_order(library, text, base):
    size = len(text)
    source = (ctypes.c_uint32 * size)(*map(ord, text))
    direction = ctypes.c_int(0x111 if base else 0x110)
    order = (ctypes.c_int * size)()
    assert library.fribidi_log2vis(source, size, ctypes.byref(direction), None, None, order, None)
    return list(order)


@settings(max_examples=400, deadline=None)
@given(text=st.text(alphabet=ALPHABET, min_size=1, max_size=24), base=st.integers(0, 1))
@example(text="א(1]b)", base=1)
def test_against_fribidi(text, base):
    name = ctypes.util.find_library("fribidi")
    if name is None:
        pytest.skip("this machine has no FriBidi library")
    expected = fribidi_order(ctypes.CDLL(name), text, base)
    ours = visual_order(levels(text, base))
    marks = {"\u0301", "\u064b"}  # FriBidi puts marks behind their base in visual order; they have no width
    assert [i for i in ours if text[i] not in marks] == [i for i in expected if text[i] not in marks]


def visual_text(text, style=ALONE):
    """Return the visible characters of a one-row text from left to right."""
    placed = layout(text, style)
    assert not placed.row.any()
    return "".join(text[i] for i in np.argsort(placed.x, kind="stable") if placed.advance[i])


def test_a_mixed_row_is_laid_out_in_visual_order():
    assert visual_text("ab אב cd") == "ab בא cd"
    assert visual_text("אב cd") == "cd בא"


def test_brackets_are_mirrored():
    wide = layout("(", ALONE).advance[0] + 1
    mirrored, plain = render("א(", ALONE).pixels[0, :14, :wide], render(")", ALONE).pixels[0, :14, :wide]
    assert np.array_equal(mirrored, plain) and not np.array_equal(plain, render("(", ALONE).pixels[0, :14, :wide])


def test_the_paragraph_decides_the_direction_also_in_later_rows_and_blocks(monkeypatch):
    monkeypatch.setattr(sys.modules["vist.render.layout"], "BLOCK", 512)
    line = "one two three four five {} אב ! "
    text = "א " + "".join(map(line.format, range(150))) + "\n" + "b " + line * 3
    placed, last = layout(text, ALONE), text.rindex("\n")
    for i in (i for i, char in enumerate(text) if char == "!" and placed.row[i] == placed.row[i - 2]):
        # right-to-left: the sign stands left of the Hebrew word before it
        assert (placed.x[i] < placed.x[i - 2]) == (i < last)


def test_rows_in_any_direction_begin_at_the_left_edge():
    placed = layout("שלום עולם", ALONE)
    assert placed.x.min() == ALONE.margin_left and placed.ink[0, 0, 0]
