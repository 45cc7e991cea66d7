"""Sources as one text: nothing lost, nothing twice, and a way back for every character."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vist.errors import VistError
from vist.render.weave import Source, Weaving, Woven

LINES = st.lists(st.sampled_from(["a\n", "a long line that repeats itself\n", "", "\n", "b", "é\r\n"]), max_size=12)
HOW = st.builds(Weaving, st.booleans(), st.booleans(), st.booleans())


@given(st.lists(LINES, max_size=4), HOW, st.integers(1, 9))
def test_every_character_of_every_source_is_found_exactly_once(texts, how, size) -> None:
    joined = ["".join(lines) for lines in texts]
    sources = [Source(str(index), [text]) for index, text in enumerate(joined)]
    woven = Woven(sources, how)
    text = "".join(woven)
    found: dict[str, list[tuple[int, int]]] = {}
    for start in range(0, len(text), size):
        for name, first, last in woven.spans(start, min(start + size, len(text))):
            found.setdefault(name, []).append((first, last))
    for index, given_text in enumerate(joined):
        ends = [0, *(last for _, last in found.get(str(index), []))]
        assert [first for first, _ in found.get(str(index), [])] == ends[:-1] and ends[-1] == len(given_text)
    if not (how.headers or how.numbers or how.fold):
        assert text == "".join(joined)
    for name, first, last in woven.spans(0, len(text)) if not how.fold else ():
        assert joined[int(name)][first:last] in text or how.numbers


def test_headers_numbers_and_folded_repeats_read_well() -> None:
    log = "start\n" + "waiting for the server to answer\n" * 40 + "done\n"
    woven = Woven([Source("a.log", ["sta", "rt\n" + log[6:]]), Source("b", ["x"])], Weaving(True, True, True))
    assert "".join(woven) == (
        "=== a.log ===\n    1 start\n    2 waiting for the server to answer\n[the line above 39 more times]\n"
        "   42 done\n\n=== b ===\n    1 x"
    )


def test_places_beyond_the_text_are_refused() -> None:
    woven = Woven([Source("a", ["abc"])])
    with pytest.raises(VistError, match="0 characters so far"):
        woven.spans(0, 2)
    assert "".join(woven) == "abc" and woven.spans(1, 2) == [("a", 1, 2)]
