"""Levels of visual tokens: each layer gets its own, against a slow loop over the layers; nothing else changes."""

import pytest
import torch

from tiny_vist2 import FAMILIES, tiny_llm
from vist.fuse.levels import take_levels

IDS = torch.arange(3, 27).reshape(2, 12)


def layer_by_layer(model, ids, levels):
    """The LLM as its definition says, with `levels[:, :, n-1]` added to what enters layer n."""
    inner = model.model
    hidden = inner.embed_tokens(ids)
    position = torch.arange(ids.shape[1])[None]
    mask = torch.full((ids.shape[1], ids.shape[1]), float("-inf")).triu(1)[None, None]
    rotary = inner.rotary_emb(hidden, position)
    for number, layer in enumerate(inner.layers):
        if 0 < number <= levels.shape[2]:
            hidden = hidden + levels[:, :, number - 1]
        hidden = layer(hidden, attention_mask=mask, position_ids=position, position_embeddings=rotary)
    return model.lm_head(inner.norm(hidden))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("count", [1, 2, 3])
@torch.no_grad()
def test_each_layer_adds_its_level(family, count):
    model = tiny_llm(family, num_hidden_layers=4)
    take_levels(model)
    levels = torch.randn(2, 12, count, 32)
    found = model(input_ids=IDS, visual_levels=levels).logits
    assert torch.allclose(found, layer_by_layer(tiny_llm(family, num_hidden_layers=4), IDS, levels), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_levels_it_is_the_stock_model(family):
    model, stock = tiny_llm(family), tiny_llm(family)
    take_levels(model)
    assert torch.equal(model(input_ids=IDS).logits, stock(input_ids=IDS).logits)


def test_gradients_with_checkpointing_are_those_without():
    levels = torch.randn(2, 12, 1, 32, requires_grad=True)
    gradients = []
    for checkpointed in (False, True):
        model = tiny_llm().train()
        take_levels(model)
        if checkpointed:
            model.gradient_checkpointing_enable({"use_reentrant": False})  # its older name, which 5.17 knows
        model(input_ids=IDS, visual_levels=levels).logits.square().mean().backward()
        gradients.append(levels.grad.clone())
        levels.grad = None
    assert gradients[0].abs().sum() > 0
    assert torch.allclose(*gradients, atol=1e-6)
