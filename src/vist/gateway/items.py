"""OpenAI's Responses API: what is text in its input items, and how pages are put there.

Owns what that API demands of items and their blocks. Like `shapes`, it decides nothing about what becomes pages.

Decisions
- A tool's output is an item of its own and may hold images, so its pages stand where the result stood.
- Items of other types (reasoning, references, calls of hosted tools) are the API's own and pass through untouched.
- The input may be one string. It is then one user message.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vist.gateway.places import Block, Place, Press, dumped, get, is_text, with_field
from vist.gateway.profit import Weighed

OUTPUT, CALL = "function_call_output", "function_call"
_BLOCKS = frozenset(("input_text", "input_image", "input_file", "output_text"))
_ITEMS = frozenset((OUTPUT, CALL, "reasoning", "item_reference", "custom_tool_call", "custom_tool_call_output"))
_TEXTS = ("input_text", "output_text")


def is_item(thing: Any) -> bool:
    """Tell whether this is an item that only the Responses API has."""
    kind = get(thing, "type")
    return isinstance(kind, str) and (kind in _ITEMS or kind.endswith(("_call", "_call_output")))


def has_sign(thing: Any) -> bool:
    """Tell whether this is such an item, or a message with a block that only the Responses API has."""
    content = get(thing, "content")
    kinds = [get(block, "type") for block in (content if isinstance(content, list) else ())]
    return is_item(thing) or any(isinstance(kind, str) and kind in _BLOCKS for kind in kinds)


def role_of_item(item: Any) -> str:
    """Return who speaks in an item: its role, `tool` for a tool's output, `assistant` for all else."""
    role = get(item, "role")
    if isinstance(role, str) and role:
        return role
    return "tool" if str(get(item, "type")).endswith("_output") else "assistant"


def texts_of_item(item: Any) -> Iterator[tuple[str, Place]]:
    """Yield everything in an item that costs text tokens or is an image ("" for what is no text)."""
    kind = get(item, "type")
    if kind == CALL:
        yield dumped([get(item, "name"), get(item, "arguments")]), Place(None, None, "tool_call")
    elif kind == OUTPUT:
        yield from _texts(get(item, "output"), "tool_result")
    elif kind in (None, "message"):
        yield from _texts(get(item, "content"), "text")
    else:
        yield "", Place(None, None, "other")


def _texts(content: Any, kind: str) -> Iterator[tuple[str, Place]]:
    if isinstance(content, str):
        yield content, Place(None, None, kind)
    for index, block in enumerate(content if isinstance(content, list) else ()):
        name = get(block, "type")
        if name in _TEXTS and isinstance(get(block, "text"), str):
            yield get(block, "text"), Place(index, None, kind)
        else:
            yield "", Place(index, None, "image" if name == "input_image" else "other")


def press_item(item: Any, press: Press) -> Any:
    """Return a user message or a tool's output with the texts that `press` takes as pages."""
    field, kind = ("output", "tool_result") if get(item, "type") == OUTPUT else ("content", "text")
    content = item[field]
    if isinstance(content, str):
        weighed = press(content, Place(None, None, kind), "")
        return {**item, field: item_blocks(weighed)} if weighed else item
    blocks: list[Block] = []
    for index, block in enumerate(content):
        plain = is_text(block, {"type", "text"}, "input_text")
        weighed = press(block["text"], Place(index, None, kind), "") if plain else None
        blocks += item_blocks(weighed) if weighed else [block]
    return with_field(item, field, blocks)


def can_press(item: Any) -> bool:
    """Tell whether an item is one whose texts may become pages: a user message or a tool's output, with content."""
    if not isinstance(item, Mapping):
        return False
    if item.get("type") == OUTPUT:
        return isinstance(item.get("output"), str | list)
    message = item.get("type") in (None, "message") and item.get("role") == "user"
    return message and isinstance(item.get("content"), str | list)


def item_blocks(weighed: Weighed) -> Sequence[Block]:
    """Return the introduction and the pages as blocks of a message or of a tool's output, with the level of each."""
    pages = [f"data:image/png;base64,{base64.b64encode(page).decode('ascii')}" for page in weighed.pages]
    levels = zip(pages, weighed.details, strict=True)
    images = ({"type": "input_image", "image_url": page, "detail": detail} for page, detail in levels)
    return [{"type": "input_text", "text": weighed.introduction}, *images]
