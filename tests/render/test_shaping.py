"""Marks, joined letters and clusters, against Pillow's own shaping of the same word."""

import sys

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont, features

from vist.render import PageStyle, layout, render
from vist.render.atlas import glyph_atlas
from vist.render.fonts import coverage, font_path, installed_fonts

needs_raqm = pytest.mark.skipif(not features.check("raqm"), reason="this Pillow cannot shape: no raqm or no FriBidi")
ALONE = PageStyle(name="alone", fallback=())


def pillow_word(path, word, direction):
    """Return the ink of a word as Pillow shapes it, cut to its box."""
    font = ImageFont.truetype(str(path), 10, layout_engine=ImageFont.Layout.RAQM)
    image = Image.new("L", (120, 60))
    ImageDraw.Draw(image).text((30, 30), word, fill=255, font=font, anchor="ls", direction=direction)
    return np.asarray(image.crop(image.getbbox()))


def our_ink(text, style):
    image = Image.fromarray(255 - render(text, style).pixels[0])
    return np.asarray(image.crop(image.getbbox()))


def font_for(text):
    path = next((p for p in installed_fonts() if {ord(char) for char in text} <= coverage(p)), None)
    if path is None:
        pytest.skip(f"this machine has no font for {text!r}")
    return path


@needs_raqm
@pytest.mark.parametrize("pair", ["e\u0301", "o\u0302", "A\u030a", "n\u0303", "x\u0323\u0301"])
def test_a_mark_sits_on_its_base(pair):
    assert np.array_equal(our_ink(pair, ALONE), pillow_word(font_path("NotoSans-Regular"), pair, "ltr"))
    placed = layout(pair + "b", ALONE)
    assert placed.advance[0] == layout(pair[0], ALONE).advance[0] and not placed.advance[1 : len(pair)].any()
    assert not render(pair, ALONE).loss


@needs_raqm
@pytest.mark.parametrize(("word", "direction"), [("السلام", "rtl"), ("क्षत्रिय", "ltr"), ("שָׁלוֹם", "rtl"), ("ที่นี่", "ltr")])
def test_words_are_pillows_shaped_words(word, direction):
    path = font_for(word)
    style = PageStyle(name="shaped", row_height=28, fallback=(str(path),))
    assert np.array_equal(our_ink(word, style), pillow_word(path, word, direction))
    assert not render(word, style).loss


@needs_raqm
def test_arabic_letters_keep_their_places_from_right_to_left():
    word = "مكتبة"
    style = PageStyle(name="arabic", fallback=(str(font_for(word)),))
    placed = layout(word, style)
    assert (np.diff(placed.x) < 0).all() and (placed.advance > 0).all()
    assert (placed.x[:-1] == placed.x[1:] + placed.advance[1:]).all() and placed.x[-1] == 1


@needs_raqm
def test_a_word_longer_than_a_row_is_broken_and_whole():
    word = "م" * 150
    style = PageStyle(name="arabic", fallback=(str(font_for(word)),))
    placed, pages = layout(word, style), render(word, style)
    assert placed.row.max() >= 2 and (np.diff(placed.row) >= 0).all()
    assert (placed.x + placed.advance <= 223).all()
    assert pages.ink[0].any(axis=1).sum() == placed.row.max() + 1


@pytest.mark.parametrize("base", "e—")
def test_marks_never_part_from_their_base(base):
    text = f"a{base}\u0301" * 200
    placed = layout(text, ALONE)
    row = placed.page * 16 + placed.row
    assert (row[1::3] == row[2::3]).all() and row[-1] > 5


@needs_raqm
def test_a_joiner_that_the_font_obeys_is_not_lost():
    assert 0x200D in coverage(font_path("NotoSans-Regular"))
    assert not render("e\u0301\u200d", ALONE).loss and render("e \u200d", ALONE).loss.dropped == {0x200D: 1}


def test_joiners_are_lost_only_where_nothing_is_joined():
    loss = render("\U0001f469\u200d\U0001f4bb a\ufe0f", ALONE).loss
    assert loss.missing == {0x1F469: 1, 0x1F4BB: 1} and loss.dropped == {0x200D: 1, 0xFE0F: 1}


def test_a_mountain_of_marks_stays_in_its_row():
    text = "Z" + "\u0301\u0323\u0338" * 40 + " ok"
    pages = render(text, ALONE)
    assert pages.ink[0, 0].any() and not pages.ink[0, 1:].any()


def test_without_shaping_everything_is_drawn_and_counted(monkeypatch):
    for module in ("atlas", "block"):
        monkeypatch.setattr(sys.modules[f"vist.render.{module}"], "can_shape", lambda: False)
    glyph_atlas.cache_clear()
    try:
        pages = render("cafe\u0301", PageStyle(name="plain", fallback=()))
        assert pages.loss.unshaped == {0x301: 1} and pages.ink.any()
        with pytest.raises(ValueError, match="need shaping"):
            pages.loss.check()
    finally:
        glyph_atlas.cache_clear()
