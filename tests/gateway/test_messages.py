"""Conversations with pages: nothing lost, order kept, never dearer, a prefix that stays, and messages the APIs take."""

import base64
import copy
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import vist
from vist.errors import VistError
from vist.gateway import CompressionPolicy, Report, compress_messages, resolve_profile, restore, text_tokens

PROSE = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")
NOW = {"keep_recent": 0, "step": 1}
OPENAI, CLAUDE = "gpt-4o", "claude-sonnet-4-5"


def user(content: Any) -> dict:
    return {"role": "user", "content": content}


def said(content: Any) -> dict:
    return {"role": "assistant", "content": content}


def calls(*names: str) -> dict:
    functions = [{"id": name, "type": "function", "function": {"name": "read", "arguments": "{}"}} for name in names]
    return {"role": "assistant", "content": None, "tool_calls": functions}


def result(name: str, content: Any) -> dict:
    return {"role": "tool", "tool_call_id": name, "content": content}


def dumped(messages: list) -> list[str]:
    return [json.dumps(message) for message in messages]


def refusals(messages: list, shape: str) -> list[str]:
    """What an API would refuse in messages of ours, written down from the APIs' references, not from our code."""
    found = []
    for index, message in enumerate(messages):
        blocks = message["content"] if isinstance(message["content"], list) else []
        for block in blocks:
            found += refused_block(message["role"], block, shape)
        if shape == "openai" and message["role"] == "tool":
            before = messages[:index]
            while before and before[-1]["role"] == "tool":
                before = before[:-1]
            if not (before and before[-1].get("tool_calls")):
                found.append("a result is parted from its call")
    return found


def refused_block(role: str, block: dict, shape: str) -> list[str]:
    kind = block["type"]
    if kind == "text":
        return [] if block["text"] else ["an empty text"]
    if shape == "openai" and kind == "image_url":
        png = block["image_url"]["url"].removeprefix("data:image/png;base64,")
        wrong = role != "user" or block["image_url"]["detail"] not in ("auto", "low", "high")
        return ["an image where none may be"] * wrong + broken(png)
    if shape == "anthropic" and kind == "image":
        source = block["source"]
        wrong = role != "user" or source["type"] != "base64" or source["media_type"] != "image/png"
        return ["an image where none may be"] * wrong + broken(source["data"])
    if kind == "tool_result" and isinstance(block["content"], list):
        inner = [block for block in block["content"] if block["type"] != "text"]
        error = ["an error with an image"] if inner and block.get("is_error") else []
        return error + [fault for block in block["content"] for fault in refused_block(role, block, shape)]
    return [] if kind in ("tool_result", "tool_use", "document") else [f"an unknown block {kind}"]


def broken(png: str) -> list[str]:
    data = base64.b64decode(png, validate=True)
    image = Image.open(io.BytesIO(data))
    image.load()
    return ["an image beyond the limits"] if max(image.size) > 2048 or len(data) > 5_000_000 else []


def originals(report: Report) -> dict[tuple, str]:
    """The texts that became pages, given back by the report."""
    return {(part.message, part.block, part.inner): restore(part.guarded) for part in report.imaged if part.guarded}


def rebuilt(messages: list, report: Report) -> set[str]:
    """Every text that a reader of the messages gets: those that stay, and those that the pages stand for."""
    texts = set(originals(report).values())
    for message in messages:
        content = message["content"]
        for block in content if isinstance(content, list) else [{"type": "text", "text": content}]:
            inner = block.get("content") if block["type"] == "tool_result" else None
            if isinstance(inner, str):
                texts.add(inner)
            for item in inner if isinstance(inner, list) else [block]:
                texts.add(item.get("text") or "")
            if block["type"] == "document":
                texts.add(block["source"]["data"])
    return texts


def test_an_old_user_message_becomes_pages_in_its_place() -> None:
    messages = [user(PROSE[:9000]), said("Read."), user("And now?")]
    done = compress_messages(messages, OPENAI, CompressionPolicy(keep_recent=2, step=1))
    first = done.messages[0]["content"]
    assert [block["type"] for block in first] == ["text"] + ["image_url"] * (len(first) - 1)
    assert done.messages[1:] == messages[1:] and done.messages[1] is messages[1]
    assert done.report.parts[0].pages == len(first) - 1 and done.report.parts[0].pages_in == 0
    assert originals(done.report) == {(0, None, None): PROSE[:9000]}
    assert done.settled == 1 and done.report.saving > 0.3 and "became" in done.report.sentence()


