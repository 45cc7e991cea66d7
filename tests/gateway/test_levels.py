"""Pages by level of detail (Gemini 3): the price, the page and what its message says agree, by an independent count."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import vist
from vist.errors import VistError
from vist.gateway import (
    CompressionPolicy,
    Gate,
    PageCache,
    compress_messages,
    find_sheets,
    resolve_profile,
    text_tokens,
    weigh,
)
from vist.gateway.profiles import PROFILES
from vist.gateway.settings import Settings, read_policy
from vist.gateway.sheets import cut, price, price_of_rows

PROSE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")
MODEL, FAMILY = "gemini-3-pro", "gemini-3"
PUBLISHED = {"low": 280, "medium": 560, "high": 1120, "ultra_high": 2240}  # ai.google.dev: tokens of an image at most
AREA = 1024  # px² that a token of a page may stand for
TEXTS = [PROSE[start : start + length] for start, length in ((0, 3000), (9000, 4800), (20_000, 9000), (40_000, 30_000))]
TEXTS.append("\n".join(f"    x{number} = {'y + ' * (number % 5 * 4)}z{number}" for number in range(400)))
NOW = {"keep_recent": 0, "step": 1, "detail": "fit"}


def lowest(width: int, height: int) -> str:
    """The lowest of the levels up to the default at which no token stands for more px² than it may."""
    return next(level for level in ("low", "medium", "high") if width * height <= AREA * PUBLISHED[level])


def pages_of(messages: list[Any]) -> list[tuple[str | None, int, int]]:
    """The level, width and height of every image in messages of any shape, read from the images themselves."""
    found, heap = [], list(reversed(messages))
    while heap:
        thing = heap.pop()
        if isinstance(thing, list):
            heap += reversed(thing)
        elif isinstance(thing, dict):
            kind = thing.get("type")
            if kind in ("image_url", "input_image", "image"):
                inner = thing["image_url"] if kind == "image_url" else thing
                url = inner["url"] if kind == "image_url" else inner.get("image_url") or inner["source"]["data"]
                size = Image.open(io.BytesIO(base64.b64decode(url.rpartition(",")[2]))).size
                found.append((inner.get("detail"), *size))
            else:
                heap += reversed(list(thing.values()))
    return found


def images_cost(messages: list[Any]) -> int:
    """What a host bills for the images by the published rule; an image without a level is one at `high`."""
    return sum(PUBLISHED[level or "high"] for level, _, _ in pages_of(messages))


@pytest.mark.parametrize("text", TEXTS, ids=["short", "medium", "long", "very long", "code"])
def test_a_page_is_sent_at_the_level_that_it_is_counted_at(text: str) -> None:
    weighed = weigh(text, resolve_profile(MODEL), Gate(min_saving=0, detail="fit"))
    assert weighed.pays and len(weighed.details) == len(weighed.pages)
    done = compress_messages([{"role": "user", "content": text}], MODEL, CompressionPolicy(min_saving=0, **NOW))
    sent = pages_of(done.messages)
    assert sent == [(lowest(*size), *size) for size in weighed.sizes]
    assert [level for level, _, _ in sent] == list(weighed.details)
    words = text_tokens(resolve_profile(MODEL), weighed.introduction).count
    assert done.report.after == weighed.after == images_cost(done.messages) + words


def test_texts_of_any_length_pay_for_little_more_than_they_fill() -> None:
    """At `high` alone a short text paid 1,120; now what is not filled is less than two pages at `low`."""
    profile = resolve_profile(MODEL)
    used = set()
    for length in range(2000, 40_000, 1900):
        text = PROSE[5000 : 5000 + length]
        low, high = (weigh(text, profile, Gate(min_saving=0, min_tokens=0, detail=way)) for way in ("fit", "high"))
        used |= set(low.details)
        assert low.after <= high.after and set(high.details) <= {"high"}
        filled = sum(width * height for width, height in low.sizes) / AREA
        assert sum(PUBLISHED[level] for level in low.details) < filled + 2 * PUBLISHED["low"]
    assert used == {"low", "medium", "high"}


def test_the_last_page_is_sent_at_a_lower_level_where_what_is_left_fits_it() -> None:
    levels = weigh(PROSE[:24_000], resolve_profile(MODEL), Gate(detail="fit")).details
    assert len(set(levels)) > 1 and PUBLISHED[levels[-1]] < PUBLISHED[levels[0]]


def test_sheets_cuts_and_prices_agree_on_the_level() -> None:
    for sheet in find_sheets(FAMILY, detail="fit"):
        style = sheet.style
        assert (sheet.detail, sheet.tokens) == (lowest(style.width, style.height), PUBLISHED[sheet.detail])
        assert price(FAMILY, style.width, style.height, "fit") == sheet.tokens
        assert price(FAMILY, style.width, style.height) == PUBLISHED["high"]
        for rows in (1, style.rows // 3 + 1, style.rows):
            (size,) = cut(FAMILY, style, [(style.width, rows * style.row_height)], "fit")
            assert size[0] == style.width and size[1] >= rows * style.row_height
            assert price_of_rows(FAMILY, style, rows, "fit") == PUBLISHED[lowest(*size)]
    assert price_of_rows(FAMILY, find_sheets(FAMILY)[0].style, 1) == PUBLISHED["high"]
    assert {sheet.detail for sheet in find_sheets(FAMILY, detail="fit")} == {"low", "medium", "high"}


@pytest.mark.parametrize("family", [profile.name for profile in PROFILES if profile.name != FAMILY])
def test_rows_without_levels_are_the_same_either_way(family: str) -> None:
    assert find_sheets(family, detail="fit") == find_sheets(family, detail="high")
    assert price(family, 507, 507, "fit") == price(family, 507, 507, "high")


def conversation(shape: str) -> list[Any]:
    """A user's text and a tool's result, each long enough for a page and too short for more than one at `low`."""
    user, tool = PROSE[:9000], PROSE[20_000:29_000]
    if shape == "anthropic":
        call = {"type": "tool_use", "id": "t", "name": "read", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "t", "content": tool}
        return [{"role": "user", "content": user}, {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result]}]  # fmt: skip
    if shape == "responses":
        call = {"type": "function_call", "call_id": "t", "name": "read", "arguments": "{}"}
        return [{"role": "user", "content": user}, call,
                {"type": "function_call_output", "call_id": "t", "output": tool}]  # fmt: skip
    call = {"id": "t", "type": "function", "function": {"name": "read", "arguments": "{}"}}
    return [{"role": "user", "content": user}, {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "t", "content": tool}]  # fmt: skip


@pytest.mark.parametrize(
    ("shape", "levels"),
    [
        ("openai", [{"low", "medium"}, {"low", "medium"}]),
        ("responses", [{"low", "medium"}, {"high"}]),  # proxies drop the level of images in the outputs of tools
        ("anthropic", [{None}, {None}]),  # its images have no level
    ],
)
def test_only_messages_that_carry_a_level_are_counted_below_the_default(
    shape: Any, levels: list[set[str | None]]
) -> None:
    done = compress_messages(conversation(shape), MODEL, CompressionPolicy(shape=shape, **NOW))
    pages = [pages_of([message]) for message in done.messages]
    pages = [found for found in pages if found]
    assert len(done.report.imaged) == len(pages) == 2
    assert all({level for level, _, _ in found} <= allowed for found, allowed in zip(pages, levels, strict=True))
    for part, found in zip(done.report.imaged, pages, strict=True):
        assert part.guarded and part.sizes == tuple((width, height) for _, width, height in found)
        billed = sum(PUBLISHED[level or "high"] for level, _, _ in found)
        assert billed < part.after < billed + 200  # and the introduction


def test_all_pages_go_at_the_default_level_unless_a_policy_or_one_word_of_a_header_says_otherwise() -> None:
    base = Settings("http://127.0.0.1:1").policy
    sent = []
    for line in ("keep_recent=0, step=1", "detail=fit, keep_recent=0, step=1"):
        done = compress_messages(conversation("openai"), MODEL, read_policy(line, base))
        sent.append({level for level, _, _ in pages_of(done.messages)})
    assert base.detail == "high" and sent[0] == {"high"} and sent[1] <= {"low", "medium"}
    for wrong in ("low", "", 1):
        with pytest.raises(VistError, match="fit, high"):
            Gate(detail=wrong)  # type: ignore[arg-type]


def test_a_cache_tells_the_levels_apart_and_gives_the_same_bytes() -> None:
    cache, messages = PageCache(), conversation("openai")
    fit, high = (CompressionPolicy(**{**NOW, "detail": way}) for way in ("fit", "high"))  # type: ignore[arg-type]
    first = [compress_messages(messages, MODEL, policy, cache=cache).messages for policy in (fit, high)]
    again = [compress_messages(messages, MODEL, policy, cache=cache).messages for policy in (fit, high)]
    assert first == again == [compress_messages(messages, MODEL, policy).messages for policy in (fit, high)]
    assert first[0] != first[1] and cache.hits == 4
