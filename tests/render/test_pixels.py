"""Pixels against Pillow, and the same bytes everywhere."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont, features

from vist.render import PAGE_STYLES, PageStyle, layout, render
from vist.render.fonts import font_path

TEXT = (
    "All human beings are born free and equal in dignity and rights. They are endowed with reason and conscience "
    'and should act towards one another in a spirit of brotherhood. (Article 1, 10.12.1948; "UDHR") '
    "jAVA, fjord, {Wawa}: Ångström, naïve façade, Ξένος, Жуковский, Ặ & ﬁn."
)
SMALL = PageStyle(name="small", width=70, height=42, fallback=())


def draw_with_pillow(text, style, baseline):
    """Draw every character by itself where the layout says, the darker pixel winning."""
    font = ImageFont.truetype(str(font_path(style.font)), style.font_size, layout_engine=ImageFont.Layout.BASIC)
    placed = layout(text, style)
    ink = np.zeros((len(placed), style.height, style.width), np.uint8)
    for i, char in enumerate(text):
        if char in "\t\n":  # Pillow would draw a box
            continue
        one = Image.new("L", (style.width, style.height))
        at = (int(placed.x[i]), int(placed.row[i]) * style.row_height + baseline)
        ImageDraw.Draw(one).text(at, char, fill=255, font=font, anchor="ls")
        ink[placed.page[i]] = np.maximum(ink[placed.page[i]], np.asarray(one))
    return 255 - ink


@pytest.mark.parametrize(("name", "baseline"), [("vist", 11), ("vist-9", 10), ("vist-8", 10), ("vist-7", 9)])
def test_pixels_are_pillows_glyphs_at_the_layouts_places(name, baseline):
    style = PAGE_STYLES[name]
    assert np.array_equal(render(TEXT, style).pixels, draw_with_pillow(TEXT, style, baseline))


@pytest.mark.parametrize("char", "gjpqyQ|ÅẶỂḔ§(@")
def test_nothing_is_cut_off(char):
    font = ImageFont.truetype(str(font_path("NotoSans-Regular")), 10, layout_engine=ImageFont.Layout.BASIC)
    image = Image.new("L", (60, 60))
    ImageDraw.Draw(image).text((20, 30), char, fill=255, font=font, anchor="ls")
    drawn = Image.fromarray(255 - render(char, "vist").pixels[0])
    cut = np.asarray(drawn.crop(drawn.getbbox()))
    whole = np.asarray(image.crop(image.getbbox()))
    if whole.shape[0] <= 14:
        assert np.array_equal(cut, whole)
    else:  # drawn smaller, and then whole
        assert cut.shape[0] <= 14 and cut.sum() > 0.6 * whole.sum()


def test_without_margins_advances_make_room_for_all_ink():
    style = PageStyle(name="tight", margin_left=0, margin_right=0, fallback=())
    for char in "jWAfÎ":
        ink, room = 255 - render(char, "vist").pixels[0], 255 - render(char, style).pixels[0]
        assert ink.sum() == room.sum()
        assert layout(char, style).advance[0] >= np.flatnonzero(room.any(axis=0))[-1] + 1


@pytest.mark.parametrize("name", ["icl", "code"])
def test_tiles_do_not_show(name, monkeypatch):
    text = "".join(f"{'word ' * (i % 13)}{i}\n" for i in range(120))
    whole = render(text, name).pixels
    for tile in (2, 7, 16, 10_000):
        monkeypatch.setattr("vist.render.raster._TILE", tile)
        assert np.array_equal(render(text, name).pixels, whole)
    assert np.array_equal(render(text[:900], name).pixels, draw_with_pillow(text[:900], PAGE_STYLES[name], 11))


@pytest.mark.parametrize("newline", ["break", "blank"])
def test_a_tab_leaves_no_ink_whatever_glyphs_were_met_before(newline):
    text = "Wabc\tabcWWWW\tb;\n\tint x;\n\t\tdeep\\\n"
    style = PageStyle(name=f"tabs-{newline}", newline=newline, tab_width=4, fallback=())
    assert np.array_equal(render(text, style).pixels, draw_with_pillow(text, style, 11))


def test_colours_are_the_styles():
    white_on_black = PageStyle(name="dark", foreground=255, background=0)
    assert np.array_equal(render(TEXT, white_on_black).pixels, 255 - render(TEXT, "vist").pixels)
    grey = render(TEXT, PageStyle(name="grey", foreground=40, background=200)).pixels
    assert grey.min() == 40 and grey.max() == 200


def test_ink_covers_the_edge_that_reaches_into_the_next_cell():
    for text in ("i" * thin + "n" * wide + "W" for thin in range(5) for wide in range(9)):
        pages = render(text, SMALL)
        columns = np.flatnonzero((pages.pixels[0, :14] != 255).any(axis=0))
        assert pages.ink[0, 0].sum() == columns[-1] // 14 + 1


@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=150))
def test_ink_covers_every_pixel_that_is_not_background(text):
    pages = render(text, SMALL)
    cells = pages.pixels.reshape(len(pages), SMALL.rows, 14, SMALL.cols, 14)
    assert not ((cells != 255).any(axis=(2, 4)) & ~pages.ink).any()


def test_same_bytes_in_another_process():
    code = f"from vist.render import render; print(*render({TEXT!r} + '中 \\u0301 é 😀', 'vist').hashes)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == render(TEXT + "中 \u0301 é 😀", "vist").hashes


def test_order_of_texts_does_not_matter():
    style = PageStyle(name="fresh", fallback=(), margin_right=2)
    first = render("zyx ÄÖÜ", style).hashes
    render("completely other characters: 0123 éèê", style)
    assert render("zyx ÄÖÜ", style).hashes == first


def test_known_page():
    """The bytes of one page, as drawn with FreeType 2.14 (Pillow 13). Another FreeType may hint in another way."""
    if not (features.version("freetype2") or "").startswith("2.14"):
        pytest.skip(f"the golden page was drawn with FreeType 2.14, this is {features.version('freetype2')}")
    text = "".join(map(chr, range(32, 127))) * 3
    pixels = render(text, PageStyle(fallback=())).pixels
    assert hashlib.blake2b(pixels.tobytes(), digest_size=16).hexdigest() == "6ace3c0740adbd9b10782453f6a48ef9"


def test_renderer_never_imports_torch():
    code = "import sys, vist.render; assert not {'torch', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
