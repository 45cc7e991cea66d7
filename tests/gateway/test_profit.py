"""Page sizes and the gate: what a page costs by an independent count, that it is seen unshrunk, and what is refused."""

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import vist
from vist.errors import VistError
from vist.gateway import Gate, GuardPolicy, find_sheets, image_tokens, resolve_profile, restore, text_tokens, weigh
from vist.gateway.flow import break_up, run_on
from vist.gateway.profiles import PROFILES
from vist.gateway.sheets import CELL, cut, price
from vist.render import PageStyle, render

PROSE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")
FAMILIES = [profile.name for profile in PROFILES]


def openai_tiles(width: int, height: int) -> int:
    """Tiles of 512 px of an image that needs no scaling, counted one by one."""
    return sum(1 for _ in itertools.product(range(0, width, 512), range(0, height, 512)))


def patches(width: int, height: int, side: int) -> int:
    return len(range(0, width, side)) * len(range(0, height, side))


@pytest.mark.parametrize("family", FAMILIES)
def test_sheets_are_counted_at_full_size(family: str) -> None:
    """A page that a provider scaled down would cost less than its tiles or patches do, counted one by one."""
    for sheet in find_sheets(family):
        width, height = sheet.style.width, sheet.style.height
        if family == "gpt-4o":
            assert sheet.tokens == 85 + 170 * openai_tiles(width, height)
            assert min(width, height) <= 768 and max(width, height) <= 2048
        elif family in ("gpt-5.2", "gpt-5.4", "gpt-5.6", "gpt-5-mini"):
            assert sheet.tokens == math.ceil(1.2 * patches(width, height, 32))
        elif family in ("claude", "claude-4.7"):
            assert sheet.tokens == patches(width, height, 28)
        elif family in ("gemini-1", "gemini-3"):
            assert width * height <= CELL * sheet.tokens
        elif family in ("qwen2-vl", "glm-4v"):
            assert sheet.tokens >= 0.96 * width * height / 28**2
        elif family == "qwen3-vl":
            assert sheet.tokens >= 0.96 * width * height / 32**2


@pytest.mark.parametrize("family", FAMILIES)
def test_sheets_come_cheapest_first_and_none_of_the_search_is_much_cheaper(family: str) -> None:
    sheets = find_sheets(family)
    small = sheets[-1].area_per_token < 0.85 * sheets[0].area_per_token  # for short texts, beside the search
    large = sheets[:-1] if small else sheets
    values = [sheet.area_per_token for sheet in large]
    assert values == sorted(values, reverse=True)
    assert len({sheet.style.width for sheet in large}) == len(large)
    assert not small or 2 * sheets[-1].tokens <= sheets[0].tokens
    assert all(sheet.style.font_size >= 10 for sheet in sheets)


def test_short_texts_get_small_pages_where_large_ones_have_a_least_price() -> None:
    """Gemini 2 asks 4 x 258 tokens for any larger page; four fifths of 900 tokens of prose fit two pages of 258."""
    gemini = resolve_profile("gemini-2.5-pro")
    short, long = weigh(PROSE[:3600], gemini), weigh(PROSE[:20_000], gemini)
    assert short.pays and len(short.sizes) <= 2 and max(max(size) for size in short.sizes) <= 384
    assert long.pays and min(min(size) for size in long.sizes) > 1000


@pytest.mark.parametrize("size", [10, 11, 12, 13, 16])
def test_rows_are_high_enough_for_every_letter_as_it_is(size: int) -> None:
    """Rows thrice as high as letters leave room for anything; ours show the same ink of printable ASCII."""
    style = find_sheets("claude", size)[0].style
    height = 3 * size
    roomy = PageStyle(width=40 * height, height=4 * height, row_height=height, font_size=size, newline="break")
    for char in map(chr, range(33, 127)):
        tight, free = (render(char, each).pixels[0] for each in (style, roomy))
        assert np.array_equal(*(_ink(page, each.row_height) for page, each in ((tight, style), (free, roomy)))), char
    words = render("Agdy", style).pixels[0][: style.row_height] < 255, render("Agdy", roomy).pixels[0][:height] < 255
    assert np.array_equal(*(rows[rows.any(1)][:, : 4 * size] for rows in words)), "and keep its place on the line"


def _ink(page: np.ndarray, row: int) -> np.ndarray:
    """The rows of the first line that have ink, and no more columns than two letters take."""
    first = page[:row, : 2 * row]
    filled = first[(first < 255).any(1)]
    return filled[:, (filled < 255).any(0)]