def test_system_prompts_assistants_and_recent_messages_stay() -> None:
    long = PROSE[:9000]
    messages = [{"role": "system", "content": long}, said(long), user(long), said(long), user(long)]
    done = compress_messages(messages, OPENAI, CompressionPolicy(keep_recent=2, step=1))
    assert [part.decision for part in done.report.parts] == ["kept", "kept", "imaged", "kept", "kept"]
    assert "system" in done.report.parts[0].reason and "recent" in done.report.parts[4].reason


def test_openai_tool_results_move_behind_the_results_of_their_call() -> None:
    messages = [
        user("Read both."),
        calls("a", "b", "c"),
        result("a", PROSE[:9000]),
        result("b", "short"),
        result("c", [{"type": "text", "text": PROSE[9000:18_000]}]),
        said("Done."),
    ]
    done = compress_messages(messages, OPENAI, CompressionPolicy(**NOW))
    assert [message["role"] for message in done.messages] == ["user", "assistant"] + ["tool"] * 3 + [
        "user",
        "assistant",
    ]
    assert done.messages[2] == result("a", "[Result 1: see the images in the next message.]")
    assert done.messages[3] is messages[3] and "Result 2" in done.messages[4]["content"][0]["text"]
    pages = done.messages[5]["content"]
    assert [block["text"][:10] for block in pages if block["type"] == "text"] == ["[Result 1]", "[Result 2]"]
    assert {part.pages_in for part in done.report.imaged} == {5}
    assert refusals(done.messages, "openai") == []
    kept = compress_messages(messages, OPENAI, CompressionPolicy(tool_results="text", **NOW))
    assert kept.messages == messages and "policy" in kept.report.parts[2].reason


def test_results_of_one_call_become_old_together() -> None:
    messages = [user("Go."), calls("a", "b"), result("a", PROSE[:9000]), result("b", PROSE[:9000]), said("Done.")]
    policy = CompressionPolicy(keep_recent=0, step=3)
    done = compress_messages(messages, OPENAI, policy)
    assert done.messages == messages and done.settled == 2


def test_tool_results_without_a_call_pass_through() -> None:
    messages = [result("a", PROSE[:9000]), user("?")]
    done = compress_messages(messages, OPENAI, CompressionPolicy(**NOW))
    assert done.messages == messages and "no tool call" in done.report.parts[0].reason


def test_anthropic_blocks_are_replaced_where_they_stand() -> None:
    cached = {"type": "ephemeral"}
    messages = [
        user(
            [
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": PROSE[:9000]},
                 "title": "Alice", "cache_control": cached},
                {"type": "text", "text": "What is this?"},
            ]
        ),
        said([{"type": "tool_use", "id": "t", "name": "read", "input": {}}]),
        user(
            [
                {"type": "tool_result", "tool_use_id": "t", "content": PROSE[9000:18_000]},
                {"type": "tool_result", "tool_use_id": "u", "is_error": True, "content": PROSE[9000:18_000]},
                {"type": "tool_result", "tool_use_id": "v", "content": [{"type": "text", "text": PROSE[:9000]}]},
            ]
        ),
    ]  # fmt: skip
    before = copy.deepcopy(messages)
    done = compress_messages(messages, CLAUDE, CompressionPolicy(**NOW))
    assert messages == before and refusals(done.messages, "anthropic") == []
    first = done.messages[0]["content"]
    assert first[0]["text"].startswith("[Alice]\n") and first[-1] == {"type": "text", "text": "What is this?"}
    assert [block.get("cache_control") for block in first] == [None] * (len(first) - 2) + [cached, None]
    results = done.messages[2]["content"]
    assert [block["type"] for block in results] == ["tool_result"] * 3 and results[1] is messages[2]["content"][1]
    assert results[0]["content"][1]["type"] == results[2]["content"][1]["type"] == "image"
    assert set(originals(done.report)) == {(0, 0, None), (2, 0, None), (2, 2, 0)}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "text", "text": PROSE[:9000], "citations": [{"x": 1}]},
        {"type": "document", "source": {"type": "text", "data": PROSE[:9000]}, "citations": {"enabled": True}},
        {"type": "document", "source": {"type": "base64", "data": "JVBERi0="}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}},
        {"type": "novelty", "text": PROSE[:9000]},
        {"type": "text"},
        {"type": "text", "text": 7},
        {"type": "document"},
        {"type": "document", "source": []},
        {"type": "tool_result"},
        {"type": "tool_result", "content": 3},
        {"type": ["text"]},
        {},
        None,
        "a string",
        7,
    ],
)
@pytest.mark.parametrize("shape", ["openai", "anthropic"])
def test_blocks_that_are_not_understood_pass_through(block: Any, shape: Any) -> None:
    messages = [user([block]), said([block]), user("And?")]
    done = compress_messages(messages, CLAUDE, CompressionPolicy(shape=shape, **NOW))
    assert done.messages == messages and done.messages[0] is messages[0] and not done.report.imaged


