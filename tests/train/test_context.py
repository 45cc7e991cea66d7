from collections import defaultdict

import numpy as np
import pytest
import torch

from vist.render import PageStyle, layout, render
from vist.train.alignment import visual_token_of
from vist.train.context import ContextSamples, ContextShape
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example
from vist.train.tokenizer import first_visible, train_tokenizer

STYLE = PageStyle.named("vist")
IMPORTANCE = np.zeros(300, np.float32)


@pytest.fixture(scope="module")
def tokenizer(corpus: PackedCorpus):  # noqa: ANN201
    return train_tokenizer([corpus.document("books", 0)], 300, 512)


def samples(corpus: PackedCorpus, tokenizer, kinds: dict[str, float], **shape: object) -> ContextSamples:
    mix = ExampleMix(kinds, {"books": 1})
    wanted = ContextShape(distant=(300, 2500), tokens=48, **shape)  # type: ignore[arg-type]
    return ContextSamples(corpus, tokenizer, STYLE, 64, 4, mix, wanted, IMPORTANCE, 48, 4, seed=2)


def test_a_batch_is_padded_on_every_axis_and_says_where(corpus: PackedCorpus, tokenizer) -> None:
    data = samples(corpus, tokenizer, {"continue": 1, "recall": 1})
    rows = [data[index] for index in range(6)]
    batch = data.collate(rows)
    pages = max(len(row["pixels"]) for row in rows)
    assert batch["pixel_values"].shape == (6, pages, 224, 224) and batch["pixel_values"].dtype == torch.uint8
    for number, row in enumerate(rows):
        count, tokens = len(row["pixels"]), len(row["prompt"])
        assert not batch["ink_mask"][number, count:].any() and (batch["pixel_values"][number, count:] == 255).all()
        assert batch["attention_mask"][number].sum() == tokens and batch["input_ids"][number, 0] == 0
        assert (batch["labels"][number, tokens:] == -100).all()
        assert abs(int(batch["context_keep"][number].sum()) - len(row["context"]) / 2) <= 1


def test_the_guide_points_at_the_part_of_a_visual_token_that_holds_the_next_text_token(
    corpus: PackedCorpus, tokenizer
) -> None:
    data = samples(corpus, tokenizer, {"recall": 1, "quote": 1})
    guided = 0
    for index in range(8):
        rng = np.random.default_rng((data.seed, index))
        example = draw_example(corpus, data.mix, rng, int(rng.integers(300, 2501)), 48 * 4)
        encoded = tokenizer(example.distant, add_special_tokens=False, return_offsets_mapping=True)
        starts = first_visible(example.distant, np.array(encoded.offset_mapping))
        placed, ink = layout(example.distant, STYLE), render(example.distant, STYLE).ink
        holds = defaultdict(set)
        for token, cell in zip(encoded.input_ids, visual_token_of(placed, ink, starts, 4, 4), strict=True):
            holds[int(cell)].add(token)
        row = data[index]
        for place in np.flatnonzero(row["guide"] >= 0):
            guided += 1
            assert row["prompt"][place + 1] in holds[int(row["guide"][place])]
    assert guided > 100


def test_continuations_have_no_guide(corpus: PackedCorpus, tokenizer) -> None:
    assert (samples(corpus, tokenizer, {"continue": 1})[0]["guide"] == -1).all()


def test_whole_batches_show_the_distant_part_as_text(corpus: PackedCorpus, tokenizer) -> None:
    data = samples(corpus, tokenizer, {"recall": 1}, text_share=0.5, text_distant=(300, 900), text_tokens=200)
    kinds = [["pixels" in data[4 * batch + number] for number in range(4)] for batch in range(12)]
    assert all(len(set(batch)) == 1 for batch in kinds) and len({batch[0] for batch in kinds}) == 2
    first = 4 * [batch[0] for batch in kinds].index(False)
    batch = data.collate([data[first + number] for number in range(4)])
    assert set(batch) == {"input_ids", "attention_mask", "labels"} and batch["input_ids"].shape[1] <= 200
    assert "The code of" in tokenizer.decode(data[first]["prompt"]) or "The " in tokenizer.decode(data[first]["prompt"])


def test_samples_are_the_same_again(corpus: PackedCorpus, tokenizer) -> None:
    first, again = (samples(corpus, tokenizer, {"recall": 1, "quote": 1})[3] for _ in range(2))
    assert first.keys() == again.keys() and all(np.array_equal(first[name], again[name]) for name in first)
