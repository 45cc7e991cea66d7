"""Long writing: every memory against a slow reading of the same tokens, what it keeps, and what it costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tiny_vist import alice
from tiny_vist2 import tiny_processor, tiny_vist2, undrawable_tokens
from vist.cli import main
from vist.errors import VistError
from vist.eval.longwrite import LongWriteConfig, Written, fact_rows, loss_rows, make_plans, write_long
from vist.eval.writers import WindowWriter, Writer, equal_window, writers

METHODS = ("pages", "full cache", "sliding window", "attention sinks")
WINDOW = 24


@pytest.fixture(scope="module")
def methods() -> dict[str, Writer]:
    return writers(tiny_vist2(), tiny_processor(), 60, window=WINDOW)


@pytest.fixture(scope="module")
def ids(methods) -> list[int]:
    return methods["pages"].ids(alice(4_000)[600:900])[:90]


def plain(writer: Writer, ids: list[int]) -> torch.Tensor:
    """The LLM's scores behind a text, in one pass."""
    with torch.inference_mode():
        return writer.llm(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)


@pytest.mark.parametrize("name", METHODS)
def test_scoring_a_text_is_writing_it(methods, ids, name: str) -> None:
    """The loss of each token is that of a session into which it is pushed."""
    writer = methods[name]
    with torch.inference_mode():
        scored = writer.nats(ids[:20], ids[20:70])
        session = writer.begin(ids[:20])
        for place, loss in zip(range(20, 70), scored, strict=True):
            assert float(loss) == pytest.approx(-float(session.logits.log_softmax(-1)[ids[place]]), abs=2e-3)
            session.push(ids[place])


def test_the_full_cache_forgets_nothing_and_the_window_all_but_the_last(methods, ids) -> None:
    row = methods["full cache"].started(ids)
    with torch.inference_mode():
        full = methods["full cache"].begin(ids).logits.log_softmax(-1)
        assert torch.allclose(full, plain(methods["full cache"], row), atol=1e-4)
        short = methods["sliding window"].nats(ids[:40], ids[40:80])
        changed = [ids[0] + 1, *ids[1:4], *ids[4:40]]
        assert torch.allclose(short[20:], methods["sliding window"].nats(changed, ids[40:80])[20:], atol=1e-6)
        assert not torch.allclose(full, methods["full cache"].begin(changed + ids[40:]).logits.log_softmax(-1))


def test_caches_hold_what_they_should(methods, monkeypatch) -> None:
    ends = [*methods["pages"].special_ids, *undrawable_tokens()]
    monkeypatch.setattr(Writer, "special_ids", ends)  # a random model writes bytes that are no character
    config = LongWriteConfig(tokens=60, texts=1)
    written = {name: write_long(writer, "A plan. " * 5, config) for name, writer in methods.items()}
    token = written["full cache"].cache[0] // written["full cache"].carried[0]
    for name, found in written.items():
        assert len(found.ids) == 60 and (np.diff(found.seconds) > 0).all()
        if name != "pages":  # which leaves slots empty for a moment
            assert (found.cache == found.carried * token).all()
    assert (np.diff(written["full cache"].carried[:-1]) == 1).all()
    assert written["sliding window"].carried.max() == WINDOW
    assert written["attention sinks"].carried.max() == WINDOW
    held = written["pages"].carried
    assert (np.diff(held) < 0).any(), "a finished chunk leaves the cache"
    assert held[-1] < written["full cache"].carried[-1]


def test_the_same_seed_writes_the_same_text_and_no_special_token(methods) -> None:
    config = LongWriteConfig(tokens=30, texts=1, seed=3)
    first, again = (write_long(methods["pages"], "A plan.", config).ids for _ in range(2))
    other = write_long(methods["pages"], "A plan.", LongWriteConfig(tokens=30, texts=1, seed=4)).ids
    assert first == again != other
    assert not set(first) & set(methods["pages"].special_ids)


