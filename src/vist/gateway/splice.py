"""A request's JSON changed in one place: everything else stays the bytes that the client sent.

Owns the reading of an object's members and of a list's elements with their places in the text. Knows no API.

Decisions
- Parsing a request and writing it anew would change numbers (1e400, 1.0e5), escapes and the order of doubled names.
  So only the list of messages is written anew, and of it only the messages that changed.
- An object with a name twice is refused: readers do not agree on which one counts.
- What is written is plain ASCII, so that half a surrogate pair in a text comes through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

_BLANK = re.compile(r"[ \t\n\r]*")
_DECODER = json.JSONDecoder()


class Member(NamedTuple):
    """A value and where its text begins and ends."""

    value: Any
    start: int
    end: int


def read_members(text: str) -> dict[str, Member]:
    """Return the members of a JSON object.

    Raises ValueError for what is no JSON object or has a name twice, RecursionError for one that is nested too deeply.
    """
    members: dict[str, Member] = {}
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise ValueError("it is no JSON object")
    at, closed = _skip(text, at + 1), False
    while not closed:
        if text[at : at + 1] == "}" and not members:
            at += 1
            break
        name, end = _DECODER.raw_decode(text, at)
        at = _skip(text, end)
        if not isinstance(name, str) or text[at : at + 1] != ":":
            raise ValueError(f"a name was expected at character {at}")
        if name in members:
            raise ValueError(f"the name {name[:40]!r} stands there twice")
        at = _skip(text, at + 1)
        value, end = _DECODER.raw_decode(text, at)
        members[name] = Member(value, at, end)
        at, closed = _next(text, end, "}")
    if _skip(text, at) != len(text):
        raise ValueError(f"something follows the object at character {at}")
    return members


def read_elements(text: str, start: int) -> list[Member]:
    """Return the elements of the JSON list that begins at `start` and is known to be one."""
    elements: list[Member] = []
    at, closed = _skip(text, start + 1), False
    if text[at] == "]":
        return elements
    while not closed:
        value, end = _DECODER.raw_decode(text, at)
        elements.append(Member(value, at, end))
        at, closed = _next(text, end, "]")
    return elements


def write_elements(text: str, given: Sequence[Member], new: Sequence[Any]) -> str:
    """Return a JSON list of `new`, where what is an element of `given` itself keeps its text."""
    known = {id(member.value): member for member in given if isinstance(member.value, dict | list)}
    parts = []
    for value in new:
        member = known.get(id(value))
        parts.append(text[member.start : member.end] if member else json.dumps(value, separators=(",", ":")))
    return f"[{','.join(parts)}]"


def _skip(text: str, at: int) -> int:
    blank = _BLANK.match(text, at)
    return blank.end() if blank else at


def _next(text: str, at: int, closing: str) -> tuple[int, bool]:
    """The place behind the comma or the closing bracket at which a value ends, and whether it was the bracket."""
    at = _skip(text, at)
    mark = text[at : at + 1]
    if mark not in (",", closing):
        raise ValueError(f"a comma or {closing!r} was expected at character {at}")
    return (_skip(text, at + 1), False) if mark == "," else (at + 1, True)
