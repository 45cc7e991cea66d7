"""Any request of any of the three APIs, rewritten: hypothesis looks for one that is harmed.

The bytes of a request are checked against those that were built here, one message after the other, each written in a
way of its own; no parser of ours is asked.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import vist
from vist.gateway.cache import PageCache
from vist.gateway.report import Report
from vist.gateway.rewrite import COMPRESSED, ENDPOINTS, SKIPPED, UNCHANGED, Asked, rewrite
from vist.gateway.settings import Settings

PROSE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")
CHAT, RESPONSES, MESSAGES = ENDPOINTS
SETTINGS, CACHE = Settings("http://127.0.0.1:9"), PageCache(256 << 20)  # a cache, because the long texts are few
SECRETS = (
    "123e4567-e89b-12d3-a456-426614174000",
    "da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "https://example.org/a/b?c=1&d=%20",
    "sk-test-0123456789abcdefABCDEF",
    "900719925474099312",
    "someone@example.org",
)


def mixed(number: int, secret: str) -> str:
    start = 4000 * number
    return f"{PROSE[start : start + 2500]} {secret} {PROSE[start + 2500 : start + 5000]}"


LONG = st.builds(mixed, st.integers(0, 3), st.sampled_from(SECRETS))
SHORT = st.sampled_from(["", "Yes.", "\ud800", "\x00", "é \u200b", "<verbatim>" + PROSE[:3000] + "</verbatim>", "[#1]"])
TEXT = st.one_of(LONG, LONG, SHORT)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = st.dictionaries(st.sampled_from(["name", "id", "status", "cache_control", "x", "citations"]), JSON, max_size=2)


def with_more(block: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    return {**more, **block}


def built(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """An object with these members and, now and then, others that nobody knows."""
    return st.builds(with_more, st.fixed_dictionaries(values), st.one_of(st.just({}), st.just({}), FIELDS))


def just(value: Any) -> st.SearchStrategy[Any]:
    return st.just(value)


PICTURES = {
    CHAT: {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    RESPONSES: {"type": "input_image", "image_url": "https://example.org/a.png"},
    MESSAGES: {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
}


def blocks(path: str) -> st.SearchStrategy[Any]:
    known = [built(type=just("input_text" if path == RESPONSES else "text"), text=TEXT), just(PICTURES[path])]
    if path == MESSAGES:
        document = st.fixed_dictionaries({"type": just("text"), "media_type": just("text/plain"), "data": TEXT})
        inner = st.one_of(TEXT, st.lists(built(type=just("text"), text=TEXT), max_size=2), JSON)
        known += [
            built(type=just("document"), source=document),
            built(type=just("tool_result"), tool_use_id=just("t"), content=inner),
            built(type=just("tool_use"), id=just("t"), name=just("f"), input=JSON),
            built(type=just("thinking"), thinking=TEXT, signature=just("s")),
        ]
    odd = st.one_of(JSON, built(type=st.text(max_size=9) | just(["text"])), built(type=just("text")))
    return st.one_of(*known, *known, odd)


def messages(path: str) -> st.SearchStrategy[Any]:
    content = st.one_of(LONG, TEXT, st.lists(blocks(path), min_size=1, max_size=3), JSON)
    roles = st.sampled_from(["user", "user", "user", "assistant", "system", "developer", "tool", "owl"])
    kinds = [built(role=roles, content=content)] * 3
    if path == CHAT:
        call = just([{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}])
        kinds += [built(role=just("assistant"), content=st.none() | TEXT, tool_calls=call | JSON)]
        kinds += [built(role=just("tool"), tool_call_id=just("c"), content=content)] * 2
    if path == RESPONSES:
        kinds += [built(type=just("function_call"), call_id=just("c"), name=just("f"), arguments=just("{}"))]
        kinds += [built(type=just("function_call_output"), call_id=just("c"), output=content)] * 2
        kinds += [built(type=st.sampled_from(["reasoning", "item_reference", "web_search_call"]), id=just("i"))]
    return st.one_of(*kinds)


def written(value: Any, style: int) -> str:
    """A value as JSON in one of four ways of writing the same."""
    spaces: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"separators": (" , ", " : ")}]
    return json.dumps(value, **spaces[style])


@st.composite
def requests(draw: st.DrawFn, path: str) -> tuple[str, list[str], str]:
    """What stands before the messages, each message, and what stands behind them."""
    given = [
        written(message, draw(st.integers(0, 3)))
        for message in draw(st.lists(messages(path), min_size=draw(st.integers(0, 4)), max_size=6))
    ]
    model = {CHAT: "gpt-4o", RESPONSES: "gpt-5", MESSAGES: "claude-sonnet-4-5"}[path]
    before = f'{{"model": "{model}", "odd": {written(draw(JSON), draw(st.integers(0, 3)))}, "big": 1e400, '
    return before + f'"{ENDPOINTS[path][1]}" :\n[', given, ' ] ,\t"temperature":1.50 }'


def stands_for(new: Any, message: Any, gone: set[int | None]) -> bool:
    """Whether a message of ours has all of a given one but the texts that became pages."""
    if not isinstance(new, dict) or not isinstance(message, dict):
        return bool(new == message)
    if not gone:
        return new == message
    field = "output" if message.get("type") == "function_call_output" else "content"
    rest = [{name: value for name, value in each.items() if name != field} for each in (new, message)]
    if rest[0] != rest[1] or None in gone:
        return bool(rest[0] == rest[1] and isinstance(message[field], str))
    there = iter(new[field])
    return all(block in there for index, block in enumerate(message[field]) if index not in gone)


def check(path: str) -> None:
    """Let hypothesis look for a request to this path that is harmed, and see that it tried those with pages, too."""
    seen: Counter[str] = Counter()

    @settings(max_examples=60)
    @given(data=st.data())
    def survives(data: st.DataObject) -> None:
        before, each, behind = data.draw(requests(path))
        body = (before + ", ".join(each) + behind).encode()
        asked = Asked(f"keep_recent={data.draw(st.integers(0, 2))}, step=1")
        done = rewrite(body, path, asked, SETTINGS, CACHE)
        seen[done.status] += 1
        assert done.status in (COMPRESSED, UNCHANGED, SKIPPED) and done.reason  # nothing of ours failed
        assert rewrite(body, path, asked, SETTINGS, CACHE).body == done.body
        assert (done.body is not None) == (done.status == COMPRESSED)
        if done.body is not None and done.report is not None:
            nothing_is_harmed(body.decode(), before, each, behind, done.body.decode("ascii"), done.report)

    survives()
    assert seen[COMPRESSED] >= 6, seen


def nothing_is_harmed(body: str, before: str, each: list[str], behind: str, raw: str, report: Report) -> None:
    head = before.removesuffix("[")
    assert raw.startswith(head) and raw.endswith(behind.removeprefix(" ]")) and report.after < report.before
    gone: dict[int, set[int | None]] = {index: set() for index in range(len(each))}
    for part in report.imaged:
        gone[part.message].add(part.block)
        assert part.guarded and not any(secret in part.guarded.text for secret in SECRETS)
    at, field = len(head), "input" if '"input" :' in head[-12:] else "messages"
    new = iter(json.loads(raw)[field])
    for index, message in enumerate(each):
        given = json.loads(message)
        assert any(stands_for(made, given, gone[index]) for made in new), f"message {index} is missing or out of order"
        if not gone[index]:
            at = raw.find(message, at)
            assert at >= 0, f"message {index} is not there to the byte"
            at += len(message)
    outside = json.dumps(without_images(json.loads(raw)))
    assert not [secret for secret in SECRETS if secret in body and secret not in outside]


def without_images(thing: Any) -> Any:
    """What of a request is text: all of it but the images' data."""
    if isinstance(thing, dict):
        return {name: without_images(value) for name, value in thing.items()}
    if isinstance(thing, list):
        return [without_images(value) for value in thing]
    return re.sub(r"[A-Za-z0-9+/]{2000,}=*", "", thing) if isinstance(thing, str) else thing


def test_any_chat_request_survives() -> None:
    check(CHAT)


def test_any_request_to_responses_survives() -> None:
    check(RESPONSES)


def test_any_request_to_messages_survives() -> None:
    check(MESSAGES)


@settings(max_examples=100)
@given(data=st.data(), path=st.sampled_from([CHAT, RESPONSES, MESSAGES]))
def test_bytes_that_are_cut_or_broken_are_no_error_of_ours(data: st.DataObject, path: str) -> None:
    before, each, behind = data.draw(requests(path))
    body = bytearray((before + ", ".join(each) + behind).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    broken = bytes(body[: data.draw(st.integers(0, len(body)))])
    assert rewrite(broken, path, Asked("keep_recent=0, step=1"), SETTINGS, CACHE).status in (
        COMPRESSED,
        UNCHANGED,
        SKIPPED,
    )
