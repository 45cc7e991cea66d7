"""The PVE loss and its pooling against a double loop."""

import math

import pytest
import torch
from torch import nn

from vist.compress.pve import pool_pages, pool_text, pve_loss
from vist.errors import VistError


def slow_loss(visual, text, temperature):
    total = 0.0
    for i in range(len(visual)):
        scores = [math.exp(float(visual[i] @ text[j]) / temperature) for j in range(len(text))]
        total -= math.log(scores[i] / sum(scores))
    return total / len(visual)


def sides(batch=5, width=8, scale=0.3):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(batch, width, generator=generator) * scale for _ in range(2))


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_loss_equals_the_double_loop(temperature):
    visual, text = sides()
    assert float(pve_loss(visual, text, temperature)) == pytest.approx(slow_loss(visual, text, temperature), rel=1e-5)


def test_the_direction_is_image_to_text():
    visual, text = sides()
    assert float(pve_loss(visual, text)) != pytest.approx(float(pve_loss(text, visual)), rel=1e-3)


def test_samples_without_pages_or_text_take_no_part():
    visual, text = sides()
    valid = torch.tensor([True, False, True, True, False])
    assert torch.equal(pve_loss(visual, text, valid_B=valid), pve_loss(visual[valid], text[valid]))
    visual.requires_grad_(True)
    none = pve_loss(visual, text, valid_B=torch.zeros(5, dtype=torch.bool))
    none.backward()
    assert none == 0 and visual.grad is not None


def test_normalizing_ignores_lengths():
    visual, text = sides()
    lengths = torch.arange(1, 6).unsqueeze(1)
    torch.testing.assert_close(
        pve_loss(visual * lengths, text, normalize=True), pve_loss(visual, text * 3, normalize=True)
    )


def test_pages_are_averaged_over_real_ones_only():
    cls = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    pooled = pool_pages(cls, mask)
    torch.testing.assert_close(pooled[0], (cls[0, 0] + cls[0, 2]) / 2)
    assert not pooled[1].any()


def test_text_is_averaged_over_kept_tokens_only():
    embeddings = nn.Embedding(10, 4)
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    keep = torch.tensor([[True, False, True], [False, False, False]])
    pooled = pool_text(embeddings, ids, keep)
    torch.testing.assert_close(pooled[0], (embeddings.weight[1] + embeddings.weight[3]) / 2)
    assert not pooled[1].any()


def test_users_get_sentences():
    with pytest.raises(VistError, match="must be positive, got 0"):
        pve_loss(*sides(), temperature=0)
