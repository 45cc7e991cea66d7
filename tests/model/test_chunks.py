"""Where chunks end, what they cost, and what becomes of text that no page can show."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny_vist2 import some_ids, tiny_processor, tiny_tokenizer
from vist.errors import VistError
from vist.model.chunks import Budget, ChunkRule, DrawnChunk, Undrawn, decode, draw_chunk
from vist.render import PageStyle

tokenizer = tiny_tokenizer()


def encoded(text):
    return tokenizer(text, add_special_tokens=False).input_ids


@settings(max_examples=40)
@given(st.text(max_size=60), st.integers(1, 9), st.integers(0, 8))
def test_pieces_are_the_text_and_hold_whole_characters(text, size, tolerance):
    rule = ChunkRule(size, min(tolerance, size - 1))
    ids = encoded(text)
    pieces = list(rule.cut(ids, tokenizer))
    assert [token for piece in pieces for token in piece.ids] == ids
    assert all(piece.kind == "chunk" for piece in pieces[:-1])
    for piece in pieces:
        assert len(piece.ids) <= size + 3
        if piece.kind == "chunk" and "\ufffd" not in text:
            assert "\ufffd" not in decode(tokenizer, piece.ids)
            assert len(piece.ids) >= size - rule.tolerance


@settings(max_examples=20)
@given(st.integers(0, 60), st.integers(2, 12))
def test_a_text_is_cut_alike_however_far_it_is_known(known, size):
    rule = ChunkRule(size, size // 2)
    ids = some_ids(200)[1:62]
    finished = [piece for piece in rule.cut(ids[:known], tokenizer) if piece.kind == "chunk"]
    assert list(rule.cut(ids, tokenizer))[: len(finished)] == finished


def test_a_sentence_ends_a_chunk_within_the_tolerance():
    ids = encoded("She sat down. It was late in the day and the rain had begun to fall on the town again")
    end = next(n for n in range(1, len(ids)) if decode(tokenizer, ids[:n]).endswith("."))
    first = next(ChunkRule(end + 3, 3).cut(ids, tokenizer))
    assert decode(tokenizer, first.ids) == "She sat down."
    assert len(next(ChunkRule(end + 3, 2).cut(ids, tokenizer)).ids) == end + 3
    quoted = encoded('"No!" he said')
    end = next(n for n in range(1, len(quoted)) if '!"' in decode(tokenizer, quoted[:n]))
    assert len(next(ChunkRule(end + 2, 2).cut(quoted, tokenizer)).ids) == end


def test_special_tokens_stand_between_chunks():
    end = tokenizer.eos_token_id
    ids = [end, *encoded("one two"), end, end, *encoded("three")]
    kinds = [(piece.kind, piece.full) for piece in ChunkRule(50, 0).cut(ids, tokenizer)]
    special = ("special", False)
    assert kinds == [special, ("chunk", False), special, special, ("open", False)]


@given(st.integers(1, 300), st.integers(0, 300), st.floats(1, 20), st.integers(1, 9))
def test_a_budget_follows_the_ratio_as_far_as_there_is_room(tokens, patches, ratio, places):
    given_tokens = Budget(ratio, places).tokens(tokens, patches)
    assert given_tokens >= 1 and given_tokens * places >= patches
    assert given_tokens == max(Budget(ratio, None).tokens(tokens, patches), -(-patches // places))
    assert Budget(ratio, None).tokens(tokens, patches) * ratio >= tokens > (given_tokens - 1) * ratio or (
        given_tokens == -(-patches // places)
    )
    assert Budget(ratio, places, most=3).tokens(tokens, patches) <= 3


def test_a_ratio_out_of_reach_is_named():
    Budget(4.0, 8).check([(40, 10), (40, 12)])
    with pytest.raises(VistError, match="cannot give a ratio of 20: .* reaches 4.0 text tokens"):
        Budget(20.0, 8).check([(40, 10)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ChunkRule(0), "chunk size is 0"),
        (lambda: ChunkRule(5, 5), "tolerance is 5 tokens"),
        (lambda: Budget(0.5), "ratio is 0.5"),
        (lambda: Budget("four"), "ratio is 'four'"),
        (lambda: Budget(float("inf")), "ratio is inf"),
        (lambda: tiny_processor(border_ids=(1,)), "border_ids are two"),
        (lambda: tiny_processor()(), "Nothing to process"),
        (lambda: tiny_processor()(["a", ""], add_special_tokens=False), "Text 1 .* has no tokens"),
    ],
)
def test_bad_values(build, message):
    with pytest.raises(VistError, match=message):
        build()


def test_what_is_drawn_and_what_stays_text():
    style = PageStyle(width=112, height=42)
    drawn = draw_chunk("a short line", 5, style, Budget())
    assert isinstance(drawn, DrawnChunk) and drawn.tokens == 5 and drawn.count == 2
    long = draw_chunk("words and words and words " * 9, 60, style, Budget())
    assert isinstance(long, DrawnChunk) and len(long.pixels) > 2
    control = draw_chunk("a\x01b", 3, style, Budget())
    assert isinstance(control, Undrawn) and "U+0001" in control.reason and control.text == "a\x01b"
    half = draw_chunk("a\ufffd", 3, style, Budget())
    assert isinstance(half, Undrawn) and "no character" in half.reason
    blank = draw_chunk("\n\n", 1, style, Budget())
    assert isinstance(blank, DrawnChunk) and blank.count == 1