@pytest.mark.parametrize("foreign", ["\x1b[0m", "zero\u200bwidth", "\U00012000\U0010fffd", "\u200f"])
def test_what_cannot_be_drawn_is_text_beside_the_pages(foreign: str) -> None:
    text = f"{PROSE[:6000]} {foreign} {PROSE[6000:9000]} {'x' * 100}{foreign}"
    weighed = weigh(text, resolve_profile("gpt-4o"))
    assert weighed.pays and weighed.guarded is not None and restore(weighed.guarded) == text
    assert foreign not in weighed.guarded.text and weighed.introduction.count(foreign) >= 1
    assert not render(weighed.guarded.text, "code").loss


@pytest.mark.parametrize("family", ["claude", "claude-4.7"])
def test_pages_for_claude_are_within_the_limit_for_many_images(family: str) -> None:
    sheets = find_sheets(family)
    assert sheets and all(max(sheet.style.width, sheet.style.height) <= 2000 for sheet in sheets)


def test_the_cheapest_page_for_tiles_is_one_tile_wide() -> None:
    """512 px wide or high, four tiles long: any squarer page pays for more tiles than it fills, or is shrunk."""
    style = find_sheets("gpt-4o")[0].style
    assert 490 < min(style.width, style.height) <= 512 and max(style.width, style.height) > 2000


