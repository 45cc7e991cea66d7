"""Question answering: SQuAD's rules re-derived, BM25 against its formula, who gets which passages."""

from __future__ import annotations

import json
import math
import re
import string
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from tiny_vist import alice
from vist.errors import VistError
from vist.eval.answers import exact_match, normalize, word_f1
from vist.eval.conditions import Condition
from vist.eval.qa import Allocation, QaConfig, allocate, answer, distant_text, evaluate_qa, first_line
from vist.eval.reader import Reader
from vist.eval.retrieval import (
    Question,
    TextPassage,
    is_retrieved,
    rank,
    read_passages,
    read_questions,
    worked_examples,
)


def squad_words(answer: str) -> list[str]:
    """SQuAD's rules, character by character and word by word: lower, drop punctuation, drop articles, split."""
    kept = [char for char in answer.lower() if char not in set(string.punctuation)]
    words, word = [], ""
    for char in [*kept, " "]:
        if char.isspace():
            words.append(word)
            word = ""
        else:
            word += char
    joined = " ".join(words)
    parts = re.split(r"(\W)", joined)  # an article is a whole run of letters, digits and underscores
    return "".join(" " if part in ("a", "an", "the") else part for part in parts).split()


@example("’a’b the the")  # an article leaves a blank behind
@given(st.text(alphabet="aAntheTHE .,-'’é_1\n\t", max_size=30))
def test_normalisation_is_squads(text: str) -> None:
    assert normalize(text).split() == squad_words(text)


@given(*[st.lists(st.sampled_from("red dog runs far".split()), min_size=1, max_size=5)] * 2)
def test_f1_is_scikit_learns(said: list[str], right: list[str]) -> None:
    """Words with their number among equal ones are the classes: in the answer, in the accepted one, or in both."""
    metrics = pytest.importorskip("sklearn.metrics")
    numbered = [{(word, words[:place].count(word)) for place, word in enumerate(words)} for words in (right, said)]
    classes = sorted(numbered[0] | numbered[1])
    true, found = ([item in words for item in classes] for words in numbered)
    assert word_f1(" ".join(said), [" ".join(right)]) == pytest.approx(metrics.f1_score(true, found))


@pytest.mark.parametrize(
    ("said", "accepted", "exact", "f1"),
    [
        ("The Beatles!", ["Beatles"], 1.0, 1.0),
        ("an apple a day", ["apple day"], 1.0, 1.0),
        ("U.S.A.", ["usa"], 1.0, 1.0),
        ("twenty-one", ["twentyone"], 1.0, 1.0),
        ("theatre", ["atre"], 0.0, 0.0),
        ("William the Conqueror", ["William", "Duke William"], 0.0, 2 / 3),
        ("the the", ["red red dog"], 0.0, 0.0),
        ("red red", ["red dog"], 0.0, 0.5),
        ("", ["the"], 1.0, 1.0),
        ("", ["dog"], 0.0, 0.0),
    ],
)
def test_scores_by_hand(said: str, accepted: list[str], exact: float, f1: float) -> None:
    assert exact_match(said, accepted) == exact
    assert word_f1(said, accepted) == pytest.approx(f1)


WORDS = "alpha beta gamma delta epsilon zeta kappa lambda".split()
PASSAGES = [
    TextPassage(f"p{number}", f"title{number}", " ".join(WORDS[(number * step) % 8] for step in range(1, 4 + number)))
    for number in range(7)
]


def test_ranking_is_bm25() -> None:
    """Against the plain formula of Lucene's BM25, k1 1.5, b 0.75."""
    bm25s = pytest.importorskip("bm25s")
    assert bm25s
    documents = [Counter(f"{item.title} {item.text}".lower().split()) for item in PASSAGES]
    mean = sum(sum(words.values()) for words in documents) / len(documents)

    def score(query: list[str], words: Counter[str]) -> float:
        total = 0.0
        for term in query:
            holders = sum(term in other for other in documents)
            idf = math.log(1 + (len(documents) - holders + 0.5) / (holders + 0.5))
            norm = 1.5 * (1 - 0.75 + 0.75 * sum(words.values()) / mean)
            total += idf * words[term] / (words[term] + norm)
        return total

    for text in ("alpha gamma", "kappa", "beta delta zeta", "title3 epsilon"):
        found = rank(PASSAGES, [Question(text, ("x",), "")], 3)[0]
        scores = {item.id: score(text.split(), words) for item, words in zip(PASSAGES, documents, strict=True)}
        expected = sorted(scores.values(), reverse=True)[:3]
        assert [scores[item.id] for item in found] == pytest.approx(expected)


def test_more_passages_than_there_are() -> None:
    with pytest.raises(VistError, match="8 passages were asked for and there are 7"):
        rank(PASSAGES, [Question("x", ("y",), "")], 8)


def ids(passages) -> list[str]:
    return [passage.id for passage in passages]


def test_allocation_and_its_swap() -> None:
    question = Question("alpha?", ("beta",), "p0")
    first = allocate(question, PASSAGES, QaConfig(2, 3))
    assert (ids(first.near), ids(first.paged)) == (["p0", "p1", "p2"], ["p3", "p4"])
    swapped = allocate(question, PASSAGES, QaConfig(2, 3, Allocation.PAGES_FIRST))
    assert (ids(swapped.near), ids(swapped.paged)) == (["p2", "p3", "p4"], ["p0", "p1"])
    alone = allocate(question, PASSAGES, QaConfig(2, 0))
    assert (ids(alone.near), ids(alone.paged)) == ([], ["p0", "p1"])
    assert distant_text(alone).endswith(PASSAGES[0].shown)  # the best is nearest


