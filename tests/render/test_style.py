"""A style is checked where it is made, and survives a trip through JSON."""

import json

import pytest

from vist.errors import VistError
from vist.render import PAGE_STYLES, PageStyle


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


def test_unknown_names():
    with pytest.raises(VistError, match="no page style 'vits': use one of vist,"):
        PageStyle.named("vits")
    with pytest.raises(VistError, match="no field 'size'"):
        PageStyle.from_dict({"size": 3})