@pytest.mark.parametrize("family", ["gpt-4o", "claude", "qwen3-vl", "gemini-2", "deepseek-ocr"])
def test_a_cut_shows_all_text_and_is_never_dearer_than_the_full_page(family: str) -> None:
    for sheet in find_sheets(family):
        style = sheet.style
        step = style.row_height
        for right, bottom in ((step * 4, step), (style.width // 2, step * 7), (style.width, style.height)):
            sizes = cut(family, style, [(right, style.height), (right, bottom)])
            assert all(width >= right and width <= style.width for width, _ in sizes)
            assert sizes[0][1] == style.height and bottom <= sizes[1][1] <= style.height
            assert sum(price(family, *size) for size in sizes) <= 2 * sheet.tokens


@pytest.mark.parametrize("line_breaks", ["rows", "marks"])
@pytest.mark.parametrize(
    "model", ["gpt-4o", "gpt-5.4", "claude-sonnet-4-5", "gemini-2.5-pro", "qwen3-vl-8b", "glm-4.5v"]
)
def test_the_pages_show_what_the_renderer_drew_and_cost_what_is_said(model: str, line_breaks: Any) -> None:
    profile = resolve_profile(model)
    text = PROSE[:9000] + "\nCommit 3f2a9bc1d fixed 10,000,000.\n"
    weighed = weigh(text, profile, Gate(line_breaks=line_breaks, min_saving=0.05))
    assert weighed.pays and weighed.guarded is not None
    assert restore(weighed.guarded) == text
    shown_text = weighed.guarded.text if line_breaks == "rows" else run_on(weighed.guarded.text)
    assert ("is a line break" in weighed.introduction) == (line_breaks == "marks")
    images = [np.asarray(Image.open(io.BytesIO(page))) for page in weighed.pages]
    assert [image.shape[::-1] for image in images] == list(weighed.sizes)
    detail = "high" if "high" in profile.rule.details else "auto"
    shown = sum(image_tokens(profile, *size, detail) for size in weighed.sizes)
    assert weighed.after == shown + text_tokens(profile, weighed.introduction).count
    assert weighed.after <= 0.95 * weighed.before == 0.95 * text_tokens(profile, text).count
    style = next(
        sheet.style
        for sheet in find_sheets(profile.name)
        if sheet.style.height == weighed.sizes[0][1] or len(weighed.sizes) == 1
        if _same(render(shown_text, sheet.style).pixels, images)
    )
    assert style.font_size == 10


def _same(drawn: np.ndarray, images: list[np.ndarray]) -> bool:
    """Whether pages are the drawn ones without nothing but paper at the right and at the bottom."""
    if len(drawn) != len(images) or any(image.shape > page.shape for page, image in zip(drawn, images, strict=True)):
        return False
    padded = [
        np.pad(image, [(0, page.shape[axis] - image.shape[axis]) for axis in (0, 1)], constant_values=255)
        for page, image in zip(drawn, images, strict=True)
        if image.shape[0] <= page.shape[0] and image.shape[1] <= page.shape[1]
    ]
    return len(padded) == len(drawn) and bool((np.stack(padded) == drawn).all())


def test_short_rows_get_a_narrow_page() -> None:
    code = "\n".join(f"    x{number} = y{number}" for number in range(600))
    gate = Gate(line_breaks="rows", guard=GuardPolicy(identifiers=False))  # they are names and nothing else
    weighed = weigh(code, resolve_profile("claude-sonnet-4-5"), gate)
    assert weighed.pays and weighed.sizes[0][0] <= 280


def test_short_rows_run_on_where_that_is_cheaper() -> None:
    code = "\n".join(f"    x{number} = {'y + ' * (number % 5 * 4)}z{number}" for number in range(600))
    profile = resolve_profile("claude-sonnet-4-5")
    rows, auto = (weigh(code, profile, Gate(line_breaks=way)) for way in ("rows", "auto"))
    assert auto.after < 0.87 * rows.after and auto == weigh(code, profile, Gate(line_breaks="marks"))
    foreign = weigh(code + "\n\u00b6", profile, Gate(line_breaks="marks"))
    assert foreign.pays and "is a line break" not in foreign.introduction


@given(st.text(alphabet="ab \n\t\r\u00b6\u00bb\u00b7", max_size=40))
def test_lines_that_run_on_can_be_broken_up_again(text: str) -> None:
    marked = run_on(text)
    assert marked is None or (break_up(marked) == text and "\n" not in marked)
    assert (marked is None) == ("\n" not in text or bool({"\u00b6", "\u00bb", "\u00b7"} & set(text)))


def test_kept_strings_are_paid_for() -> None:
    profile = resolve_profile("claude-sonnet-4-5")
    hashes = "\n".join(f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}" for number in range(1, 300))
    weighed = weigh(hashes, profile)
    assert not weighed.pays and weighed.after == weighed.before and "does not pay" in weighed.reason
    assert weigh(hashes, profile, Gate(guard=GuardPolicy(kinds=()), min_saving=0)).pays


@pytest.mark.parametrize(
    ("text", "model", "gate", "reason"),
    [
        (PROSE[:200], "gpt-4o", Gate(), "fewer than 300"),
        (PROSE[:20_000], "gpt-4o-mini", Gate(), "does not pay"),
        (PROSE[:20_000], "gpt-4o", Gate(max_pages=1), "more pages than the 1"),
        (PROSE[:20_000], "gpt-4o", Gate(max_pages=0), "more pages than the 0"),
        (PROSE[:20_000], "gpt-4o", Gate(max_characters=1000), "longer than 1,000"),
        (PROSE[:9000] + "\ud800", "gpt-4o", Gate(), "U+D800"),
        ("", "gpt-4o", Gate(min_tokens=0), "fewer"),
        (" " * 30_000, "gpt-4o", Gate(min_tokens=0, min_saving=0), ""),
        (PROSE[:9000], "gpt-4o", Gate(font_size=40), "does not pay"),
    ],
)
def test_what_stays_text_says_why(text: str, model: str, gate: Gate, reason: str) -> None:
    weighed = weigh(text, resolve_profile(model), gate)
    assert not weighed.pays and weighed.pages == () and reason in weighed.reason
    assert weighed.after == weighed.before


def test_a_verbatim_part_is_text_beside_the_pages() -> None:
    text = PROSE[:6000] + "<verbatim>Eat me.</verbatim>" + PROSE[6000:9000]
    weighed = weigh(text, resolve_profile("gpt-4o"))
    assert weighed.pays and weighed.guarded is not None
    assert "[#1] Eat me." in weighed.introduction and "Eat me." not in weighed.guarded.text


def test_the_same_text_gives_the_same_bytes() -> None:
    profile = resolve_profile("gpt-5.2")
    assert weigh(PROSE[:9000], profile) == weigh(PROSE[:9000], profile)


def test_a_tokenizer_is_asked_for_every_text() -> None:
    weighed = weigh(PROSE[:9000], resolve_profile("gpt-4o"), tokenizer=lambda text: len(text))
    assert weighed.exact and weighed.before == 9000 and weighed.pays


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_saving": 1},
        {"min_saving": "much"},
        {"min_tokens": -1},
        {"max_pages": 1.5},
        {"font_size": 3},
        {"guard": 1},
        {"line_breaks": 1},
    ],
)
def test_wrong_gates_are_refused(wrong: dict) -> None:
    with pytest.raises(VistError):
        Gate(**wrong)


def test_letters_that_no_page_can_show_unshrunk_are_refused() -> None:
    with pytest.raises(VistError):
        find_sheets("no-such-family")
    assert isinstance(find_sheets("claude", 20)[0].style, PageStyle)
