"""The benchmark of long writing, in short: its figures follow the cache, and a missed bar is seen."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "longwrite.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("longwrite_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(benchmark):
    return benchmark.writer()


def test_the_cache_grows_as_the_visual_tokens_say(benchmark, pages) -> None:
    figures = benchmark.report(pages, benchmark.measure(pages, 520))
    assert figures["missed"] == [] and figures["off_by"]["cache"] < 0.1
    assert figures["smaller"] > 2.5


def test_missed_bars_are_named(benchmark, pages) -> None:
    plain = 16384
    growth = np.arange(1, 8001) * plain  # a cache that forgets nothing
    found = {"seconds": np.ones(8000), "cache": growth, "resident": growth}
    assert benchmark.report(pages, found)["missed"] == ["cache", "process", "smaller"]
    assert benchmark.report(pages, {**found, "cache": growth // 4, "resident": growth // 4})["missed"] == []
