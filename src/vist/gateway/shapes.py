"""The shapes of messages, OpenAI's chat and Anthropic's: what is text in them, and how pages are put.

Owns what the APIs demand of roles and blocks. Decides nothing about what becomes pages: it hands texts to a function
and puts back what comes. The items of OpenAI's Responses API are in `items`.

Decisions
- Images stand only where the API takes them. OpenAI: user messages. Anthropic: user messages and the tool results in
  them, unless the result is an error. System prompts and assistant messages stay as they are in both: no API takes
  images there, and an assistant's words quoted by the user would teach it to write so.
- A tool result of OpenAI's shape can only be text. Its pages go into a user message right behind the tool messages of
  the same call, and a line in the result says so.
- A block is replaced only if every field of it is understood: an unknown one might be about the text.
- A cache breakpoint on a replaced block moves to the last block in its place.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from vist.gateway import items
from vist.gateway.places import Block, Place, Press, dumped, get, is_text, role_of, with_field
from vist.gateway.profit import Weighed

Shape = Literal["openai", "anthropic", "responses"]

_ANTHROPIC_BLOCKS = {
    "tool_use", "tool_result", "image", "document", "thinking", "redacted_thinking", "server_tool_use", "search_result",
}  # fmt: skip
_OPENAI_BLOCKS = {"image_url", "input_audio", "file", "refusal"}
_IMAGE_BLOCKS = {"image", "image_url", "input_image"}


def detect_shape(messages: Sequence[Any], default: Shape) -> Shape:
    """Return the shape of which the first sign is found; `default` for strings and plain text blocks alone."""
    if any(items.has_sign(message) for message in messages):
        return "responses"
    for message in messages:
        if role_of(message) in ("system", "developer", "tool", "function") or get(message, "tool_calls"):
            return "openai"
        content = get(message, "content")
        for block in content if isinstance(content, list) else ():
            kind = get(block, "type")
            if isinstance(kind, str) and (kind in _ANTHROPIC_BLOCKS or kind in _OPENAI_BLOCKS):
                return "anthropic" if kind in _ANTHROPIC_BLOCKS else "openai"
    return default


def texts_of(message: Any) -> Iterator[tuple[str, Place]]:
    """Yield everything in a message that costs text tokens or is an image ("" for what is no text)."""
    content = get(message, "content")
    kind = "tool_result" if role_of(message) in ("tool", "function") else "text"
    if isinstance(content, str):
        yield content, Place(None, None, kind)
    for index, block in enumerate(content if isinstance(content, list) else ()):
        yield from texts_of_block(block, index, kind)
    calls = get(message, "tool_calls")
    if calls:
        yield dumped(calls), Place(None, None, "tool_call")


def texts_of_block(block: Block, index: int, kind: str = "text") -> Iterator[tuple[str, Place]]:
    """Yield what one block has, as `texts_of` does."""
    name = get(block, "type")
    if name == "text" and isinstance(get(block, "text"), str):
        yield get(block, "text"), Place(index, None, kind)
    elif name == "tool_use":
        yield dumped([get(block, "name"), get(block, "input")]), Place(index, None, "tool_call")
    elif name == "tool_result":
        content = get(block, "content")
        if isinstance(content, str):
            yield content, Place(index, None, "tool_result")
        for number, inner in enumerate(content if isinstance(content, list) else ()):
            nested = {} if get(inner, "type") == "tool_result" else inner  # no API has those
            for text, place in texts_of_block(nested, number, "tool_result"):
                yield text, Place(index, number, place.kind)
    elif _plain_document(block) is not None:
        yield _plain_document(block) or "", Place(index, None, "document")
    else:
        yield "", Place(index, None, "image" if isinstance(name, str) and name in _IMAGE_BLOCKS else "other")


def openai_user(message: Mapping[str, Any], press: Press) -> Any:
    """Return a user message with the texts that `press` takes as pages."""
    content = message["content"]
    if isinstance(content, str):
        weighed = press(content, Place(None, None, "text"), "")
        return {**message, "content": openai_blocks(weighed)} if weighed else message
    blocks: list[Block] = []
    for index, block in enumerate(content):
        weighed = press(block["text"], Place(index, None, "text"), "") if is_text(block, {"type", "text"}) else None
        blocks += openai_blocks(weighed) if weighed else [block]
    return with_field(message, "content", blocks)


def openai_tools(messages: Sequence[Any], presses: Sequence[Press]) -> list[Any]:
    """Return the tool messages of one call, and behind them a user message with those results that became pages."""
    results: list[Any] = []
    pages: list[Block] = []
    number = 0

    def move(text: str, place: Place, press: Press) -> str | None:
        nonlocal number, pages
        stub, heading = f"[Result {number + 1}: see the images in the next message.]", f"[Result {number + 1}]\n"
        weighed = press(text, place, stub + heading)
        if weighed is None:
            return None
        number, pages = number + 1, pages + openai_blocks(weighed, heading)
        return stub

    for message, press in zip(messages, presses, strict=True):
        content = get(message, "content")
        if isinstance(content, str) and isinstance(message, Mapping):
            stub = move(content, Place(None, None, "tool_result"), press)
            results.append(message if stub is None else {**message, "content": stub})
        elif isinstance(content, list) and isinstance(message, Mapping):
            blocks = list(content)
            for index, block in enumerate(content):
                if is_text(block, {"type", "text"}):
                    stub = move(block["text"], Place(index, None, "tool_result"), press)
                    blocks[index] = block if stub is None else {"type": "text", "text": stub}
            results.append(with_field(message, "content", blocks))
        else:
            results.append(message)
    return [*results, {"role": "user", "content": pages}] if pages else results


def openai_blocks(weighed: Weighed, heading: str = "") -> list[Block]:
    """Return the introduction and the pages as blocks of a user message, each page with its level of detail."""
    pages = zip(weighed.pages, weighed.details, strict=True)
    images = [{"url": f"data:image/png;base64,{_ascii(page)}", "detail": detail} for page, detail in pages]
    text = {"type": "text", "text": heading + weighed.introduction}
    return [text, *({"type": "image_url", "image_url": image} for image in images)]


def anthropic_user(message: Mapping[str, Any], press: Press) -> Any:
    """Return a user message with the texts, documents and tool results that `press` takes as pages."""
    content = message["content"]
    if isinstance(content, str):
        weighed = press(content, Place(None, None, "text"), "")
        return {**message, "content": anthropic_blocks(weighed)} if weighed else message
    blocks: list[Block] = []
    for index, block in enumerate(content):
        blocks += _anthropic_block(block, index, press)
    return with_field(message, "content", blocks)


def _anthropic_block(block: Block, index: int, press: Press) -> list[Block]:
    """What stands in place of a block of a user message."""
    if get(block, "type") == "tool_result" and isinstance(block, Mapping):
        return [_anthropic_result(block, index, press)]
    heading, text = "", None
    if is_text(block, {"type", "text", "cache_control"}):
        kind, text = "text", block["text"]
    elif _is_document(block):
        kind, text = "document", _plain_document(block)
        names = [value for value in (block.get("title"), block.get("context")) if isinstance(value, str) and value]
        heading = "".join(f"[{name}]\n" for name in names)
    weighed = press(text, Place(index, None, kind), heading) if text is not None else None
    if weighed is None:
        return [block]
    return _cached(anthropic_blocks(weighed, heading), block)


def _anthropic_result(block: Mapping[str, Any], index: int, press: Press) -> Block:
    """A tool result with its texts as pages; an error's content must be text."""
    content = block.get("content")
    if block.get("is_error") or not isinstance(content, str | list):
        return block
    if isinstance(content, str):
        weighed = press(content, Place(index, None, "tool_result"), "")
        return {**block, "content": anthropic_blocks(weighed)} if weighed else block
    inside: list[Block] = []
    for number, inner in enumerate(content):
        weighed = None
        if is_text(inner, {"type", "text", "cache_control"}):
            weighed = press(inner["text"], Place(index, number, "tool_result"), "")
        inside += _cached(anthropic_blocks(weighed), inner) if weighed else [inner]
    return with_field(block, "content", inside)


