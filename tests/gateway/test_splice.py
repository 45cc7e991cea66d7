"""JSON changed in one place: everything else keeps its bytes, and what Python's parser refuses is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vist.gateway.splice import read_elements, read_members, write_elements

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), VALUES, max_size=6), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_members_are_where_they_are_said_to_be(value: dict[str, Any], indent: Any, plain: bool) -> None:
    text = "\n " + json.dumps(value, indent=indent, ensure_ascii=plain) + " "
    members = read_members(text)
    assert list(members) == list(value)
    for member in members.values():
        assert repr(json.loads(text[member.start : member.end])) == repr(member.value)  # nan is not itself


@given(st.lists(VALUES, max_size=6), st.integers(0, 5), st.sampled_from([None, 2]))
def test_elements_keep_their_text_unless_they_are_new(values: list[Any], changed: int, indent: Any) -> None:
    text = json.dumps(values, indent=indent)
    elements = read_elements(text, 0)
    assert repr([element.value for element in elements]) == repr(values)
    new = [element.value for element in elements]
    if changed < len(new):
        new[changed] = {"new": "\ud800"}
    written = write_elements(text, elements, new)
    assert repr(json.loads(written)) == repr(new) and written.isascii()
    for element in elements:
        if isinstance(element.value, dict | list) and any(element.value is value for value in new):
            assert text[element.start : element.end] in written


BROKEN = ["", "[]", "1", "{", '{"a"}', '{"a":1', '{"a":1,}', '{"a":1} 2', "{1:2}", '{"a":[1,]}', '{"a" 1}', "{,}"]


@pytest.mark.parametrize("text", BROKEN)
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read_members(text)
    if text not in ("[]", "1"):
        with pytest.raises(ValueError):
            json.loads(text)


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        read_members('{"a":1,"b":2,"a":3}')