def test_repetition_speed_and_pauses_from_known_figures() -> None:
    seconds = np.array([1.0, 2.0, 3.0, 8.0])
    found = Written([5, 6, 5, 6], seconds, np.array([10, 20, 30, 12]), np.array([1, 2, 3, 1]), 100, 10)
    assert found.distinct(1) == 0.5 and found.distinct(2) == pytest.approx(2 / 3) and found.distinct(4) == 1.0
    assert found.pause == 5.0
    rows = {row["metric"]: row["value"] for row in found.rows("pages", LongWriteConfig(tokens=4))}
    assert rows["ttft_s"] == 1.0 and rows["cache bytes"] == 12 and rows["tokens per second"] == pytest.approx(0.5)


def test_bins_of_distance_double_up_to_the_last_token() -> None:
    assert LongWriteConfig(tokens=4096).edges == [256, 512, 1024, 2048, 4096]
    assert LongWriteConfig(tokens=600).edges == [256, 512, 600]
    assert LongWriteConfig(tokens=60).edges == [60]


def test_facts_that_left_the_memory_are_not_answered_and_others_can_be(methods, monkeypatch) -> None:
    """A model that repeats what stands after the last occurrence of the cue, over what its memory still holds."""
    config = LongWriteConfig(tokens=60, texts=1, facts=2)
    plans = make_plans(methods["pages"], [alice(4_000)], config)
    assert all(fact.statement in plans[0].prompt for fact in plans[0].facts)

    def copying(writer: Writer, read: list[int]) -> list[int]:
        kept = read[-writer.size :] if isinstance(writer, WindowWriter) else read
        text = writer.text(kept)
        cue = text[text.rindex("\n\n") + 2 :] if "\n\n" in text else "?"
        place = text.find(cue)
        return writer.ids(text[place + len(cue) :][:40]) if place < len(text) - len(cue) else []

    monkeypatch.setattr("vist.eval.longwrite._greedy", copying)
    rows = fact_rows(methods, plans, config)
    kept = {row["method"]: row["value"] for row in rows if row["minus"] is None}
    assert kept == {"pages": 1.0, "full cache": 1.0, "sliding window": 0.0, "attention sinks": 1.0}


def test_losses_come_by_distance_paired_with_every_other_method(methods) -> None:
    config = LongWriteConfig(tokens=60, texts=2)
    plans = make_plans(methods["pages"], [alice(2_000), alice(4_000)[2_000:]], config)
    rows = loss_rows(methods, plans, config, resamples=100)
    assert {row["method"] for row in rows if row["minus"] is None} == set(METHODS)
    assert {row["minus"] for row in rows if row["minus"] is not None} == set(METHODS[1:])
    with torch.inference_mode():
        by_hand = [methods["pages"].nats(methods["pages"].ids(plan.prompt), plan.body).mean() for plan in plans]
    found = next(row for row in rows if row["method"] == "pages" and row["minus"] is None)
    assert found["value"] == pytest.approx(float(torch.stack(by_hand).mean()), abs=1e-5)


def test_the_window_of_equal_memory_is_what_the_pages_take() -> None:
    assert equal_window(tiny_processor(chunk_size=10, ratio=3.0), 60) == 30


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"tokens": 0}, "tokens is 0"), ({"top_p": 0.0}, "top_p"), ({"temperature": -1}, "temperature")],
)
def test_impossible_plans_are_refused(changes: dict, said: str) -> None:
    with pytest.raises(VistError, match=said):
        LongWriteConfig(**changes)


def test_texts_that_are_too_short_are_refused(methods) -> None:
    with pytest.raises(VistError, match="Only 0 of 1 texts have 500 tokens"):
        make_plans(methods["pages"], ["short"], LongWriteConfig(tokens=500))


def test_the_command_writes_rows(tmp_path: Path, capsys) -> None:
    folder = tmp_path / "model"
    tiny_vist2().save_pretrained(folder)
    tiny_processor().save_pretrained(folder)
    (tmp_path / "book.txt").write_text(alice(4_000))
    options = ["--model", folder, "--tokens", 40, "--texts", 1, "--facts", 1, "--json", tmp_path / "out.json"]
    arguments = ["eval", "longwrite", tmp_path / "book.txt", *options, "--device", "cpu"]
    assert main([str(argument) for argument in arguments]) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    metrics = {row["metric"] for row in rows}
    assert {"nats per token", "facts kept", "distinct-4", "cache bytes", "ttft_s", "peak_bytes", "pause"} <= metrics
    assert "attention sinks" in capsys.readouterr().out
