"""Planted facts: where they stand, how they are asked for, what counts as exact."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tiny_vist import alice
from vist.errors import VistError
from vist.eval import recall
from vist.eval.conditions import Condition
from vist.eval.reader import Reader
from vist.eval.recall import Answer, Recall, ask, evaluate_recall, is_exact, plan_contexts
from vist.render import layout
from vist.train.facts import Fact


@pytest.mark.parametrize(
    ("continuation", "answer", "exact"),
    [
        (" 4821.", "4821", True),
        (" 4821", "4821", True),
        (" 4821\n\nThe", "4821", True),
        (" 48215", "4821", False),
        (" 4821a", "4821", False),
        (" 482", "4821", False),
        ("4821.", "4821", False),
        ("  4821.", "4821", False),
        (" Ida Barwick's", "Ida Barwick", True),
        (" Ida Barwicks", "Ida Barwick", False),
        (" ida Barwick.", "Ida Barwick", False),
        ("", "4821", False),
    ],
)
def test_exact_means_to_the_letter(continuation: str, answer: str, exact: bool) -> None:
    assert is_exact(continuation, answer) is exact


def test_facts_stand_on_the_page_they_are_said_to(reader: Reader) -> None:
    contexts = plan_contexts(reader, [alice(20_000)], contexts=3, facts=4, pages=3)
    assert len({context.text for context in contexts}) == 3
    for context in contexts:
        spans = layout(context.text, reader.style).spans
        assert len(spans) == 3
        assert sorted(fact.kind for fact in context.facts) == ["name", "name", "number", "number"]
        for fact, depth in zip(context.facts, context.depths, strict=True):
            start = context.text.index(fact.statement)
            assert spans[depth, 0] <= start < spans[depth, 1]
    assert {depth for context in contexts for depth in context.depths} == {0, 1, 2}


def test_plans_are_the_same_for_the_same_seed(reader: Reader) -> None:
    first, second, other = (plan_contexts(reader, [alice(9_000)], 2, 2, 1, ("number",), seed) for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_every_text_gives_contexts(reader: Reader) -> None:
    texts = [alice(12_000)[:6_000], alice(12_000)[6_000:]]
    contexts = plan_contexts(reader, texts, contexts=4, facts=1, pages=1)
    ends = [context.text[-30:] for context in contexts]
    assert [sum(end in text for end in ends) for text in texts] == [2, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"contexts": 1}, "at least 2 contexts, got 1"),
        ({"facts": 0}, "at least 1 fact"),
        ({"kinds": ("colour",)}, "Unknown kind of fact 'colour'"),
        ({"pages": 40}, "does not fill 40 pages"),
        ({"texts": []}, "no text to plant facts in"),
        ({"facts": 60}, "leave no room"),
    ],
)
def test_plans_that_cannot_be_are_refused(reader: Reader, change: dict, message: str) -> None:
    with pytest.raises(VistError, match=message):
        plan_contexts(reader, **({"texts": [alice(5_000)], "contexts": 2, "facts": 2, "pages": 1} | change))


@pytest.mark.parametrize("condition", list(Condition))
def test_a_batch_answers_as_each_question_alone(reader: Reader, condition: Condition) -> None:
    contexts = plan_contexts(reader, [alice(9_000)], contexts=2, facts=2, pages=1)
    pairs = [(contexts[0], contexts[1]), (contexts[1], contexts[0])]
    batch = ask(reader, condition, pairs)
    for number, answer in enumerate(batch):
        context, other = pairs[number // 2]
        assert answer.fact == context.facts[number % 2]
        assert answer.continuation.startswith(alone(reader, condition, context, other, answer.fact, steps=6))


def alone(reader: Reader, condition: Condition, context, other, fact: Fact, steps: int) -> str:
    """One question, without cache, batch or generate: the likeliest token, `steps` times."""
    ids = [reader.start_id]
    if condition is Condition.FULL:
        ids += reader.ids(context.text)
    ids += reader.ids(f"\n\n{fact.cue}")
    shown = {Condition.VISUAL: context.text, Condition.WRONG: other.text}.get(condition)
    pages = {} if shown is None else reader.page_inputs([shown])
    written: list[int] = []
    with torch.inference_mode():
        for _ in range(steps):
            logits = reader.model(input_ids=torch.tensor([ids + written]), **pages).logits[0, -1]
            written.append(int(logits.argmax()))
    return reader.tokenizer.decode(written).rstrip("�")  # a character may be cut in two


def test_each_context_is_encoded_once_for_all_its_questions(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = type(reader.model).encode_context
    monkeypatch.setattr(
        type(reader.model), "encode_context", lambda self, **inputs: calls.append(1) or encode(self, **inputs)
    )
    contexts = plan_contexts(reader, [alice(9_000)], contexts=2, facts=4, pages=1)
    result = evaluate_recall(reader, contexts, pages=1, batch_size=2)
    assert len(calls) == 2  # visual and wrong, both contexts in one batch
    assert len(result.answers) == 4 * 8


def test_shares_are_counted_by_condition_kind_and_page() -> None:
    number, name = Fact("number", "The code of x is", "1234"), Fact("name", "The owner of y is", "Ida Barwick")
    said = {Condition.VISUAL: (" 1234.", " Ida Barwick.", " 1235."), Condition.FULL: (" 1234.", " No one.", " 1234,")}
    answers = [
        Answer(condition, fact, depth, text, 0)
        for condition in Condition
        for fact, depth, text in zip(
            (number, name, number), (0, 0, 1), said.get(condition, (" no", " no", " no")), strict=True
        )
    ]
    result = Recall(tuple(answers), contexts=3, pages=2)
    rows = {(row["method"], row["kind"]): (row["exact"], row["n"]) for row in result.rows()}
    assert rows["visual", "all"] == (pytest.approx(2 / 3), 3)
    assert rows["visual", "number"] == (0.5, 2)
    assert rows["full", "name"] == (0.0, 1)
    assert rows["none", "all"] == (0.0, 3)
    depths = {(row["method"], row["page"]): row["exact"] for row in result.depth_rows()}
    assert depths["visual", 1] == 1.0
    assert depths["visual", 2] == 0.0
    assert depths["full", 2] == 1.0


def test_an_oracle_that_reads_its_context_recalls_everything(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness itself: a model that copies from what it is given must get all of full text and none without it."""

    def copy_from_context(input_ids: torch.Tensor, **_: object) -> torch.Tensor:
        rows = []
        for row in input_ids:
            text = reader.tokenizer.decode(row, skip_special_tokens=True)
            before, cue = text.rsplit("\n\n", 1)
            place = before.find(cue)
            said = before[place + len(cue) :][:30] if place >= 0 else " nothing"
            rows.append((reader.ids(said) + reader.ids(" .") * 40)[:40])
        return torch.cat([input_ids, torch.tensor(rows)], dim=1)

    oracle = SimpleNamespace(generate=copy_from_context, device=torch.device("cpu"), config=reader.model.config)
    contexts = plan_contexts(reader, [alice(9_000)], contexts=2, facts=2, pages=1)
    pairs = [(contexts[0], contexts[1]), (contexts[1], contexts[0])]
    monkeypatch.setattr(recall, "_visual_context", lambda *_: {})
    copying = Reader(oracle, reader.processor)
    monkeypatch.setattr(oracle.config.text_config, "max_position_embeddings", 4_096)
    assert np.mean([answer.exact for answer in ask(copying, Condition.FULL, pairs)]) == 1.0
    assert np.mean([answer.exact for answer in ask(copying, Condition.NONE, pairs)]) == 0.0
