"""In-context learning: likelihoods against one plain forward pass each, balance, bad data."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from vist.errors import VistError
from vist.eval.icl import CHOICES, IclConfig, Strategy, choose, draw_pages, evaluate_icl
from vist.eval.labelled import (
    Example,
    LabelledSet,
    draw_demonstrations,
    find_sets,
    pick_test_examples,
    read_labelled,
    read_table,
)
from vist.eval.likelihood import continuation_scores
from vist.eval.reader import Reader

COLOURS = ("red", "dark green", "blue")


def made_up(name: str = "colours", labels: tuple[str, ...] = COLOURS, each: int = 8) -> LabelledSet:
    examples = [Example(f"thing {number} of {label}", label) for label in labels for number in range(each)]
    return LabelledSet(name, tuple(examples), tuple(examples[:: max(1, len(labels))]), labels)


def slow_score(reader: Reader, ids: list[int], continuation: list[int], pages: dict) -> float:
    """One forward pass over everything, no cache, no padding."""
    row = torch.tensor([[reader.start_id, *ids, *continuation]])
    with torch.inference_mode():
        logits = reader.model(input_ids=row, **pages).logits[0].log_softmax(-1)
    places = range(len(ids), len(ids) + len(continuation))
    return sum(float(logits[place, token]) for place, token in zip(places, continuation, strict=True))


@pytest.mark.parametrize("with_pages", [False, True])
@pytest.mark.parametrize("prefix", ["", "The Queen said\n\n"])
def test_likelihoods_are_those_of_plain_forward_passes(reader: Reader, with_pages: bool, prefix: str) -> None:
    queries = [reader.ids(text) for text in ("Alice was", "Off with her head, said the Queen to", "")]
    labels = [reader.ids(text) for text in (" a", " very tired indeed", " the Hatter's tea")]
    text = "Alice was beginning to get very tired of sitting by her sister on the bank."
    pages = reader.page_inputs([text]) if with_pages else {}
    visual = reader.read_pages([[reader.draw(text)]])[0] if with_pages else None
    found = continuation_scores(reader, reader.ids(prefix), queries, labels, visual)
    slow = [[slow_score(reader, reader.ids(prefix) + query, label, pages) for label in labels] for query in queries]
    np.testing.assert_allclose(found, slow, atol=2e-4)


def test_many_continuations_are_read_in_several_passes(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, labels = [reader.ids("Alice"), reader.ids("the Queen")], [[5, 6], [7], [8, 9, 10], [11, 12]]
    whole = continuation_scores(reader, [3, 4], queries, labels)
    monkeypatch.setattr("vist.eval.likelihood.TOKENS", 2)
    np.testing.assert_allclose(continuation_scores(reader, [3, 4], queries, labels), whole, atol=1e-5)


def test_the_four_choices_by_hand() -> None:
    scores, lengths, unprompted = np.array([[-3.0, -4.0, -6.0]]), np.array([1, 2, 4]), np.array([-1.0, -3.0, -5.5])
    found = {name: int(place[0]) for name, place in choose(scores, lengths, unprompted).items()}
    # -3 -4 -6 | -3 -2 -1.5 | -2 -1 -0.5 | -2 -0.5 -0.125
    assert found == {"nll_acc": 0, "nll_acc_norm": 2, "nll_acc_calibrated": 2, "nll_acc_calibrated_norm": 2}
    assert tuple(found) == CHOICES


@pytest.mark.parametrize("count", [1, 3, 7, 24])
def test_demonstrations_are_balanced_and_different(count: int) -> None:
    drawn = draw_demonstrations(made_up(), count, np.random.default_rng(0))
    shares = Counter(example.label for example in drawn)
    assert len(set(drawn)) == count
    assert max(shares.values()) - min((shares[label] for label in COLOURS), default=0) <= 1
    assert drawn == draw_demonstrations(made_up(), count, np.random.default_rng(0))
    with pytest.raises(VistError, match="25 demonstrations were asked for and 'colours' has 24"):
        draw_demonstrations(made_up(), 25, np.random.default_rng(0))


def test_test_examples_are_the_same_for_every_seed() -> None:
    assert pick_test_examples(made_up(), 4) == pick_test_examples(made_up(), 9)[:4]


def test_strategies_are_four_different_pages(reader: Reader) -> None:
    shown = [f"Review: no. {number}\nSentiment: good" for number in range(5)]
    drawn = {strategy: draw_pages(reader, shown, strategy) for strategy in Strategy}
    ink_rows = {name: [int(row.any()) for pages in parts for row in pages.ink[0]][:16] for name, parts in drawn.items()}
    assert [len(parts) for parts in drawn.values()] == [1, 1, 1, 5]
    assert ink_rows[Strategy.BLANK][:6] == [1, 0, 1, 0, 1, 0]
    assert ink_rows[Strategy.LINES][:4] == [1, 1, 1, 1]
    assert sum(ink_rows[Strategy.JOINED]) < 5
    assert all(sum(map(int, pages.ink[0].any(1))) == 1 for pages in drawn[Strategy.SEPARATE])


SMALL = IclConfig(encoder_shots=3, decoder_shots=1, examples=4, seeds=(42, 43), per_draw=2, resamples=200)


def test_all_conditions_and_choices_are_reported(reader: Reader) -> None:
    rows = evaluate_icl(reader, made_up(), made_up("animals", ("cat", "dog")), SMALL)
    values = {(row["metric"], row["method"]): row for row in rows if row["minus"] is None}
    assert set(values) == {(choice, method) for choice in CHOICES for method in ("none", "visual", "wrong", "full")}
    assert {row["n"] for row in rows} == {8}
    assert {row["minus"] for row in rows} == {None, "none", "wrong", "full"}
    visual, full = values["nll_acc", "visual"], values["nll_acc", "full"]
    assert full["ratio"] is None
    assert visual["ratio"] == pytest.approx(full["context_tokens"] / visual["context_tokens"])
    assert rows == evaluate_icl(reader, made_up(), made_up("animals", ("cat", "dog")), SMALL)


def test_an_oracle_gets_everything_right(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that finds the label that stands in the question likeliest must reach 100 %, calibrated or not."""
    source = made_up()

    def oracle(reader: Reader, prefix: list[int], queries: list, labels: list, visual: object = None) -> np.ndarray:
        texts = [reader.tokenizer.decode(query) for query in queries]
        return np.array(
            [[100.0 * (reader.tokenizer.decode(label) in text.split("\n")[0]) for label in labels] for text in texts]
        )

    monkeypatch.setattr("vist.eval.icl.continuation_scores", oracle)
    rows = evaluate_icl(reader, source, None, SMALL)
    assert {row["value"] for row in rows if row["minus"] is None} == {1.0}