def anthropic_blocks(weighed: Weighed, heading: str = "") -> list[Block]:
    """Return the introduction and the pages as blocks of a user message or a tool result."""
    sources = [{"type": "base64", "media_type": "image/png", "data": _ascii(page)} for page in weighed.pages]
    text = {"type": "text", "text": heading + weighed.introduction}
    return [text, *({"type": "image", "source": source} for source in sources)]


def _cached(blocks: list[Block], replaced: Mapping[str, Any]) -> list[Block]:
    if "cache_control" in replaced:
        blocks[-1] = {**blocks[-1], "cache_control": replaced["cache_control"]}
    return blocks


def _plain_document(block: Block) -> str | None:
    """The text of a plain-text document of Anthropic's shape."""
    source = get(block, "source")
    plain = get(block, "type") == "document" and isinstance(source, Mapping) and source.get("type") == "text"
    return source["data"] if plain and isinstance(source.get("data"), str) else None


def _is_document(block: Block) -> bool:
    """Whether a document's text may become pages: citations need it as text."""
    known = {"type", "source", "title", "context", "cache_control", "citations"}
    if _plain_document(block) is None or not isinstance(block, dict) or not known.issuperset(block):
        return False
    return not get(block.get("citations"), "enabled")


def _ascii(page: bytes) -> str:
    return base64.b64encode(page).decode("ascii")
