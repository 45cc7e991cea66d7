"""Items of OpenAI's Responses API: which texts become pages, where those stand, and what stays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import vist
from vist.gateway import CompressionPolicy, compress_messages, restore

LONG = (Path(vist.__file__).parent / "assets" / "texts" / "alice_in_wonderland.txt").read_text(encoding="utf-8")[:6000]
NOW = CompressionPolicy(keep_recent=0, step=1)
ITEMS: list[dict[str, Any]] = [
    {"role": "developer", "content": LONG},
    {"role": "user", "content": [{"type": "input_text", "text": LONG}, {"type": "input_file", "file_id": "f"}]},
    {"type": "reasoning", "id": "r", "summary": [], "encrypted_content": LONG},
    {"type": "function_call", "call_id": "1", "name": "read", "arguments": json.dumps({"path": LONG[:900]})},
    {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": LONG}], "status": "x"},
    {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": LONG, "annotations": []}]},
    {"type": "web_search_call", "id": "w", "status": "completed"},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG, "new_field": 1}]},
]


def test_user_texts_and_tool_outputs_become_pages_in_place() -> None:
    done = compress_messages(ITEMS, "gpt-4o", NOW)
    assert len(done.messages) == len(ITEMS)
    assert [new is old for new, old in zip(done.messages, ITEMS, strict=True)] == [
        True, False, True, True, False, True, True, True,
    ]  # fmt: skip
    user, output = done.messages[1]["content"], done.messages[4]["output"]
    assert user[-1] == ITEMS[1]["content"][-1] and done.messages[4]["status"] == "x"
    for blocks in (user[:-1], output):
        assert blocks[0]["type"] == "input_text" and {block["type"] for block in blocks[1:]} == {"input_image"}
        assert all(block["image_url"].startswith("data:image/png;base64,") for block in blocks[1:])
        assert all(block["detail"] == "high" for block in blocks[1:])
    imaged = {part.message: part for part in done.report.imaged}
    assert {at: (part.role, part.kind) for at, part in imaged.items()} == {
        1: ("user", "text"),
        4: ("tool", "tool_result"),
    }
    assert all(part.guarded and restore(part.guarded) == LONG for part in imaged.values())


def test_every_item_is_in_the_report_with_a_reason() -> None:
    report = compress_messages(ITEMS, "gpt-4o", NOW).report
    assert [(part.message, part.kind, part.decision) for part in report.parts] == [
        (0, "text", "kept"), (1, "text", "imaged"), (1, "other", "kept"), (2, "other", "kept"),
        (3, "tool_call", "kept"), (4, "tool_result", "imaged"), (5, "text", "kept"), (6, "other", "kept"),
        (7, "text", "kept"),
    ]  # fmt: skip
    assert all(part.reason for part in report.parts)
    assert "developer" in report.parts[0].reason and "other fields" in report.parts[-1].reason


def test_recent_items_and_kept_tool_results_stay() -> None:
    assert compress_messages(ITEMS, "gpt-4o", CompressionPolicy(keep_recent=len(ITEMS))).messages == ITEMS
    policy = CompressionPolicy(keep_recent=0, step=1, tool_results="text")
    done = compress_messages(ITEMS, "gpt-4o", policy)
    assert done.messages[4] is ITEMS[4] and done.messages[1] is not ITEMS[1]


def test_what_is_no_item_known_to_us_passes() -> None:
    odd: list[Any] = [
        {"type": "function_call_output", "call_id": "1"},
        {"type": "function_call_output", "call_id": "1", "output": None},
        {"type": "function_call_output", "call_id": "1", "output": [None, 5, {"type": ["x"]}]},
        {"type": "custom_tool_call_output", "output": LONG},
        {"role": "user", "content": None, "type": "message"},
        {"type": "item_reference", "id": "x"},
    ]
    assert compress_messages(odd, "gpt-4o", NOW).messages == odd
    shape = CompressionPolicy(keep_recent=0, step=1, shape="responses")
    assert compress_messages(odd, "gpt-4o", shape).messages == odd