def test_what_does_not_fit_is_cut_and_counted(reader: Reader) -> None:
    long = LabelledSet("long", *([tuple(Example(f"{label} " * 300, label) for label in COLOURS * 4)] * 2), COLOURS)
    rows = evaluate_icl(reader, long, None, SMALL)
    full = next(row for row in rows if row["method"] == "full")
    assert full["dropped_tokens"] > 0
    assert full["context_tokens"] <= reader.context_limit
    assert full["long_questions"] == 8


def write_set(folder: Path, **splits: list[dict]) -> Path:
    folder.mkdir(parents=True)
    for split, rows in splits.items():
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{split}.parquet")
    return folder


def row(text: str = "a text", label: str = "0", name: str | None = "zero", **more: object) -> dict:
    return {"text": text, "label": label, "label_name": name, **more}


GOOD = [row(), row("another", "1", "one")]


def test_extra_columns_are_left_unread_and_labels_keep_their_order(tmp_path: Path) -> None:
    rows = [row(label=str(number), name=f"name {number}", extra=1) for number in (10, 2, 1)]
    found = read_labelled(write_set(tmp_path / "s", train=rows, test=rows))
    assert found.labels == ("name 1", "name 2", "name 10")
    (tmp_path / "j").mkdir()
    for split in ("train", "test"):
        (tmp_path / "j" / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_labelled(tmp_path / "j").train == found.train


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (GOOD, [{"text": "x", "label": "0"}], "no column 'label_name'"),
        (GOOD, [], "is empty"),
        (GOOD, None, "no test.parquet"),
        (GOOD, [row(name=None)], "has no label_name"),
        (GOOD, [row(name="  ")], "has no label_name"),
        (GOOD, [row(text="")], "has no text"),
        ([row()], [row()], "has 1 label"),
        (GOOD, [row(label="2", name="two")], "'two' .* is not in its train split"),
    ],
)
def test_bad_sets_are_refused(tmp_path: Path, train: list, test: list | None, message: str) -> None:
    folder = write_set(tmp_path / "s", train=train)
    if test is not None:
        schema = pa.schema([("text", pa.string()), ("label", pa.string()), ("label_name", pa.string())])
        table = pa.Table.from_pylist(test) if test else schema.empty_table()
        pq.write_table(table, folder / "test.parquet")
    with pytest.raises(VistError, match=message):
        read_labelled(folder)


