"""A style is checked where it is made, and survives a trip through JSON."""

import json
import pickle
from dataclasses import replace

import pytest

from vist.errors import VistError
from vist.render import PAGE_STYLES, PageStyle
from vist.render.fonts import fingerprint


def test_the_page_of_the_paper():
    style = PageStyle.named("vist")
    assert (style.rows, style.cols, style.row_height * style.cols * style.rows) == (16, 16, 3584)
    assert style == PageStyle() and style.font_size == 10 and style.newline == "space"


def test_presets_differ_in_what_their_names_say():
    assert [PAGE_STYLES[name].font_size for name in ("vist", "vist-9", "vist-8", "vist-7")] == [10, 9, 8, 7]
    assert PAGE_STYLES["icl"].newline == "blank"
    assert (PAGE_STYLES["code"].newline, PAGE_STYLES["code"].tab_width) == ("break", 4)
    assert all(name == style.name for name, style in PAGE_STYLES.items())


@pytest.mark.parametrize("style", [*PAGE_STYLES.values(), PageStyle(name="x", fallback=("NotoSans-Regular",))])
def test_styles_survive_json(style):
    assert PageStyle.from_dict(json.loads(json.dumps(style.to_dict()))) == style


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("width", 220, "multiple of row_height=14, so cells would not be patches: use 210 or 224"),
        ("height", 15, "use 14 or 28"),
        ("font_size", 20, "does not fit rows of 14 px"),
        ("font_size", 3, "font_size=3 is out of range"),
        ("font_size", 9.5, "font_size=9.5 is out of range"),
        ("tab_width", 0, "tab_width=0"),
        ("max_pages", 0, "max_pages=0"),
        ("margin_left", 200, "widen the page"),
        ("letter_spacing", 9, "letter_spacing=9 is out of range: give a whole number from -1 to 8"),
        ("letter_spacing", -2, "whole number from -1 to 8"),
        ("letter_spacing", 1.5, "whole number"),
        ("align", "middle", "use one of left, right, center, justify"),
        ("newline", "crlf", "use one of space, break, blank"),
        ("foreground", 255, "both 255"),
        ("foreground", True, "whole number"),
        ("font", "", "is no font"),
        ("fallback", "Arial", "give a list"),
    ],
)
def test_mistakes_are_named_with_value_and_remedy(field, value, words):
    with pytest.raises(VistError) as raised:
        PageStyle(**{field: value})
    assert words in str(raised.value) and str(value) in str(raised.value)


def test_rows_need_room_for_letters_and_their_spacing():
    with pytest.raises(VistError, match=r"at least 4 x \(font_size \+ letter_spacing\) = 72 px: widen the page"):
        PageStyle(width=70, letter_spacing=8)
    assert PageStyle(width=70, letter_spacing=7).text_width == 68


@pytest.mark.parametrize("style", PAGE_STYLES.values())
def test_styles_saved_before_alignment_load_and_keep_the_hashes_of_their_pages(style):
    saved = {name: value for name, value in style.to_dict().items() if name not in ("align", "letter_spacing")}
    assert PageStyle.from_dict(saved) == style
    assert fingerprint(replace(style, align="right")) != fingerprint(style)
    assert fingerprint(replace(style, letter_spacing=1)) != fingerprint(style)


def test_the_fingerprint_of_the_page_of_the_paper_is_what_it_was():
    assert fingerprint(PageStyle()) == "79fbfe7677575caa67e470684810ab8a"


def test_unknown_names():
    with pytest.raises(VistError, match="no page style 'vits': use one of vist,"):
        PageStyle.named("vits")
    with pytest.raises(VistError, match="no field 'size'"):
        PageStyle.from_dict({"size": 3})


def test_a_pickled_style_is_the_same_key_and_carries_no_hash_of_its_process():
    style = PageStyle(name="mine", font_size=11)
    assert hash(style) == hash(PageStyle(name="mine", font_size=11)) != hash(PageStyle(name="mine", font_size=12))
    assert style.__getstate__() == style.to_dict()
    assert {pickle.loads(pickle.dumps(style)): 1}[style] == 1
