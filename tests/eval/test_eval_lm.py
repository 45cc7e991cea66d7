"""Losses and conditions against the stock model, token by token."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from tiny_vist import alice
from vist.eval.conditions import Condition, Passage, build_inputs
from vist.eval.lm import ConditionLoss, condition_loss, evaluate_lm, summarize
from vist.eval.reader import Reader
from vist.eval.windows import cut_windows, with_wrong_texts


@pytest.fixture(scope="module")
def passages(reader: Reader) -> list[Passage]:
    windows, _ = cut_windows(reader, [alice(12_000)], pages=1, proximal=20, windows=3)
    return with_wrong_texts(reader, windows, 1)


@pytest.fixture(scope="module")
def stock(reader: Reader) -> LlamaForCausalLM:
    """The LLM inside, rebuilt as transformers' own class."""
    model = LlamaForCausalLM(reader.model.config.text_config).eval()
    weights = {name: value for name, value in reader.model.language_model.state_dict().items() if "cross" not in name}
    model.load_state_dict(weights)
    return model


def slow_loss(model: LlamaForCausalLM, ids: list[int], scored: int) -> float:
    """Mean loss of the last tokens, one forward pass for each of them."""
    total = 0.0
    with torch.inference_mode():
        for place in range(len(ids) - scored, len(ids)):
            logits = model(input_ids=torch.tensor([ids[:place]])).logits[0, -1]
            total -= float(logits.log_softmax(0)[ids[place]])
    return total / scored


def test_no_context_is_the_stock_model_token_by_token(reader: Reader, stock, passages: list[Passage]) -> None:
    found = condition_loss(reader, Condition.NONE, passages, scored=20)
    slow = [slow_loss(stock, [reader.start_id, *passage.proximal], 20) for passage in passages]
    np.testing.assert_allclose(found.loss, slow, atol=1e-4)
    assert found.context_tokens.tolist() == [0, 0, 0]
    assert found.perplexity == pytest.approx(math.exp(np.mean(slow)), rel=1e-4)


def test_full_text_is_the_stock_model_on_the_whole_text(reader: Reader, stock, passages: list[Passage]) -> None:
    found = condition_loss(reader, Condition.FULL, passages, scored=20)
    for number, passage in enumerate(passages):
        ids = [reader.start_id, *reader.ids(passage.distant), *passage.proximal]
        assert found.loss[number] == pytest.approx(slow_loss(stock, ids, 20), abs=1e-4)
        assert found.context_tokens[number] == len(reader.ids(passage.distant))
    assert found.dropped_tokens.tolist() == [0, 0, 0]


def test_full_text_that_does_not_fit_loses_its_beginning(reader: Reader, passages: list[Passage]) -> None:
    long = Passage(alice(8_000), "", passages[0].proximal)
    inputs = build_inputs(reader, Condition.FULL, [long], reserve=10)
    ids = reader.ids(long.distant)
    assert inputs.tensors["input_ids"].shape[1] == reader.context_limit - 10
    assert inputs.context_tokens[0] + inputs.dropped_tokens[0] == len(ids)
    kept = inputs.tensors["input_ids"][0, 1 : 1 + inputs.context_tokens[0]].tolist()
    assert kept == ids[-inputs.context_tokens[0] :]
    assert inputs.tensors["input_ids"][0, 0] == reader.start_id


def test_pages_reach_the_model_and_wrong_pages_are_others(reader: Reader, passages: list[Passage]) -> None:
    losses = {condition: condition_loss(reader, condition, passages, scored=20).loss for condition in Condition}
    assert np.abs(losses[Condition.VISUAL] - losses[Condition.NONE]).min() > 1e-4
    assert np.abs(losses[Condition.VISUAL] - losses[Condition.WRONG]).max() > 1e-6
    swapped = [Passage(passage.wrong, passage.distant, passage.proximal) for passage in passages]
    np.testing.assert_allclose(condition_loss(reader, Condition.VISUAL, swapped, 20).loss, losses[Condition.WRONG])