@pytest.mark.parametrize("content", [None, "", [], {}, 7])
def test_content_that_is_none_passes_through(content: Any) -> None:
    for message in (user(content), said(content), result("a", content), {"role": "user"}):
        done = compress_messages([calls("a"), message], OPENAI, CompressionPolicy(**NOW))
        assert done.messages[1] is message


@pytest.mark.parametrize("messages", [None, "text", 7, {"role": "user"}, [{"content": "x"}], [None], [{"role": 3}]])
def test_what_cannot_be_walked_is_refused(messages: Any) -> None:
    with pytest.raises(VistError):
        compress_messages(messages, OPENAI)


@pytest.mark.parametrize("model", ["no-such-model", "", None])
def test_an_unknown_model_is_refused_or_passed(model: Any) -> None:
    messages = [user(PROSE[:9000])]
    with pytest.raises(VistError):
        compress_messages(messages, model, CompressionPolicy(**NOW))
    done = compress_messages(messages, model, CompressionPolicy(unknown_model="pass", **NOW))
    assert done.messages == messages and done.report.profile is None and "rule" in done.report.parts[0].reason


def test_objects_of_client_libraries_pass_through() -> None:
    class Message:
        role = "assistant"
        content = None
        tool_calls = (object(),)

    messages = [user("Go."), Message(), result("a", PROSE[:9000]), said("Done.")]
    done = compress_messages(messages, OPENAI, CompressionPolicy(**NOW))
    assert done.messages[1] is messages[1] and len(done.report.imaged) == 1


def test_pages_are_counted_from_the_start_of_the_conversation() -> None:
    messages = [user(PROSE[:9000])] * 3
    unbounded = compress_messages(messages, CLAUDE, CompressionPolicy(**NOW)).report
    each = unbounded.parts[0].pages
    done = compress_messages(messages, CLAUDE, CompressionPolicy(max_pages=2 * each, **NOW)).report
    assert [part.decision for part in done.parts] == ["imaged", "imaged", "kept"]
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    done = compress_messages([user([image]), *messages], CLAUDE, CompressionPolicy(max_pages=2 * each, **NOW)).report
    assert [part.decision for part in done.parts] == ["kept", "imaged", "kept", "kept"]


def test_the_shape_goes_by_the_messages_and_else_by_the_model() -> None:
    kinds = []
    for model, first in ((OPENAI, user("a")), (CLAUDE, user("a")), (CLAUDE, {"role": "system", "content": "a"})):
        done = compress_messages([first, user(PROSE[:9000])], model, CompressionPolicy(**NOW))
        kinds.append(done.messages[1]["content"][1]["type"])
    assert kinds == ["image_url", "image", "image_url"]


@pytest.mark.parametrize(
    "wrong", [{"keep_recent": -1}, {"step": 0}, {"shape": "x"}, {"tool_results": 1}, {"unknown_model": ""}]
)
def test_wrong_policies_are_refused(wrong: dict) -> None:
    with pytest.raises(VistError):
        CompressionPolicy(**wrong)


def agent(turns: int) -> list:
    """A conversation of an agent in OpenAI's shape: long and short results, one call or two at a time."""
    messages: list = [{"role": "system", "content": "Help."}, user(PROSE[:5000])]
    for turn in range(turns):
        names = [f"{turn}{letter}" for letter in "ab"[: 1 + turn % 2]]
        start = 3000 * turn
        messages += [calls(*names), *(result(name, PROSE[start : start + 4000]) for name in names)]
        messages += [said("I see."), user("Go on.")] if turn % 3 == 2 else []
    return messages


def chat(turns: int) -> list:
    texts = [PROSE[4000 * turn : 4000 * turn + (4000 if turn % 3 else 50)] for turn in range(turns)]
    return [message for text in texts for message in (user(text), said("Yes."))]


