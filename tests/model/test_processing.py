"""The processor: what a batch looks like, and that it comes back from disk the same."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from tiny_backbones import tiny_model, tiny_tokenizer
from vist.errors import CheckpointError, VistError
from vist.model.processing import VistProcessor
from vist.render import PageStyle, render

LONG, SHORT = "the cat sat on the mat and then " * 60, "a dog ran"


def test_contexts_become_pages_and_prompts_left_padded_ids(processor):
    batch = processor(context=[SHORT, None, LONG], prompt=["the cat", "dog", "a b c d"])
    pages = render(LONG, "vist")
    assert batch["input_ids"].tolist()[1][:3] == [0, 0, 0] and batch["attention_mask"].sum(1).tolist() == [2, 1, 4]
    assert batch["pixel_values"].shape == (3, len(pages), 224, 224) and batch["pixel_values"].dtype == torch.uint8
    assert batch["ink_mask"].shape == (3, len(pages), 16, 16) and batch["ink_mask"].dtype == torch.bool
    assert np.array_equal(batch["pixel_values"][2], pages.pixels) and np.array_equal(batch["ink_mask"][2], pages.ink)
    assert np.array_equal(batch["pixel_values"][0, 0], render(SHORT, "vist").pixels[0])
    assert batch["ink_mask"].flatten(2).any(-1).tolist() == [
        [True] + [False] * (len(pages) - 1),
        [False] * len(pages),
        [True] * len(pages),
    ]
    assert (batch["pixel_values"][1] == 255).all()


def test_one_context_serves_all_prompts(processor):
    batch = processor(context=SHORT, prompt=["the cat", "dog"])
    assert batch["pixel_values"].shape[:2] == (2, 1) and torch.equal(*batch["pixel_values"])


@pytest.mark.parametrize("context", [None, "", [None, ""]])
def test_without_any_context_there_are_no_pages(processor, context):
    assert set(processor(context=context, prompt=["the cat", "dog"])) == {"input_ids", "attention_mask"}


def test_pages_alone_and_other_kinds_of_arrays(processor):
    assert set(processor(context=SHORT)) == {"pixel_values", "ink_mask"}
    batch = processor(context=SHORT, prompt="the cat", return_tensors="np")
    assert all(isinstance(value, np.ndarray) for value in batch.values())
    assert processor(prompt="the cat", return_tensors=None)["input_ids"] == [[4, 6]]


def test_the_model_takes_the_batch_as_it_is(processor):
    model = tiny_model(size=(224, 224))
    batch = processor(context=[LONG, None], prompt=["the cat sat", "dog"])
    out = model.generate(**batch, max_new_tokens=4, do_sample=False, eos_token_id=None)
    assert out.shape == (2, 7) and len(processor.batch_decode(out)) == 2


@pytest.mark.parametrize("style", ["vist-7", PageStyle(name="mine", font_size=9, newline="break")])
def test_a_saved_processor_does_the_same(style, tmp_path):
    processor = VistProcessor(tiny_tokenizer(), style=style, max_pages=5)
    processor.save_pretrained(tmp_path)
    for again in (VistProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(again) is VistProcessor and again.page_style == processor.page_style and again.max_pages == 5
        before, after = (p(context=LONG, prompt="the cat") for p in (processor, again))
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_tokenizer_without_padding_pads_with_its_end():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    batch = VistProcessor(tokenizer)(prompt=["the cat", "dog"])
    assert batch["input_ids"].tolist()[1][0] == 2 and batch["attention_mask"].tolist()[1] == [0, 1]


def test_users_get_sentences(processor, tmp_path):
    with pytest.raises(VistError, match="Nothing to process"):
        processor()
    with pytest.raises(VistError, match=r"Prompt 1 \(''\) has no tokens"):
        processor(context=SHORT, prompt=["the cat", ""])
    with pytest.raises(VistError, match="Got 1 contexts for 2 prompts"):
        processor(context=[SHORT], prompt=["the cat", "dog"])
    with pytest.raises(VistError, match="1"):
        processor(context=LONG, prompt="the cat", max_pages=1)
    with pytest.raises(VistError, match="max_pages must be positive, got 0"):
        VistProcessor(tiny_tokenizer(), max_pages=0)
    with pytest.raises(VistError, match="no page style 'nothing'"):
        VistProcessor(tiny_tokenizer(), style="nothing")
    with pytest.raises(CheckpointError, match="no model folder"):
        VistProcessor.from_pretrained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="Cannot load a VIST processor"):
        VistProcessor.from_pretrained(tmp_path)
