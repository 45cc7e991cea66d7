"""Rows with intervals and the file they go to: estimates by hand, finished parts kept, commits not mixed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vist.errors import VistError
from vist.eval.bootstrap import wilson
from vist.eval.records import Ledger, one_commit, read_records, run_parts
from vist.eval.scores import score_rows

HEAD = {"commit": "abc", "versions": {}, "command": "vist", "date": "x", "model": "m", "hardware": "h"}
HEAD |= {"seed": 0, "limit": None}


def one(rows: list[dict], method: str, minus: str | None = None) -> dict:
    return next(row for row in rows if (row["method"], row["minus"]) == (method, minus))


def test_a_value_is_the_sum_of_sums_over_the_sum_of_sizes() -> None:
    values, sizes = {"visual": [1, 9], "none": [2, 10]}, {"visual": [10, 30], "none": [10, 30]}
    rows = score_rows("cer", values, sizes, resamples=500)
    assert one(rows, "visual")["value"] == pytest.approx(10 / 40)
    assert one(rows, "visual", "none")["value"] == pytest.approx(-2 / 40)
    assert one(rows, "visual")["unit"] == "example"
    # Two examples: a draw holds both, or one of them twice.
    assert (one(rows, "visual")["low"], one(rows, "visual")["high"]) == (pytest.approx(0.1), pytest.approx(0.3))


def test_differences_are_paired() -> None:
    base = np.random.default_rng(0).normal(size=60)
    rows = score_rows("x", {"visual": base + 0.5, "none": base}, resamples=1_000)
    gain = one(rows, "visual", "none")
    assert (gain["low"], gain["high"]) == (pytest.approx(0.5), pytest.approx(0.5))
    assert one(rows, "visual")["high"] - one(rows, "visual")["low"] > 0.3


def test_groups_are_drawn_as_one() -> None:
    groups = np.repeat(np.arange(8), 20)
    values = {"visual": (groups % 2).astype(float)}
    together, apart = (score_rows("x", values, groups=given, resamples=1_000)[0] for given in (groups, None))
    assert together["unit"] == "group"
    assert together["high"] - together["low"] > 3 * (apart["high"] - apart["low"])


def test_a_share_without_variance_still_has_an_interval() -> None:
    row = score_rows("acc", {"visual": [0.0] * 10}, resamples=200)[0]
    assert (row["low"], row["high"]) == (0.0, pytest.approx(wilson(0, 10).high))


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(VistError, match="no example"):
        score_rows("acc", {"visual": []})


def rows(value: float = 1.0) -> list[dict]:
    return score_rows("acc", {"visual": [value, 0.0]}, resamples=200)


def test_a_part_that_fails_leaves_the_others_and_a_rerun_goes_on(tmp_path: Path) -> None:
    path, calls = tmp_path / "out" / "rows.jsonl", []

    def part(name: str, error: Exception | None = None):
        def measure() -> list[dict]:
            calls.append(name)
            if error is not None:
                raise error
            return rows()

        return measure

    with pytest.raises(VistError, match=r"1 of 3 parts failed, the first being 'b': bad data\..*run again"):
        run_parts(
            Ledger(path, "icl", HEAD, {"x": 1}),
            {"a": part("a"), "b": part("b", VistError("bad data.")), "c": part("c")},
        )
    assert [row["part"] for row in read_records([path])] == ["a", "c"]
    ledger = Ledger(path, "icl", HEAD, {"x": 1})
    run_parts(ledger, {name: part(name) for name in "abc"})
    assert calls == ["a", "b", "c", "b"]
    assert sorted(row["part"] for row in ledger.rows) == ["a", "b", "c"]


def test_a_bug_is_raised_as_it_is_after_the_other_parts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "rows.jsonl", "icl", HEAD, {})
    with pytest.raises(ZeroDivisionError):
        run_parts(ledger, {"a": lambda: 1 / 0, "b": rows})  # type: ignore[dict-item, return-value]
    assert [row["part"] for row in ledger.rows] == ["b"]


def test_an_interruption_keeps_what_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"

    def stop() -> list[dict]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_parts(Ledger(path, "icl", HEAD, {}), {"a": rows, "b": stop})
    assert [row["part"] for row in read_records([path])] == ["a"]
    assert [item.name for item in tmp_path.iterdir()] == ["rows.jsonl"]


@pytest.mark.parametrize("change", [{"commit": "def"}, {"model": "n"}, {"seed": 1}, {"limit": 5}])
def test_finished_means_the_same_run(tmp_path: Path, change: dict) -> None:
    path = tmp_path / "rows.jsonl"
    Ledger(path, "icl", HEAD, {"x": 1}).add("a", rows())
    assert Ledger(path, "icl", HEAD, {"x": 1}).has("a")
    assert not Ledger(path, "icl", HEAD | change, {"x": 1}).has("a")
    assert not Ledger(path, "icl", HEAD, {"x": 2}).has("a")
    assert not Ledger(path, "qa", HEAD, {"x": 1}).has("a")
    other = Ledger(path, "icl", HEAD | change, {"x": 1})
    other.add("a", rows())
    assert len(read_records([path])) == 2  # the rows of the other run are still there


def test_every_row_says_where_it_comes_from(tmp_path: Path) -> None:
    Ledger(tmp_path / "rows.jsonl", "icl", HEAD, {"x": 1}).add("a", rows())
    row = json.loads((tmp_path / "rows.jsonl").read_text())
    assert {key: row[key] for key in HEAD} == HEAD
    assert row["setup"] == {"x": 1}


def test_commits_are_not_mixed_unasked() -> None:
    mixed = [{"commit": "a" * 40}, {"commit": "b" * 40}]
    with pytest.raises(VistError, match="2 commits"):
        one_commit(mixed)
    assert one_commit(mixed, mixed=True) is False
    assert one_commit(mixed[:1]) is True


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "No results"), ("no json\n", "Line 1"), ('{"task": "icl"}\n', "lacks 'part'"), ("[1]\n", "lacks")],
)
def test_a_file_without_results_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(VistError, match=message):
        read_records([path])
