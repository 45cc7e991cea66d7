import numpy as np
import pytest
import torch
from transformers import Qwen3ForCausalLM

from vist.train.corpus import PackedCorpus
from vist.train.examples import Example, ExampleMix
from vist.train.guidance import guided_text_loss
from vist.train.language_model import TextSequences, build_language_model
from vist.train.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(corpus: PackedCorpus):  # noqa: ANN201
    return train_tokenizer([corpus.document("books", 0)], 300, 512)


def sequences(corpus: PackedCorpus, tokenizer, **kinds: float) -> TextSequences:
    return TextSequences(corpus, tokenizer, ExampleMix(kinds, {"books": 1}), (40, 160), 24, 4, seed=3)


def small(tokenizer) -> Qwen3ForCausalLM:
    torch.manual_seed(0)
    model = build_language_model(tokenizer, 64, 2, 512)
    model.set_attn_implementation("eager")
    return model


def test_batches_have_lengths_of_their_own(corpus: PackedCorpus, tokenizer) -> None:
    data = sequences(corpus, tokenizer, quote=1)
    lengths = [len(data[index]["ids"]) for index in range(len(data))]
    batches = [lengths[start : start + 4] for start in range(0, len(data), 4)]
    assert all(len(set(batch)) == 1 for batch in batches)
    assert len({batch[0] for batch in batches}) > 3 and all(40 <= batch[0] <= 160 for batch in batches)


def test_the_guide_points_at_what_the_next_token_repeats(corpus: PackedCorpus, tokenizer) -> None:
    data = sequences(corpus, tokenizer, quote=0.5, recall=0.5)
    same = []
    for row in (data[index] for index in range(len(data))):
        at = np.flatnonzero(row["guide"][:-1] >= 0)
        assert (row["guide"][at] <= at).all()
        same += list(row["ids"][row["guide"][at]] == row["ids"][at + 1])
    assert len(same) > 200 and np.mean(same) > 0.9  # a token cut by the end of a copy has no twin


def test_the_guide_of_a_known_example(corpus: PackedCorpus, tokenizer) -> None:
    data = sequences(corpus, tokenizer, quote=1)
    row = data.sample(Example("quote", "on a mat sat", " a mat", ((1, 3, 5),)), 64)
    words = tokenizer.convert_ids_to_tokens(row["ids"])
    for place in np.flatnonzero(row["guide"] >= 0):
        assert words[row["guide"][place]] == words[place + 1]
    assert words[np.flatnonzero(row["guide"] >= 0)[0] + 1].strip("Ġ").startswith("a")


def test_text_guidance_is_the_logarithm_of_the_attention(corpus: PackedCorpus, tokenizer) -> None:
    model, data = small(tokenizer), sequences(corpus, tokenizer, quote=1)
    guided = [row for row in (data[index] for index in range(len(data))) if (row["guide"] >= 0).any()]
    batch = data.collate(guided[:2])
    plain = {name: value for name, value in batch.items() if name != "guide"}
    output = model(**plain, output_attentions=True)
    first, second = (heads.mean(1) for heads in output.attentions)
    copied = [
        -(second[row, place, batch["guide"][row, place]] + 1e-6).log().item()
        for row, place in (batch["guide"] >= 0).nonzero().tolist()
    ]
    before = [
        -(first[row, place, place - 1] + 1e-6).log().item()
        for row, place in batch["attention_mask"].nonzero().tolist()
        if place > 0
    ]
    result = guided_text_loss(model, dict(batch), weight=0.5)
    torch.testing.assert_close(result["guide_loss"].item(), float(np.mean(copied)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(result["previous_loss"].item(), float(np.mean(before)), atol=1e-4, rtol=1e-4)
    expected = output.loss + 0.5 * (result["guide_loss"] + result["previous_loss"])
    torch.testing.assert_close(result["loss"], expected)


def test_a_batch_without_anything_to_repeat_has_no_guidance(corpus: PackedCorpus, tokenizer) -> None:
    model, data = small(tokenizer), sequences(corpus, tokenizer, **{"continue": 1})
    result = guided_text_loss(model, data.collate([data[0], data[1]]), weight=1.0)
    assert result["guide_loss"] == 0 and result["guide_accuracy"] == 0
    assert torch.isfinite(result["loss"])


def test_a_new_model_says_nothing_yet(tokenizer) -> None:
    assert not small(tokenizer)(torch.tensor([[0, 5, 6]])).logits.any()