@pytest.mark.parametrize(("messages", "model"), [(agent(8), OPENAI), (chat(10), CLAUDE)])
@pytest.mark.parametrize(("keep", "step"), [(2, 4), (0, 1), (3, 5)])
def test_a_growing_conversation_keeps_its_prefix(messages: list, model: str, keep: int, step: int) -> None:
    """Outside steps each result is a prefix of the next; at a step what was settled is."""
    policy = CompressionPolicy(keep_recent=keep, step=step, min_saving=0.1)
    results = [compress_messages(messages[:count], model, policy) for count in range(len(messages) + 1)]
    changes = 0
    for count, (old, new) in enumerate(zip(results, results[1:], strict=False)):
        before, after = dumped(old.messages), dumped(new.messages)
        assert after[: old.settled] == before[: old.settled] and new.settled >= old.settled
        if after[: len(before)] != before:
            changes += 1
            assert policy.boundary(count + 1) > policy.boundary(count) or keep == 0
    assert changes <= len(messages) // step + (keep == 0)
    assert results[-1].report.imaged and 0 < results[-1].settled <= len(results[-1].messages)


LONG = st.integers(0, 8).map(lambda number: PROSE[2500 * number : 2500 * number + 4500])
ODD = st.sampled_from(["", "Yes.", "\ud800" * 3, "\x00", "3f2a9bc1", "<verbatim>" + PROSE[:3000], "\u0939" * 2000])
TEXT = st.one_of(LONG, ODD)
TEXT_BLOCK = st.builds(lambda text: {"type": "text", "text": text or "."}, TEXT)


@st.composite
def openai_messages(draw: st.DrawFn) -> list:
    messages: list = draw(st.sampled_from([[], [{"role": "system", "content": "Help."}]]))[:]
    for turn in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["user", "blocks", "assistant", "tools"]))
        if kind == "user":
            messages.append(user(draw(TEXT)))
        elif kind == "blocks":
            messages.append(user(draw(st.lists(TEXT_BLOCK, max_size=3))))
        elif kind == "assistant":
            messages.append(said(draw(TEXT)))
        else:
            names = [f"{turn}-{number}" for number in range(draw(st.integers(1, 3)))]
            messages += [calls(*names), *(result(name, draw(TEXT)) for name in names)]
    return messages


@st.composite
def anthropic_messages(draw: st.DrawFn) -> list:
    inner = st.one_of(TEXT, st.lists(TEXT_BLOCK, max_size=2))
    block = st.one_of(
        TEXT_BLOCK,
        st.builds(lambda text: {"type": "document", "source": {"type": "text", "data": text}}, LONG),
        st.builds(
            lambda content, error: {"type": "tool_result", "tool_use_id": "t", "content": content, "is_error": error},
            inner,
            st.booleans(),
        ),
    )
    content = st.one_of(TEXT, st.lists(block, max_size=3))
    return [said(draw(TEXT)) if number % 2 else user(draw(content)) for number in range(draw(st.integers(0, 5)))]


@pytest.mark.parametrize(("shape", "model"), [("openai", OPENAI), ("openai", "qwen3-vl-8b"), ("anthropic", CLAUDE)])
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_conversation_survives(shape: Any, model: str, data: st.DataObject) -> None:
    messages = data.draw(openai_messages() if shape == "openai" else anthropic_messages())
    step = data.draw(st.integers(1, 3))
    before = copy.deepcopy(messages)
    done = compress_messages(messages, model, CompressionPolicy(keep_recent=0, step=step, shape=shape))
    assert messages == before
    assert done == compress_messages(messages, model, CompressionPolicy(keep_recent=0, step=step, shape=shape))
    assert refusals(done.messages, shape) == refusals(messages, shape)
    everything = rebuilt(messages, Report((), None))
    assert everything <= rebuilt(done.messages, done.report) | {""}
    places = [(part.message, part.block if part.block is not None else -1) for part in done.report.parts]
    assert places == sorted(places)
    roles = [message["role"] for message in messages]
    kept = [message["role"] for message in done.messages if "[Result 1]" not in json.dumps(message)]
    assert kept == roles
    assert done.report.after <= done.report.before and all(part.after <= part.before for part in done.report.parts)
    assert json.dumps(done.report.to_dict())


def test_the_report_counts_what_the_messages_hold() -> None:
    messages = [user(PROSE[:9000]), said("Yes."), user("Well?")]
    report = compress_messages(messages, CLAUDE).report
    assert (
        report.before
        == report.after
        == sum(text_tokens(resolve_profile(CLAUDE), message["content"]).count for message in messages)
    )
    assert report.saving == 0 and not report.exact and report.pages == 0
