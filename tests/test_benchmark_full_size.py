"""The benchmark of full-size shapes, at tiny ones: rows beside their counts, and what becomes of rows that fail."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def benchmark():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("full_size")
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture
def record(benchmark, tmp_path):
    return benchmark.Record({"tiny": True}, 60, tmp_path / "rows.json", torch.device("cpu"))


def test_a_row_holds_the_time_the_weights_and_the_count(benchmark, record):
    sizes = benchmark.tiny_sizes()
    chosen = {method.name: method for method in benchmark.methods(sizes)}
    for name in ("full text", "VIST"):
        row = benchmark.read_lengths(record, sizes, chosen[name], (sizes.te,), torch.float32)
        assert "error" not in row and row["seconds"] > 0 and row["peak_bytes"] >= row["weight_bytes"] > 0
        assert row["counted_tflops"] > 0 and row["kernels"] == ["sdpa"]
        assert (row["pages"] > 0) == (name == "VIST")
    assert [row["method"] for row in json.loads(record.path.read_text())["rows"]] == ["full text", "VIST"]


def test_vist2_is_read_as_it_is_with_a_dense_mask(benchmark, record):
    vist2 = importlib.import_module("full_size_vist2")
    vist2.prefill_and_decode(record, True, torch.float32)
    rows = {row["method"].split(", ", 1)[1]: row for row in record.rows}
    assert list(rows) == ["text", "4x, chunks kept", "4x", "4x, chunks kept, dense mask"]
    assert not any("error" in row for row in record.rows)
    assert rows["4x"]["kv_bytes"] == rows["4x, chunks kept, dense mask"]["kv_bytes"] < rows["text"]["kv_bytes"] / 2


def test_a_row_that_fails_is_recorded_and_none_begins_after_the_budget(benchmark, record):
    def fails(error):
        raise error

    facts = {"part": "A", "method": "x", "te": 1}
    assert record.row(facts, lambda: fails(torch.OutOfMemoryError("none left\nmore")))["error"] == "out of memory"
    assert record.row(facts, lambda: fails(ValueError("")))["error"] == "ValueError: ValueError"
    assert record.row(facts, dict, needs=1e9) is None
    written = json.loads(record.path.read_text())["rows"]
    assert [row["error"] for row in written] == ["out of memory", "ValueError: ValueError"]
