"""RePlug against its two equations, passage by passage."""

import pytest
import torch
from transformers import LogitsProcessor

from tiny_backbones import tiny_llm
from vist.baselines.replug import ReplugModel
from vist.errors import VistError

PROMPT, TEXT = torch.tensor([1, 4, 9, 7]), torch.randint(3, 18, (23,), generator=torch.Generator().manual_seed(3))


def slow_weights(model, query, pieces):
    embed = model.get_input_embeddings().weight
    scores = []
    for piece in pieces:
        first, second = embed[query].mean(0), embed[piece].mean(0)
        scores.append(float(first @ second / (first.norm() * second.norm())))
    return torch.tensor(scores)


@pytest.mark.parametrize("passages", [2, 10])
@torch.no_grad()
def test_forward_is_the_weighted_mean_of_the_passages_distributions(passages):
    model = tiny_llm()
    pieces = [TEXT[start : start + 6] for start in range(0, 23, 6)]
    scores = slow_weights(model, TEXT[-64:], pieces)
    chosen = scores.argsort(descending=True)[:passages]
    weights = scores[chosen].exp() / scores[chosen].exp().sum()
    want = torch.zeros(4, 19)
    for number, weight in zip(chosen.tolist(), weights, strict=True):
        row = torch.cat([PROMPT[:1], pieces[number], PROMPT[1:]])
        want += weight * model(row[None]).logits[0, -4:].softmax(-1)
    reading = ReplugModel(model, passages, passage_tokens=6)
    got = reading(PROMPT[None], context_ids=TEXT[None]).logits[0].exp()
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.sum(-1), torch.ones(4))


@torch.no_grad()
def test_generate_takes_the_likeliest_token_of_the_ensemble():
    model = tiny_llm()
    reading = ReplugModel(model, 3, passage_tokens=6)
    out = reading.generate(PROMPT[None], context_ids=TEXT[None], max_new_tokens=4, min_new_tokens=4, do_sample=False)
    pieces = [TEXT[start : start + 6] for start in range(0, 23, 6)]
    scores = slow_weights(model, PROMPT[1:], pieces)
    chosen = scores.argsort(descending=True)[:3]
    weights, row = scores[chosen].softmax(0), PROMPT
    for _ in range(4):
        mean = torch.zeros(19)
        for number, weight in zip(chosen.tolist(), weights, strict=True):
            read = torch.cat([row[:1], pieces[number], row[1:]])
            mean += weight * model(read[None]).logits[0, -1].softmax(-1)
        mean[2] = 0  # the end of the text may not come yet
        row = torch.cat([row, mean.argmax()[None]])
    assert out[0].tolist() == row.tolist()


@torch.no_grad()
def test_without_a_context_it_is_the_stock_model():
    model = tiny_llm()
    got = ReplugModel(model)(PROMPT[None]).logits
    torch.testing.assert_close(got, model(PROMPT[None]).logits.log_softmax(-1))


class Forbid(LogitsProcessor):
    """Takes one token out of the running."""

    def __init__(self, token):
        self.token = token

    def __call__(self, input_ids, scores):
        return scores.index_fill(1, torch.tensor([self.token]), -torch.inf)


@torch.no_grad()
def test_a_logits_processor_of_the_caller_holds_for_every_sample():
    reading = ReplugModel(tiny_llm(), 3, passage_tokens=6)
    batch = {"input_ids": torch.stack([PROMPT, PROMPT]), "context_ids": torch.stack([TEXT, TEXT])}
    usual = {"max_new_tokens": 1, "min_new_tokens": 1, "do_sample": False}
    likeliest = int(reading.generate(**batch, **usual)[0, -1])
    out = reading.generate(**batch, **usual, logits_processor=[Forbid(likeliest)])
    assert likeliest not in out[:, -1].tolist()


def test_sampling_is_refused_since_rows_would_part():
    reading = ReplugModel(tiny_llm(), 3, passage_tokens=6)
    with pytest.raises(VistError, match="do_sample=False"):
        reading.generate(PROMPT[None], context_ids=TEXT[None], max_new_tokens=2, do_sample=True)


@torch.no_grad()
def test_probabilities_of_a_model_in_half_precision_add_up():
    got = ReplugModel(tiny_llm().to(torch.bfloat16), 3, passage_tokens=6)(PROMPT[None], context_ids=TEXT[None]).logits
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(1, 4))
