"""Generation with a context: every mode of transformers' generate, and what it may cost."""

import pytest
import torch
from transformers.generation.streamers import BaseStreamer

from tiny_backbones import tiny_llm, tiny_model
from vist.fuse.cross_attention import CrossAttention

GREEDY = {"do_sample": False, "max_new_tokens": 8, "eos_token_id": None}


@pytest.fixture(params=["perceiver", "local"])
def model(request):
    return tiny_model(reducer=request.param)


def by_hand(model, inputs, steps):
    """Greedy decoding with one full forward per token."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(steps):
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = model(**{**inputs, "input_ids": ids, "attention_mask": mask}, position_ids=positions).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return ids


@torch.no_grad()
def test_greedy_equals_full_forwards_with_and_without_cache(model, batch):
    want = by_hand(model, batch, 8)
    assert torch.equal(model.generate(**batch, **GREEDY), want)
    assert torch.equal(model.generate(**batch, **GREEDY, use_cache=False), want)
    assert torch.equal(model.generate(**batch, **GREEDY, cache_implementation="static", disable_compile=True), want)
    without = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert not torch.equal(model.generate(**without, **GREEDY), want)


@torch.no_grad()
def test_a_batch_says_what_each_sample_says_alone(model, batch):
    together = model.generate(**batch, **GREEDY)
    for sample, (first_token, pages) in enumerate([(0, 3), (2, 1)]):
        row = slice(sample, sample + 1)
        alone = model.generate(
            input_ids=batch["input_ids"][row, first_token:],
            pixel_values=batch["pixel_values"][row, :pages],
            ink_mask=batch["ink_mask"][row, :pages],
            **GREEDY,
        )
        assert torch.equal(together[row, first_token:], alone)


@torch.no_grad()
def test_a_sample_without_context_continues_as_the_stock_llm(model, batch):
    batch["ink_mask"][1] = False
    together = model.generate(**batch, **GREEDY)
    stock = tiny_llm().generate(input_ids=batch["input_ids"][1:, 2:], **GREEDY)
    assert torch.equal(together[1:, 2:], stock)


@torch.no_grad()
def test_beams_are_those_of_the_stock_search(batch):
    """An untrained model is its LLM, so the beams must be the LLM's; a trained one must score its beams truly."""
    beams = {**GREEDY, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0}
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(tiny_model(trained=False).generate(**batch, **beams), tiny_llm().generate(**text, **beams))
    model = tiny_model()
    out = model.generate(**batch, **beams, output_scores=True, return_dict_in_generate=True)
    repeated = {name: value.repeat_interleave(2, 0) for name, value in batch.items()}
    mask = torch.cat([repeated["attention_mask"], torch.ones(4, 8, dtype=torch.long)], 1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    full = {**repeated, "input_ids": out.sequences, "attention_mask": mask}
    scores = model(**full, position_ids=positions).logits.log_softmax(-1)[:, 5:-1]
    scored = scores.gather(-1, out.sequences[:, 6:, None]).squeeze(-1).sum(1)
    torch.testing.assert_close(out.sequences_scores, scored, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_sampling_is_repeatable_and_may_return_several(model, batch):
    options = {"do_sample": True, "max_new_tokens": 5, "num_return_sequences": 3, "eos_token_id": None}
    outputs = []
    for _ in range(2):
        torch.manual_seed(7)
        outputs.append(model.generate(**batch, **options))
    assert torch.equal(*outputs) and outputs[0].shape == (6, 11)


class Collect(BaseStreamer):
    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


@torch.no_grad()
def test_streamers_see_every_token(model, batch):
    one, streamer = {name: value[:1] for name, value in batch.items()}, Collect()
    out = model.generate(**one, **GREEDY, streamer=streamer)
    assert streamer.tokens == out[0].tolist() and streamer.ended


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}])
@torch.no_grad()
def test_pages_are_encoded_and_projected_once_per_context(model, batch, options, monkeypatch):
    projected, encoded = [], []
    project = CrossAttention.project
    monkeypatch.setattr(CrossAttention, "project", lambda self, states: projected.append(self) or project(self, states))
    hook = model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    model.generate(**batch, **GREEDY, **options)
    hook.remove()
    assert len(projected) == 2 and len(encoded) == 1


@torch.no_grad()
def test_a_context_can_be_shared_between_calls(model, batch):
    want = model.generate(**batch, **GREEDY)
    context = model.encode_context(batch.pop("pixel_values"), batch.pop("ink_mask"))
    assert torch.equal(model.generate(**batch, **GREEDY, cross_states=context.states, cross_mask=context.mask), want)
    kv = model.project_context(context.states)
    assert torch.equal(model.generate(**batch, **GREEDY, cross_kv=kv, cross_mask=context.mask), want)


def test_misspelt_inputs_are_refused(model, batch):
    with pytest.raises(ValueError, match="pixel_value"):
        model.generate(batch["input_ids"], pixel_value=batch["pixel_values"], max_new_tokens=1)