@pytest.mark.parametrize("condition", list(Condition))
def test_batches_change_nothing(reader: Reader, passages: list[Passage], condition: Condition) -> None:
    together = condition_loss(reader, condition, passages, scored=20, batch_size=3)
    alone = condition_loss(reader, condition, passages, scored=20, batch_size=1)
    np.testing.assert_allclose(together.loss, alone.loss, atol=1e-5)
    assert together.context_tokens.tolist() == alone.context_tokens.tolist()


def test_visual_context_tokens_are_counted_by_page(reader: Reader, passages: list[Passage]) -> None:
    result = evaluate_lm(reader, passages, [0, 0, 0], resamples=200)
    tokens = [len(reader.ids(passage.distant)) for passage in passages]
    assert result.conditions[Condition.VISUAL].context_tokens.tolist() == [4, 4, 4]
    assert result.ratio(Condition.VISUAL) == pytest.approx(sum(tokens) / 12)
    assert result.ratio(Condition.FULL) == 1.0
    assert result.ratio(Condition.NONE) is None


def made_up(losses: dict[str, list[float]]) -> dict[Condition, ConditionLoss]:
    zero = np.zeros(len(losses["none"]))
    return {condition: ConditionLoss(np.array(losses[condition.value]), zero, zero) for condition in Condition}


def test_differences_are_paired_and_the_share_is_of_the_full_gain() -> None:
    base = np.linspace(1, 9, 40)  # windows differ widely, conditions by a constant: paired intervals have no width
    losses = {"none": base, "visual": base - 0.3, "wrong": base + 0.1, "full": base - 0.4}
    result = summarize(
        made_up({name: values.tolist() for name, values in losses.items()}), np.ones(40), np.arange(40), 20, 500
    )
    assert result.unit == "document"
    gain = result.differences[Condition.VISUAL, Condition.NONE]
    assert (gain.low, gain.estimate, gain.high) == (pytest.approx(-0.3), pytest.approx(-0.3), pytest.approx(-0.3))
    assert gain.excludes_zero
    assert result.differences[Condition.VISUAL, Condition.WRONG].estimate == pytest.approx(-0.4)
    assert result.share_kept.estimate == pytest.approx(0.75)
    assert result.perplexities[Condition.NONE].estimate == pytest.approx(math.exp(base.mean()))
    assert result.perplexities[Condition.NONE].low < math.exp(base.mean()) < result.perplexities[Condition.NONE].high


def test_no_share_is_kept_of_a_gain_that_is_not_there() -> None:
    result = summarize(
        made_up({"none": [1.0, 1.0], "visual": [0.9, 0.9], "wrong": [1.0, 1.0], "full": [1.1, 1.1]}),
        np.ones(2),
        np.array([0, 1]),
        20,
        200,
    )
    assert math.isnan(result.share_kept.estimate)
    assert math.isnan(result.share_kept.low)


def test_losses_by_distance_are_those_of_the_same_tokens(reader: Reader, stock, passages: list[Passage]) -> None:
    found = evaluate_lm(reader, passages, [0, 1, 2], resamples=100)
    rows = {(row["distance"], row["method"]): row["value"] for row in found.by_distance if row["minus"] is None}
    distances = sorted({distance for distance, _ in rows})
    assert len(distances) == 8 and distances[0] == 1
    ends = [*distances[1:], found.scored + 1]
    whole = sum(rows[start, "none"] * (end - start) for start, end in zip(distances, ends, strict=True)) / found.scored
    assert whole == pytest.approx(found.conditions[Condition.NONE].loss.mean(), rel=1e-5)
    ids = [[reader.start_id, *passage.proximal] for passage in passages]
    last = ends[-1] - distances[-1]
    assert rows[distances[-1], "none"] == pytest.approx(np.mean([slow_loss(stock, row, last) for row in ids]), abs=1e-4)
