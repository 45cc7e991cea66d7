from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example, repeated_words
from vist.train.facts import ENDINGS, SYLLABLES, make_facts, plant


def surnames(split: str) -> set[str]:
    facts = make_facts(np.random.default_rng(3), split, 300)
    known = {first + last for first in SYLLABLES for last in ENDINGS}
    return {word for fact in facts for word in fact.statement.rstrip(".").split() if word in known}


def test_training_and_test_names_are_disjoint() -> None:
    train, test = surnames("train"), surnames("test")
    assert len(train) > 50 and len(test) > 30
    assert not train & test


def test_facts_have_different_cues_and_four_digits() -> None:
    facts = make_facts(np.random.default_rng(0), "test", 200, "number")
    assert len({fact.cue for fact in facts}) == 200
    assert all(len(fact.answer) == 4 and fact.answer.isdigit() for fact in facts)
    assert len({fact.answer for fact in facts}) > 150


def test_planting_adds_each_statement_once_in_its_part_of_the_text() -> None:
    text = "A short sentence stands here. " * 100
    facts = make_facts(np.random.default_rng(1), "train", 5)
    planted = plant(text, facts, np.random.default_rng(2))
    places = [planted.index(fact.statement) / len(planted) for fact in facts]
    assert all(planted.count(fact.statement) == 1 for fact in facts)
    assert places == sorted(places)
    assert all(abs(place - (number + 0.5) / 5) < 0.15 for number, place in enumerate(places))
    rest = planted
    for fact in facts:
        rest = rest.replace(fact.statement, "")
    assert rest.split() == text.split()


@pytest.mark.parametrize("text", ["", "word", "no border at all " * 20])
def test_planting_into_poor_text_keeps_the_statement(text: str) -> None:
    fact = make_facts(np.random.default_rng(1), "train", 1)
    assert fact[0].statement in plant(text, fact, np.random.default_rng(2))


def test_a_continuation_is_the_text_cut_in_two(corpus: PackedCorpus) -> None:
    mix = ExampleMix({"continue": 1}, {"books": 1})
    for seed in range(20):
        example = draw_example(corpus, mix, np.random.default_rng(seed), 400, 200)
        whole = example.distant + example.proximal
        assert any(whole in corpus.document("books", number) for number in range(4))
        assert 260 < len(example.distant) <= 400 and example.proximal.startswith(" ")


def test_a_text_without_blanks_is_cut_where_it_was_asked(tmp_path: Path) -> None:
    folder = tmp_path / "corpus" / "chinese"
    folder.mkdir(parents=True)
    text = "".join(chr(0x4E00 + place) for place in range(2000))
    pq.write_table(pa.table({"text": [text]}), folder / "train.parquet")
    packed = PackedCorpus.build(tmp_path, ("chinese",), "train", tmp_path / "packed")
    mix = ExampleMix({"continue": 1.0}, {"chinese": 1.0})
    example = draw_example(packed, mix, np.random.default_rng(0), 900, 300)
    assert example.distant + example.proximal in text
    assert abs(len(example.distant) - 3 * len(example.proximal)) <= 3


def test_recall_asks_for_what_was_planted(corpus: PackedCorpus) -> None:
    mix = ExampleMix({"recall": 1}, {"books": 1})
    for seed in range(20):
        example = draw_example(corpus, mix, np.random.default_rng(seed), 800, 300)
        asked = example.proximal.strip().split("\n\n")
        assert asked and all(example.distant.count(statement) == 1 for statement in asked)


def test_quotations_come_from_the_distant_text(corpus: PackedCorpus) -> None:
    mix = ExampleMix({"quote": 1}, {"books": 1})
    example = draw_example(corpus, mix, np.random.default_rng(5), 800, 300)
    quotes = example.proximal.strip().split("\n\n")
    assert len(example.proximal) >= 300 and all(quote in example.distant for quote in quotes)


def test_a_continuation_repeats_notable_words(corpus: PackedCorpus) -> None:
    distant = "Then Heathcliff spoke to Cathy, and Heathcliff left the farmhouse. He said No."
    proximal = " In the farmhouse sat Heathcliff. He had seen nobody."
    copies = repeated_words(distant, proximal)
    words = [(proximal[place : place + length], distant[origin : origin + length]) for place, origin, length in copies]
    assert words == [("farmhouse", "farmhouse"), ("Heathcliff", "Heathcliff")]
    assert copies[1][1] == distant.rindex("Heathcliff")
    plain, marked = (
        draw_example(
            corpus, ExampleMix({"continue": 1}, {"books": 1}, repeated_words=on), np.random.default_rng(3), 400, 200
        )
        for on in (False, True)
    )
    assert not plain.copies and (plain.distant, plain.proximal) == (marked.distant, marked.proximal)
