"""Cost: FLOPs against counting by hand, memory against a known allocation, times against the clock."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from tiny_vist import alice
from vist.eval.conditions import Condition, Passage
from vist.eval.cost import PeakMemory, count_flops, measure_cost
from vist.eval.reader import Reader


@pytest.fixture(scope="module")
def passage(reader: Reader) -> Passage:
    text = alice(6_000)
    return Passage(text[200:800], text[3_000:3_600], tuple(reader.ids(text[800:900])))


def llm_flops(reader: Reader, tokens: int) -> int:
    """Two per multiply-add over all matrix products of a Llama: projections, attention, feed-forward, last logits."""
    config = reader.model.config.text_config
    width, head = config.hidden_size, config.hidden_size // config.num_attention_heads
    projections = width * head * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    attention = 2 * tokens * width
    layer = tokens * (projections + attention + 3 * width * config.intermediate_size)
    return 2 * (config.num_hidden_layers * layer + width * config.vocab_size)


@pytest.mark.parametrize("condition", [Condition.NONE, Condition.FULL])
def test_flops_of_text_are_those_counted_by_hand(reader: Reader, passage: Passage, condition: Condition) -> None:
    tokens = 1 + len(passage.proximal) + (len(reader.ids(passage.distant)) if condition is Condition.FULL else 0)
    # Rotary tables are a product of positions and frequencies, counted by torch too: half a head wide.
    assert count_flops(reader, condition, passage) == pytest.approx(llm_flops(reader, tokens), rel=2e-3)


def test_flops_of_pages_cover_the_whole_path(reader: Reader, passage: Passage) -> None:
    alone = count_flops(reader, Condition.NONE, passage)
    visual = count_flops(reader, Condition.VISUAL, passage)
    config = reader.model.config
    cross = (
        2 * config.text_config.num_hidden_layers * (1 + len(passage.proximal)) * 2 * config.text_config.hidden_size**2
    )
    pages = reader.page_inputs([passage.distant])
    ink = int(pages["ink_mask"].sum())
    tower = config.vision_config
    layer = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size
    assert visual - alone > cross + 2 * ink * tower.num_hidden_layers * layer
    longer = Passage(alice(3_000), "", passage.proximal)
    assert count_flops(reader, Condition.VISUAL, longer) > 2 * visual


def test_peak_memory_sees_what_is_freed_again() -> None:
    with PeakMemory(torch.device("cpu")) as memory:
        block = np.ones(64 << 20, dtype=np.uint8)
        time.sleep(0.05)
        del block
    assert memory.way == "rss"
    assert 60 << 20 < memory.rise < 200 << 20
    assert memory.peak > memory.rise


def test_the_first_token_has_been_read_for(reader: Reader, passage: Passage) -> None:
    hook = reader.model.language_model.register_forward_pre_hook(lambda *_: time.sleep(0.2))
    try:
        cost = measure_cost(reader, Condition.NONE, passage, new_tokens=2, repeats=1)
    finally:
        hook.remove()
    assert cost.ttft_s > 0.2
    assert cost.tokens_per_s < 2 / 0.4


def test_times_hold_rendering_and_every_token(
    reader: Reader, passage: Passage, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.perf_counter()
    cost = measure_cost(reader, Condition.VISUAL, passage, new_tokens=6, repeats=1)
    spent = time.perf_counter() - start
    assert 0 < cost.ttft_s < 6 / cost.tokens_per_s < spent
    draw = Reader.page_inputs

    def slowly(self: Reader, texts: list[str]) -> dict:
        time.sleep(0.3)
        return draw(self, texts)

    monkeypatch.setattr(Reader, "page_inputs", slowly)
    slow = measure_cost(reader, Condition.VISUAL, passage, new_tokens=2, repeats=1)
    assert slow.ttft_s > 0.3
    assert slow.tokens_per_s < 2 / 0.3
    assert set(cost.to_dict()) == {"flops", "peak_bytes", "peak_rise_bytes", "memory", "ttft_s", "tokens_per_s"}
