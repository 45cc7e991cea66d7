"""The modal aligner: patches divided evenly along the reading order, exact counts, chunks that do not touch."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vist.compress.aligner import PatchConvolution, build_aligner, pack_patches
from vist.errors import VistError


def config(**changes):
    values = {
        "aligner": "shuffle",
        "patches_per_token": 4,
        "aligner_preceding": 0,
        "aligner_following": 0,
        "aligner_convolutions": 0,
        "aligner_expansion": 2,
        "aligner_shortcut": False,
        "aligner_layers": 0,
        "aligner_heads": 2,
        "max_visual_tokens": 5,
        "visual_levels": 1,
        "vision_size": 6,
        "text_size": 8,
    }
    return SimpleNamespace(**{**values, **changes})


def chunks(*sizes):
    mask = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return torch.randn(len(sizes), max(sizes), 6) * mask[..., None], mask


KINDS = [
    {},
    {"aligner_preceding": 2, "aligner_following": 1},
    {"aligner_shortcut": True, "aligner_layers": 1},
    {"aligner_convolutions": 2, "aligner_preceding": 2, "aligner_following": 1},
    {"aligner": "resampler", "aligner_layers": 2},
    {"aligner_layers": 1, "visual_levels": 3},
    {"aligner": "resampler", "aligner_layers": 1, "visual_levels": 3},
]


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 12))
def test_patches_are_divided_evenly_and_in_order(patches, count):
    aligner = build_aligner(config(patches_per_token=40, vision_size=2))
    torch.nn.init.zeros_(aligner.group_norm.weight)
    torch.nn.init.ones_(aligner.group_norm.bias)  # every place in use holds ones
    mask = torch.ones(1, patches, dtype=torch.bool)
    groups, alive = aligner._groups(torch.randn(1, patches, 2), mask, torch.tensor([count]))
    filled = groups[0, :, :, 0] == 1
    sizes = filled.sum(1)
    assert alive.all() and sizes.sum() == patches
    assert sizes.max() - sizes.min() <= 1
    assert torch.equal(filled, torch.arange(40) < sizes[:, None]), "the places of a token fill from the first"


def test_the_mlp_sees_the_patches_of_its_token_side_by_side():
    aligner = build_aligner(config())
    features, mask = chunks(8)
    out = aligner(features, mask, torch.tensor([2]))
    normed = aligner.group_norm(features)
    by_hand = [aligner.norm(aligner.mlp(normed[0, start : start + 4].flatten())) for start in (0, 4)]
    assert torch.allclose(out[0], torch.stack(by_hand), atol=1e-6)


def test_levels_are_normed_apart():
    aligner = build_aligner(config(visual_levels=3))
    torch.nn.init.normal_(aligner.norm.weight)
    torch.nn.init.normal_(aligner.norm.bias)
    features, mask = chunks(4)
    out = aligner(features, mask, torch.tensor([1]))
    whole = aligner.mlp(aligner.group_norm(features).flatten())
    for level, own in enumerate(whole.split(8)):
        norm = torch.nn.LayerNorm(8)
        norm.load_state_dict({name: value[level] for name, value in aligner.norm.state_dict().items()})
        assert torch.allclose(out[0, 0, level], norm(own), atol=1e-6)


def test_the_convolution_is_torchs():
    """The same kernel as a `Conv1d`, over patches with zeros before and after."""
    convolution = PatchConvolution(6, 10, preceding=2, following=1)
    features, mask = chunks(9)
    stock = torch.nn.Conv1d(6, 10, 4)
    stock.weight.data = convolution.mlp[0].weight.unflatten(1, (6, 4))
    stock.bias.data = convolution.mlp[0].bias
    spread = stock(torch.nn.functional.pad(convolution.norm(features).mT, (2, 1))).mT
    by_hand = features + convolution.mlp[2](torch.nn.functional.gelu(spread))
    assert torch.allclose(convolution(features, mask), by_hand, atol=1e-6)


@pytest.mark.parametrize("changes", KINDS)
def test_every_chunk_is_what_it_would_be_alone(changes):
    aligner = build_aligner(config(**changes))
    features, mask = chunks(7, 3, 12)
    counts = torch.tensor([2, 1, 5])
    together = aligner(features, mask, counts)
    assert together.shape == (3, 5, changes.get("visual_levels", 1), 8)
    for number, count in enumerate(counts.tolist()):
        size = int(mask[number].sum())
        alone = aligner(features[number : number + 1, :size], mask[number : number + 1, :size], counts[number, None])
        assert torch.allclose(together[number, :count], alone[0], atol=1e-5)
        assert (together[number, count:] == 0).all()


@pytest.mark.parametrize("changes", KINDS)
def test_what_stands_in_padding_does_not_matter(changes):
    aligner = build_aligner(config(**changes))
    features, mask = chunks(7, 3)
    clean = aligner(features, mask, torch.tensor([2, 1]))
    dirty = aligner(features.masked_fill(~mask[..., None], 1e4), mask, torch.tensor([2, 1]))
    assert torch.equal(clean, dirty)


def test_a_chunk_without_ink_still_has_its_tokens():
    aligner = build_aligner(config(aligner_layers=1, aligner_convolutions=1, aligner_following=2))
    out = aligner(torch.zeros(1, 0, 6), torch.zeros(1, 0, dtype=torch.bool), torch.tensor([2]))
    assert out.shape == (1, 2, 1, 8) and out.isfinite().all()


def test_a_division_without_room_is_refused():
    features, mask = chunks(9)
    with pytest.raises(VistError, match="9 patches cannot become 2 .* at most 4 patches .* 3 tokens"):
        build_aligner(config())(features, mask, torch.tensor([2]))
    with pytest.raises(VistError, match="6 visual tokens .* 5 latents"):
        build_aligner(config(aligner="resampler", aligner_layers=1))(features, mask, torch.tensor([6]))
    with pytest.raises(VistError, match="Unknown aligner 'glue'"):
        build_aligner(config(aligner="glue"))


def test_packing_puts_the_pages_of_a_chunk_one_after_the_other():
    features = torch.arange(12.0).reshape(1, 3, 4, 1)
    mask = torch.tensor([[[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]]], dtype=torch.bool)
    packed, there = pack_patches(features, mask, torch.tensor([[0, 0, 2]]), 3)
    assert packed[0, :5, 0].tolist() == [0, 1, 2, 4, 5] and packed[2, 0, 0] == 8
    assert there.sum(1).tolist() == [5, 0, 1]
    assert pack_patches(features, mask, torch.tensor([[0, -1, 1]]), 2)[1].sum(1).tolist() == [3, 1]
