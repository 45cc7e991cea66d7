"""Where a text stands in a conversation, and what is done with it there: values that all message shapes share.

Owns `Place`, `Press` and the reading of fields from dicts and client objects alike. Knows no API.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from vist.gateway.profit import Weighed

Block = Any  # a dict of the caller's, or an object of a client library


class Place(NamedTuple):
    """Where a text stands in a message: index of the block, index inside a tool result, and what it is."""

    block: int | None
    inner: int | None
    kind: str


# What is done with a text: called with it, its place and what else has to be sent if it becomes pages.
Press = Callable[[str, Place, str], Weighed | None]


def get(thing: Any, name: str) -> Any:
    """Return a field of a dict or of a client library's object, None where it has none."""
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def role_of(message: Any) -> str | None:
    """Return a message's role, None where it has none that is a string."""
    role = get(message, "role")
    return role if isinstance(role, str) and role else None


def dumped(value: Any) -> str:
    """Return a value as JSON, near enough to what the model is shown."""
    try:
        return json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):
        return str(type(value).__name__)


def is_text(block: Block, known: set[str], kind: str = "text") -> bool:
    """Tell whether a block is a text of this type with no fields but the known ones."""
    return (
        isinstance(block, dict)
        and block.get("type") == kind
        and isinstance(block.get("text"), str)
        and all(name in known or value is None for name, value in block.items())
    )


def with_field(message: Mapping[str, Any], field: str, blocks: list[Block]) -> Any:
    """Return the message itself if the blocks of its field are still the same objects, else one with these."""
    given = message[field]
    same = len(blocks) == len(given) and all(old is new for old, new in zip(given, blocks, strict=True))
    return message if same else {**message, field: blocks}
