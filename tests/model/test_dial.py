"""The dial from text to tokens: what the processor asks of the model, and what the model then reads."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoProcessor

from tiny_backbones import VOCABULARY, tiny_model
from vist.compress.frequency import TokenFrequency
from vist.errors import VistError
from vist.model.dial import Dial, information
from vist.model.processing import VistProcessor
from vist.render import render

COMMON, RARE = "the cat sat on the mat and then " * 24, "1 2 3 dog log under " * 38
GREEDY = {"max_new_tokens": 5, "do_sample": False}


@pytest.fixture
def statistics(processor):
    """Counted on the common text alone: its words carry no information, all others much."""
    ids = processor.tokenizer(COMMON, add_special_tokens=False).input_ids
    return TokenFrequency.from_corpus([ids[:8]] * 50, len(VOCABULARY))


@pytest.fixture
def model():
    return tiny_model(size=(224, 224), num_visual_tokens=16)


def tokens_of(processor, text):
    pages = render(text, "vist")
    return [len(processor.tokenizer(page.text, add_special_tokens=False).input_ids) for page in pages]


def test_a_ratio_is_text_tokens_per_visual_token(processor, model):
    text = COMMON + RARE
    tokens = tokens_of(processor, text)
    for ratio in (10.0, 25.0):
        batch = processor(context=[text, COMMON, None], prompt=["the cat"] * 3, ratio=ratio)
        assert batch["page_weights"][0].tolist() == tokens
        context = model.encode_context(
            *(batch[name] for name in ("pixel_values", "ink_mask", "visual_tokens", "page_weights"))
        )
        assert context.mask.sum(1).tolist() == [
            round(sum(tokens) / ratio),
            round(sum(tokens_of(processor, COMMON)) / ratio),
            0,
        ]


def test_a_number_is_for_every_page(processor, model):
    batch = processor(context=COMMON + RARE, prompt="the cat", visual_tokens=5)
    assert "page_weights" not in batch and (batch["visual_tokens"] == 5).all()
    context = model.encode_context(batch["pixel_values"], batch["ink_mask"], batch["visual_tokens"])
    assert context.mask.sum() == 5 * batch["pixel_values"].shape[1]


def test_pages_of_rare_words_get_more_and_the_budget_stays(processor, model, statistics):
    processor.frequency = statistics
    text = COMMON * 2 + RARE * 2
    asked = {"context": text, "prompt": "the cat"}
    batch = processor(**asked, visual_tokens=6, adaptive=True)
    pages = batch["pixel_values"].shape[1]
    seen = model.encode_context(batch["pixel_values"], batch["ink_mask"])
    limits = model.resampler.limits(torch.ones(1, pages, 256, dtype=torch.bool))
    assert seen.mask.sum() == 16 * pages and batch["visual_tokens"].tolist() == [6 * pages]
    from vist.compress.budget import page_counts

    counts = page_counts(batch["visual_tokens"], batch["page_weights"], limits)[0]
    assert counts.sum() == 6 * pages and counts[0] == counts.min() and counts[-2] == counts.max() > counts[0]
    fewer = processor(**asked, ratio=50, adaptive=True)
    assert torch.equal(fewer["page_weights"], batch["page_weights"]) and fewer["visual_tokens"] < batch["visual_tokens"]


def test_generation_reads_what_the_forward_pass_reads(processor, model, statistics):
    """Tokens written one by one with cached keys and values are those of whole forward passes at the same setting."""
    processor.frequency = statistics
    asked = {"context": [COMMON + RARE, RARE], "prompt": ["the cat sat", "a dog"]}
    outputs = []
    for setting in ({}, {"ratio": 30}, {"visual_tokens": 2}, {"ratio": 30, "adaptive": True}):
        batch = dict(processor(**asked, **setting))
        out = model.generate(**batch, **GREEDY)
        outputs.append(out)
        for place in range(batch["input_ids"].shape[1], out.shape[1]):
            batch["attention_mask"] = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
            logits = model(
                **{**batch, "input_ids": out[:, :place], "attention_mask": batch["attention_mask"][:, :place]}
            )
            live = (out[:, :place] != 2).all(1)  # not ended
            assert torch.equal(logits.logits[live, -1].argmax(-1), out[live, place])
    assert not all(torch.equal(out, outputs[0]) for out in outputs[1:])


def test_nothing_asked_for_is_nothing_in_the_batch(processor):
    assert set(processor(context=COMMON, prompt="the cat")) == {
        "input_ids",
        "attention_mask",
        "pixel_values",
        "ink_mask",
    }
    assert set(processor(context=None, prompt="the cat", ratio=3)) == {"input_ids", "attention_mask"}


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"ratio": 2, "visual_tokens": 3}, "one of the two"),
        ({"ratio": 0}, "above 0"),
        ({"ratio": float("nan")}, "above 0"),
        ({"visual_tokens": 0}, "at least 1"),
        ({"adaptive": True}, "shares out a budget"),
        ({"ratio": 4, "adaptive": True}, "token_frequency.safetensors"),
    ],
)
def test_settings_that_make_no_sense_are_refused(processor, asked, said):
    with pytest.raises(VistError, match=said):
        processor(context=COMMON, prompt="the cat", **asked)


def test_statistics_come_back_with_the_processor(processor, statistics, tmp_path):
    processor.save_pretrained(tmp_path / "without")
    assert VistProcessor.from_pretrained(tmp_path / "without").frequency is None
    processor.frequency = statistics
    processor.save_pretrained(tmp_path / "with")
    for kind in (VistProcessor, AutoProcessor):
        again = kind.from_pretrained(tmp_path / "with").frequency
        assert np.array_equal(again.counts, statistics.counts) and again.num_samples == statistics.num_samples


def test_statistics_of_another_vocabulary_are_refused():
    with pytest.raises(VistError, match="outside the token statistics of 3 ids"):
        information([[1, 2, 3]], np.ones(3, np.float32))


@given(st.lists(st.lists(st.integers(0, 9), max_size=30), max_size=6))
def test_information_is_the_sum_over_the_tokens(pages):
    importance = np.linspace(-2, 5, 10).astype(np.float32)
    got = information(pages, importance)
    np.testing.assert_allclose(got, [sum(float(importance[i]) for i in page) for page in pages], rtol=1e-4, atol=1e-4)


def test_the_dial_at_rest_asks_for_nothing():
    assert not Dial().turned and Dial().page_inputs([[[1, 2]]]) == {}