def test_a_file_that_is_no_parquet_is_refused(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "s", train=GOOD)
    (folder / "test.parquet").write_text("no parquet")
    with pytest.raises(VistError, match="cannot be read"):
        read_labelled(folder)


def test_sets_are_found_by_name(tmp_path: Path) -> None:
    for name in ("mr", "zebra", "sst2"):
        write_set(tmp_path / "icl" / name, train=GOOD, test=GOOD)
    assert list(find_sets(tmp_path, ())) == ["sst2", "mr", "zebra"]
    assert list(find_sets(tmp_path, ("zebra",))) == ["zebra"]
    with pytest.raises(VistError, match="no set 'moon'.*There are: mr"):
        find_sets(tmp_path, ("moon",))


def test_a_set_of_the_datasets_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    for split in ("train", "test"):
        rows = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": [1, 0, 1]}, features=features)
        (tmp_path / "birds" / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(tmp_path / "birds" / "data" / f"{split}.parquet")
    name = f"hub:{tmp_path / 'birds'}"
    found = read_labelled(find_sets(tmp_path, (name,))[name])
    assert (found.name, found.labels) == ("birds", ("no", "yes"))
    assert found.train == (Example("a", "yes"), Example("b", "no"), Example("c", "yes"))
    with pytest.raises(VistError, match="The split 'train' of 'hub:.*moon' cannot be loaded"):
        read_labelled(Path(f"hub:{tmp_path / 'moon'}"))
    with pytest.raises(VistError, match="no column 'answers'"):
        read_table(Path(name), "train", ("text", "answers"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(VistError, match="needs the datasets library"):
        read_labelled(Path(name))


def test_accuracy_is_scikit_learns(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimates of all four choices, from scores that are random."""
    metrics = pytest.importorskip("sklearn.metrics")
    source, seen = made_up(each=12), []

    def scores(reader: Reader, prefix: list[int], queries: list, labels: list, visual: object = None) -> np.ndarray:
        seen.append(np.random.default_rng(len(seen)).normal(size=(len(queries), len(labels))))
        return seen[-1]

    monkeypatch.setattr("vist.eval.icl.continuation_scores", scores)
    config = replace(SMALL, seeds=(42,), examples=6, per_draw=6)
    rows = evaluate_icl(reader, source, None, config)
    right = [source.labels.index(example.label) for example in pick_test_examples(source, 6)]
    lengths = np.array([len(reader.ids(f" {label}")) for label in source.labels])
    for number, method in enumerate(("none", "visual", "wrong", "full")):
        plain, calibrated = seen[1 + number], seen[1 + number] - seen[0]
        for choice, used in zip(CHOICES, (plain, plain / lengths, calibrated, calibrated / lengths), strict=True):
            found = next(row for row in rows if (row["metric"], row["method"], row["minus"]) == (choice, method, None))
            assert found["value"] == pytest.approx(metrics.accuracy_score(right, used.argmax(1)))


@pytest.mark.parametrize(("change", "message"), [({"encoder_shots": 0}, "at least 1"), ({"seeds": ()}, "No seeds")])
def test_bad_choices_are_refused(change: dict, message: str) -> None:
    with pytest.raises(VistError, match=message):
        IclConfig(**change)
