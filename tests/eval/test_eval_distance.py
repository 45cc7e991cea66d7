"""Semantic distance: orders of masking, information, distances against plain loops."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from tiny_vist import alice
from vist.compress.frequency import TokenFrequency
from vist.errors import VistError
from vist.eval.distance import distance_rows, distances, information, masked_first, visual_means
from vist.eval.reader import Reader

TEXTS = [alice(600), alice(1_200)[600:], alice(1_800)[1_200:]]


@pytest.fixture(scope="module")
def importance(reader: Reader) -> np.ndarray:
    counted = TokenFrequency.from_corpus([reader.ids(alice(20_000))], len(reader.tokenizer))
    return counted.importance()


def test_orders_of_masking(importance: np.ndarray, reader: Reader) -> None:
    ids = reader.ids(TEXTS[0])
    for order, sign in (("rare", -1), ("frequent", 1)):
        places = masked_first(ids, importance, order, np.random.default_rng(0))
        assert sorted(places.tolist()) == list(range(len(ids)))
        assert (np.diff(sign * importance[np.array(ids)[places]]) >= 0).all()
    random = masked_first(ids, importance, "random", np.random.default_rng(0))
    assert random.tolist() != sorted(random.tolist())


def test_information_is_that_of_the_counts() -> None:
    counted = TokenFrequency.from_corpus([[0] * 7 + [1] * 3 + [2]], 4)
    expected = -np.log((1 + counted.counts) / (1 + counted.counts).sum())
    np.testing.assert_allclose(information(counted.importance()), expected, rtol=1e-5)


@pytest.mark.parametrize("order", ["rare", "frequent", "random"])
def test_distances_are_those_of_a_plain_loop(reader: Reader, importance: np.ndarray, order: str) -> None:
    found = distances(reader, TEXTS, importance, order, 0.5, seed=3)
    visual = visual_means(reader, TEXTS)
    worth = information(importance)
    for number, text in enumerate(TEXTS):
        ids = reader.ids(text)
        places = masked_first(ids, importance, order, np.random.default_rng((3, number)))
        left = sorted(set(range(len(ids))) - set(places[: round(len(ids) / 2)].tolist()))
        with torch.no_grad():
            mean = sum(reader.model.get_input_embeddings()(torch.tensor(ids[place])) for place in left) / len(left)
        for name, pages in (("distance", visual[number]), ("wrong", visual[(number + 1) % 3])):
            cosine = float(mean @ pages / (mean.norm() * pages.norm()))
            assert found[name][number] == pytest.approx(1 - cosine, abs=1e-4)
        kept = sum(worth[ids[place]] for place in left) / sum(worth[token] for token in ids)
        assert found["kept"][number] == pytest.approx(kept)


def test_a_model_in_half_precision_is_measured_too(reader: Reader, importance: np.ndarray) -> None:
    half = replace(reader, model=deepcopy(reader.model).to(torch.bfloat16))
    found, known = (distances(each, TEXTS, importance, "rare", 0.5)["distance"] for each in (half, reader))
    assert found == pytest.approx(known, abs=0.05)


def test_frequent_tokens_carry_less(reader: Reader, importance: np.ndarray) -> None:
    kept = {
        order: distances(reader, TEXTS, importance, order, 0.5)["kept"].mean()
        for order in ("rare", "random", "frequent")
    }
    assert kept["rare"] < kept["random"] < kept["frequent"]


def test_nothing_masked_is_the_same_in_every_order(reader: Reader, importance: np.ndarray) -> None:
    rows = distance_rows(reader, TEXTS, [0, 1, 2], importance, rates=(0.0, 0.5), resamples=200)
    change = {
        (row["order"], row["rate"]): row["value"]
        for row in rows
        if (row["method"], row["minus"]) == ("visual", "unmasked")
    }
    assert [change[order, 0.0] for order in ("rare", "frequent", "random")] == [0, 0, 0]
    assert change["rare", 0.5] != 0
    kept = [(row["low"], row["value"], row["high"]) for row in rows if row["metric"] == "kept:rare 0%"]
    assert kept == [(1.0, 1.0, 1.0)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "alphabetical"}, "Unknown order"),
        ({"rate": 1.0}, "below 1"),
        ({"texts": TEXTS[:1]}, "at least 2 texts"),
        ({"texts": ["", "a"]}, "Text 0 is empty"),
    ],
)
def test_bad_choices_are_refused(reader: Reader, importance: np.ndarray, change: dict, message: str) -> None:
    with pytest.raises(VistError, match=message):
        distances(
            reader,
            **(
                {"texts": TEXTS, "importance": importance, "order": "rare", "rate": 0.5, "visual": torch.zeros(3, 32)}
                | change
            ),
        )