def test_retrieved_by_passage_or_by_answer() -> None:
    assert is_retrieved(Question("?", ("no",), "p1"), PASSAGES[:2])
    assert not is_retrieved(Question("?", ("alpha",), "p5"), PASSAGES[:2])
    assert is_retrieved(Question("?", ("The Beta!",), ""), PASSAGES[2:3]) == ("beta" in PASSAGES[2].text.split())
    assert not is_retrieved(Question("?", ("et",), ""), PASSAGES)  # whole words only


@pytest.mark.parametrize(
    ("text", "line"), [(" Paris\nQuestion: x", "Paris"), ("\n\n Paris ", "Paris"), ("", ""), (" \n", "")]
)
def test_an_answer_is_a_line(text: str, line: str) -> None:
    assert first_line(text) == line


QUESTIONS = [Question(f"Which is {number}?", (f"answer{number}",), f"p{number}") for number in range(3)]


def test_rows_of_all_conditions(reader: Reader) -> None:
    text = alice(3_000)
    passages = [TextPassage(f"p{n}", f"Part {n}", text[n * 60 : n * 60 + 60]) for n in range(4)]
    found = [passages[1:], passages[:3], passages[1:]]
    rows = evaluate_qa(reader, QUESTIONS, found, QUESTIONS[:1], QaConfig(2, 1, batch_size=2, resamples=200))
    absolute = {(row["metric"], row["method"]): row for row in rows if row["minus"] is None}
    assert {key for key in absolute if key[0] == "exact"} == {("exact", c.value) for c in Condition}
    assert absolute["retrieved", "bm25"]["value"] == pytest.approx(2 / 3)
    assert absolute["exact", "visual"]["ratio"] > 0
    assert absolute["f1", "none"]["context_tokens"] == 0


def copying(reader: Reader) -> Reader:
    """A model that answers with the word after 'secret' in the passage text nearest to the question."""

    def generate(input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        rows = []
        for row in input_ids:
            text = reader.tokenizer.decode(row, skip_special_tokens=True)
            found = re.findall(r"secret (\w+)", text)
            rows.append((reader.ids(f" {found[-1] if found else 'nothing'}\n") + reader.ids("x") * 30)[:30])
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    return Reader(
        SimpleNamespace(generate=generate, device=torch.device("cpu"), config=reader.model.config), reader.processor
    )


def test_an_oracle_reads_its_passages_nearest_first(reader: Reader) -> None:
    passages = [TextPassage(f"p{n}", "", f"the secret word{n}.") for n in range(3)]
    asked = [allocate(QUESTIONS[0], passages, QaConfig(2, 1)), allocate(QUESTIONS[0], passages, QaConfig(1, 0))]
    said, carried, lost = answer(copying(reader), Condition.FULL, asked, ["", ""], [])
    assert said == ["word0", "word0"]
    assert min(carried) > 0
    assert lost == 0
    said, _, _ = answer(copying(reader), Condition.NONE, asked, ["", ""], [])
    assert said == ["word0", "nothing"]


def test_passages_that_do_not_fit_lose_the_least_relevant_first(reader: Reader) -> None:
    passages = [TextPassage(f"p{n}", "", f"the secret word{n}. {alice(900)}") for n in range(3)]
    asked = [allocate(QUESTIONS[0], passages, QaConfig(1, 2))]
    said, _, lost = answer(copying(reader), Condition.NONE, asked, [""], [])
    assert lost > 0
    assert said == ["nothing"] or said == ["word0"]


def write(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_files_are_read_and_checked(tmp_path: Path) -> None:
    good = [{"passage_id": "a", "title": "T", "text": "x"}, {"passage_id": "b", "title": None, "text": "y"}]
    passages = write(tmp_path / "p.parquet", good)
    assert [item.shown for item in read_passages([passages])] == ["T: x", "y"]
    with pytest.raises(VistError, match="'a' .* is there already"):
        read_passages([passages, passages])
    with pytest.raises(VistError, match="no column 'text'"):
        read_passages([write(tmp_path / "q.parquet", [{"passage_id": "a", "title": "T"}])])
    with pytest.raises(VistError, match="has no text"):
        read_passages([write(tmp_path / "r.parquet", [{**good[0], "text": ""}])])
    rows = [
        {"question": f"q{n}", "answers": ["x"], "split": split} for n, split in enumerate(["test", "train", "train"])
    ]
    questions = write(tmp_path / "questions.parquet", rows)
    assert [item.text for item in read_questions(questions)] == ["q0"]
    assert len(worked_examples(questions, read_questions(questions), 2, 0)) == 2
    with pytest.raises(VistError, match="has 2 questions that are not asked"):
        worked_examples(questions, [], 3, 0)
    (tmp_path / "lines.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_questions(tmp_path / "lines.jsonl") == read_questions(questions)
    with pytest.raises(VistError, match="has no split 'dev'"):
        read_questions(questions, "dev")
    with pytest.raises(VistError, match="no question or no answer"):
        read_questions(
            write(tmp_path / "s.parquet", [{"question": "q", "answers": []}, {"question": "q", "answers": ["a"]}])
        )


@pytest.mark.parametrize("change", [{"encoder_passages": 0}, {"decoder_passages": -1}])
def test_bad_choices_are_refused(change: dict) -> None:
    with pytest.raises(VistError, match=r"At least 1 passage|must be 0 or more"):
        QaConfig(**change)


def test_one_question_has_no_wrong_pages(reader: Reader) -> None:
    with pytest.raises(VistError, match="at least 2 questions"):
        evaluate_qa(reader, QUESTIONS[:1], [PASSAGES], [], QaConfig())
