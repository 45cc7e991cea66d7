"""Needles by kind, how misses are told apart, the depth of the grid."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tiny_vist import alice
from vist.errors import VistError
from vist.eval.conditions import Condition
from vist.eval.misses import Miss, classify
from vist.eval.needles import NEEDLE_KINDS, make_needles, statements
from vist.eval.reader import Reader
from vist.eval.recall import Answer, Recall, evaluate_recall, plan_contexts, plan_depth
from vist.train.facts import Fact

ANSWERS = {
    "number": r"\d{4}",
    "name": r"[A-Z]\w+ [A-Z]\w+",
    "hex": r"[0-9a-f]{8}",
    "path": r"(/\w+){2}/\w+-\d\d\.\w+",
    "identifier": r"[a-z]+_[a-z]+_[a-z]+\d",
    "date": r"\d{1,2} [A-Z][a-z]+ 1\d{3}",
    "quotation": r'"\w+( \w+){5}"',
    "word-word": r"\w+",
    "word-number": r"\d{7}",
    "uuid-number": r"\d{7}",
    "several": r"\w+, \w+, \w+",
    "aggregation": r"\d{1,2}",
    "association": r"[A-Z]\w+ [A-Z]\w+",
    "dialogue": r"\w+",
}


@pytest.mark.parametrize("kind", NEEDLE_KINDS)
def test_needles_of_every_kind(kind: str) -> None:
    needles = make_needles(np.random.default_rng(1), kind, 5)
    assert len({needle.cue for needle in needles}) == 5
    assert needles == make_needles(np.random.default_rng(1), kind, 5)
    for needle in needles:
        assert needle.kind == kind
        assert re.fullmatch(ANSWERS[kind], needle.answer), needle.answer


def test_what_has_to_be_found_is_planted_and_only_there() -> None:
    rng = np.random.default_rng(2)
    for kind in NEEDLE_KINDS:
        needle = make_needles(rng, kind, 1)[0]
        planted = " ".join(statements(needle))
        if kind == "aggregation":
            assert sum(map(int, re.findall(r"\d+", planted))) == int(needle.answer)
        elif kind == "several":
            assert needle.answer.split(", ") == re.findall(r"is (\w+)\.", planted)
        else:
            assert needle.answer in planted
        assert needle.answer not in needle.cue


def test_an_association_shares_no_content_word_with_its_question() -> None:
    needle = make_needles(np.random.default_rng(0), "association", 1)[0]
    asked, planted = (set(re.findall(r"\w{4,}", text.lower())) for text in (needle.cue, needle.statement))
    assert asked & planted == set()


@pytest.mark.parametrize(
    ("said", "miss"),
    [
        ("", Miss.REFUSED),
        (" \n", Miss.REFUSED),
        (" unknown.", Miss.REFUSED),
        (" I do not know", Miss.REFUSED),
        (" not mentioned", Miss.REFUSED),
        (" 9999.", Miss.OTHER),
        (" 4822.", Miss.CHARACTERS),
        (" 48219", Miss.CHARACTERS),
        (" 482", Miss.CHARACTERS),
        (" 1357.", Miss.MADE_UP),
        (" nothing", Miss.REFUSED),
        (" 99991", Miss.MADE_UP),
    ],
)
def test_how_a_miss_fails(said: str, miss: Miss) -> None:
    assert classify(said, "4821", ["4821", "9999"]) is miss


def test_misses_are_shares_of_all_answers() -> None:
    fact = Fact("number", "The code of x is", "4821")
    said = [" 4821.", " 9999.", " 4822", ""]
    answers = [Answer(c, fact, 0, text, 0, ("9999",), n) for c in Condition for n, text in enumerate(said)]
    result = Recall(tuple(answers), contexts=4, pages=1)
    shares = {row["miss"]: row["share"] for row in result.miss_rows() if row["method"] == "visual"}
    assert shares == {"refused": 0.25, "other": 0.25, "characters": 0.25, "made up": 0.0}
    rows = {(row["metric"], row["method"], row["minus"]): row["value"] for row in result.score_rows(200)}
    assert rows["exact", "visual", None] == 0.25
    assert rows["misses:other", "full", None] == 0.25
    assert rows["exact", "visual", "wrong"] == 0.0


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_the_needle_stands_at_its_depth(reader: Reader, depth: float) -> None:
    contexts = plan_depth(reader, [alice(12_000)], 3, 2, depth, ("hex", "several"), seed=1)
    assert [context.facts[0].kind for context in contexts] == ["hex", "several", "hex"]
    for context in contexts:
        place = context.text.index(statements(context.facts[0])[0]) / len(context.text)
        assert place == pytest.approx(
            depth * (1 - sum(map(len, statements(context.facts[0]))) / len(context.text)), abs=0.1
        )
        assert all(statement in context.text for statement in statements(context.facts[0]))


def test_every_kind_can_be_asked_for(reader: Reader) -> None:
    contexts = plan_contexts(reader, [alice(30_000)], 3, 5, 3, NEEDLE_KINDS, seed=3)
    kinds = {fact.kind for context in contexts for fact in context.facts}
    assert len(kinds) == 14  # 15 questions take every kind in turn
    result = evaluate_recall(reader, contexts, pages=3)
    assert {row["metric"] for row in result.score_rows(200)} >= {"exact", "exact:hex", "misses:made up"}
    assert all(answer.others for answer in result.answers)
    assert sorted({answer.context for answer in result.answers}) == [0, 1, 2]


def test_unknown_kinds_are_refused(reader: Reader) -> None:
    with pytest.raises(VistError, match="Unknown kind of fact 'colour'"):
        plan_depth(reader, [alice(5_000)], 2, 1, 0.5, ("colour",))


def test_a_reader_of_another_style_draws_other_pages(reader: Reader) -> None:
    small = reader.restyled("vist-7")
    assert small.style.font_size == 7
    assert reader.style.font_size == 10
    text = alice(4_000)
    assert len(small.draw(text)) < len(reader.draw(text))
