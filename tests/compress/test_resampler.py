"""The reducers against a page-by-page reference written out with loops."""

from types import SimpleNamespace

import pytest
import torch

from vist.compress.reducers import LocalResampler, build_reducer
from vist.compress.resampler import PerceiverResampler
from vist.errors import VistError


def config(tokens=4, width=16, vision=12, layers=2, heads=2, preceding=0, following=0, shortcut=False, merge=False):
    return SimpleNamespace(
        num_visual_tokens=tokens,
        resampler_size=width,
        vision_size=vision,
        resampler_layers=layers,
        resampler_heads=heads,
        local_expansion=3,
        local_preceding=preceding,
        local_following=following,
        local_shortcut=shortcut,
        local_merge=merge,
    )


def features_and_mask(batch=2, pages=3, patches=10, width=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(batch, pages, patches, generator=generator) > 0.4
    mask[..., 2] = True
    return torch.randn(batch, pages, patches, width, generator=generator), mask


def reference_layer(layer, latents, features):
    """One Perceiver layer on one page, head by head and query by query."""
    normed, source = (
        layer.norm_latents(latents),
        torch.cat([layer.norm_features(features), layer.norm_latents(latents)]),
    )
    size = latents.shape[1] // layer.heads
    mixed = torch.zeros_like(latents)
    for head in range(layer.heads):
        part = slice(head * size, (head + 1) * size)
        for query in range(len(latents)):
            scores = [(layer.q_proj(normed[query])[part] @ layer.k_proj(s)[part]) / size**0.5 for s in source]
            weights = torch.stack(scores).softmax(0)
            mixed[query, part] = sum(w * layer.v_proj(s)[part] for w, s in zip(weights, source, strict=True))
    latents = latents + layer.o_proj(mixed)
    return latents + layer.mlp(layer.norm_mlp(latents))


@torch.no_grad()
def reference_page(resampler, latents, features):
    """Latents in use and inked features of one page -> normalised latents."""
    for layer in resampler.layers:
        latents = reference_layer(layer, latents, resampler.adapt(features))
    return resampler.norm(latents)


@pytest.fixture(params=["perceiver", "local"])
def resampler(request):
    torch.manual_seed(0)
    return build_reducer(request.param, config(), num_patches=10).eval()


@torch.no_grad()
def test_perceiver_equals_the_loop():
    torch.manual_seed(0)
    resampler = PerceiverResampler(config())
    features, mask = features_and_mask()
    out = resampler(features, mask)
    for b in range(2):
        for p in range(3):
            start = torch.cat([resampler.latents, resampler.cls_latent[None]])
            want = reference_page(resampler, start, features[b, p, mask[b, p]])
            torch.testing.assert_close(out.tokens[b, p], want[:-1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(out.cls[b, p], want[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("preceding", "following", "shortcut"), [(0, 0, False), (2, 0, True), (1, 1, False)])
@torch.no_grad()
def test_local_equals_the_loop(preceding, following, shortcut):
    torch.manual_seed(0)
    resampler = LocalResampler(config(preceding=preceding, following=following, shortcut=shortcut), num_patches=10)
    features, mask = features_and_mask()
    mask[0, 1] = torch.arange(10) < 4  # two of the four latents in use
    out = resampler(features, mask)
    for b in range(2):
        for p in range(3):
            inked = features[b, p, mask[b, p]]
            own, starts = [], []
            for first in range(0, len(inked), 3):
                group = resampler.group_norm(inked[first : first + 3]).flatten()
                group = torch.cat([group, torch.zeros(36 - len(group))])
                own.append(resampler.group_mlp(group) + (resampler.group_shortcut(group) if shortcut else 0))
            for k in range(len(own)):
                starts.append(own[k] + resampler.latents[k])
                if preceding or following:
                    beside = range(k + following, k - preceding - 1, -1)
                    seen = [resampler.beside_norm(own[j]) if 0 <= j < len(own) else torch.zeros(16) for j in beside]
                    starts[k] += resampler.beside_mlp(torch.cat(seen))
            want = reference_page(resampler, torch.stack([*starts, resampler.cls_latent]), inked)
            used = len(starts)
            assert out.token_mask[b, p].tolist() == [k < used for k in range(4)]
            torch.testing.assert_close(out.tokens[b, p, :used], want[:-1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(out.cls[b, p], want[-1], atol=1e-5, rtol=1e-5)
            assert not out.tokens[b, p, used:].any()


@torch.no_grad()
def test_padding_pages_and_masked_patches_change_nothing(resampler):
    features, mask = features_and_mask()
    out = resampler(features, mask)
    junk = torch.where(mask.unsqueeze(-1), features, torch.nan)
    assert all(torch.equal(a, b) for a, b in zip(resampler(junk, mask), out, strict=True))
    more = resampler(
        torch.cat([features, torch.full((2, 2, 10, 12), torch.nan)], 1),
        torch.cat([mask, torch.zeros(2, 2, 10, dtype=torch.bool)], 1),
    )
    assert all(torch.equal(a[:, :3], b) for a, b in zip(more, out, strict=True))
    assert not more.token_mask[:, 3:].any() and not more.tokens[:, 3:].any() and not more.cls[:, 3:].any()


@torch.no_grad()
def test_pages_do_not_see_one_another(resampler):
    features, mask = features_and_mask()
    out = resampler(features, mask)
    changed = features.clone()
    changed[0, 0] += 1
    again = resampler(changed, mask)
    assert not torch.equal(again.tokens[0, 0], out.tokens[0, 0])
    torch.testing.assert_close(again.tokens[:, 1:], out.tokens[:, 1:], atol=1e-6, rtol=0)


@pytest.mark.parametrize("tokens", [1, 3, 10, 24])
@pytest.mark.parametrize("name", ["perceiver", "local"])
def test_any_number_of_tokens(name, tokens):
    features, mask = features_and_mask()
    out = build_reducer(name, config(tokens=tokens, width=12), num_patches=10)(features, mask)
    assert out.tokens.shape == (2, 3, tokens, 12) and out.token_mask.any(-1).all()


def test_every_parameter_learns_even_when_no_page_is_visible(resampler):
    features, mask = features_and_mask()
    out = resampler(features, mask)
    (out.tokens.square().sum() + out.cls.square().sum()).backward()
    assert all(
        p.grad is not None and p.grad.abs().sum() > 0 for name, p in resampler.named_parameters() if "norm" not in name
    )
    resampler.zero_grad()
    out = resampler(features, torch.zeros_like(mask))
    (out.tokens.sum() + out.cls.sum()).backward()
    assert all(p.grad is not None and not p.grad.any() for p in resampler.parameters())


def test_users_get_sentences():
    with pytest.raises(VistError, match="Unknown reducer 'mean'; choose one of perceiver, local"):
        build_reducer("mean", config(), 10)
    with pytest.raises(VistError, match="20 patches but the model was built for at most 12"):
        build_reducer("local", config(), 10)(*features_and_mask(patches=20))


@torch.no_grad()
def test_a_small_set_of_latents_is_the_beginning_of_a_larger_one():
    torch.manual_seed(0)
    resampler = PerceiverResampler(config())
    features, mask = features_and_mask()
    full = resampler(features, mask)
    for count in (1, 2, 3):
        fewer = resampler(features, mask, torch.full((2, 3), count))
        assert torch.equal(fewer.tokens[:, :, :count], full.tokens[:, :, :count])
        assert torch.equal(fewer.cls, full.cls)
        assert fewer.token_mask.sum(-1).unique().tolist() == [count] and not fewer.tokens[:, :, count:].any()


@pytest.mark.parametrize("merge", [False, True])
@torch.no_grad()
def test_merged_parts_equal_the_loop(merge):
    """Pages of 2 to 6 parts of two patches, each read with every smaller number of tokens, patch by patch."""
    torch.manual_seed(0)
    resampler = LocalResampler(config(tokens=6, preceding=1, following=1, shortcut=True, merge=merge), num_patches=12)
    if merge:
        torch.nn.init.normal_(resampler.merge_order.weight, std=0.3)
        torch.nn.init.normal_(resampler.merge_level)
    features, mask = features_and_mask(batch=2, pages=3, patches=12)
    counts = torch.tensor([[2, 5, 3], [1, 4, 2]])
    mask[0, 1] = True  # six parts as five tokens: one of them merged
    out = resampler(features, mask, counts)
    for b in range(2):
        for p in range(3):
            inked = features[b, p, mask[b, p]]
            parts = [list(range(first, min(first + 2, len(inked)))) for first in range(0, len(inked), 2)]
            tokens = min(int(counts[b, p]), len(parts))
            own, codes = [], []
            for token in range(tokens):
                members = [k for k in range(len(parts)) if k * tokens // len(parts) == token]
                places = [[], []]
                for number, patch in enumerate(patch for k in members for patch in parts[k]):
                    x = resampler.group_norm(inked[patch])
                    if merge:
                        along = (number % len(members) + 0.5) / len(members) * 2 - 1
                        x = x + along * resampler.merge_order.weight @ x
                    places[number // len(members)].append(x)
                group = torch.cat([torch.stack(x).sum(0) / len(x) ** 0.5 if x else torch.zeros(12) for x in places])
                own.append(resampler.group_mlp(group) + resampler.group_shortcut(group))
                code = resampler.latents[members[(len(members) - 1) // 2]]
                codes.append(code + torch.tensor(len(members)).log2() * resampler.merge_level if merge else code)
            starts = []
            for k in range(tokens):
                beside = [own[j] if 0 <= j < tokens else None for j in (k + 1, k, k - 1)]
                seen = [torch.zeros(16) if x is None else resampler.beside_norm(x) for x in beside]
                starts.append(own[k] + codes[k] + resampler.beside_mlp(torch.cat(seen)))
            want = reference_page(resampler, torch.stack([*starts, resampler.cls_latent]), inked)
            assert out.token_mask[b, p].tolist() == [k < tokens for k in range(5)]
            torch.testing.assert_close(out.tokens[b, p, :tokens], want[:-1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(out.cls[b, p], want[-1], atol=1e-5, rtol=1e-5)
            assert not out.tokens[b, p, tokens:].any()


@pytest.mark.parametrize("merge", [False, True])
@torch.no_grad()
def test_a_page_that_keeps_all_its_parts_is_read_as_ever(merge):
    torch.manual_seed(0)
    resampler = LocalResampler(config(preceding=2, following=1, merge=merge), num_patches=10)
    if merge:
        torch.nn.init.normal_(resampler.merge_order.weight)
        torch.nn.init.normal_(resampler.merge_level)
    features, mask = features_and_mask()
    mask[1, 2] = True
    full, again = resampler(features, mask), resampler(features, mask, resampler.limits(mask))
    assert all(torch.equal(a, b) for a, b in zip(full, again, strict=True))


def test_the_limits_are_the_tokens_in_use(resampler):
    features, mask = features_and_mask()
    mask[1, 2] = False
    assert torch.equal(resampler.limits(mask), resampler(features, mask).token_mask.sum(-1))


@torch.no_grad()
def test_fewer_tokens_do_not_see_padding_either(resampler):
    features, mask = features_and_mask()
    counts = torch.tensor([[2, 1, 3], [1, 2, 2]])
    out = resampler(features, mask, counts)
    junk = torch.where(mask.unsqueeze(-1), features, torch.nan)
    assert all(torch.equal(a, b) for a, b in zip(resampler(junk, mask, counts), out, strict=True))
    blank, none = torch.full((2, 1, 10, 12), torch.nan), torch.zeros(2, 1, 10, dtype=torch.bool)
    counts = torch.cat([counts, torch.zeros(2, 1, dtype=torch.long)], 1)
    more = resampler(torch.cat([features, blank], 1), torch.cat([mask, none], 1), counts)
    assert all(torch.equal(a[:, :3], b) for a, b in zip(more, out, strict=True)) and not more.token_mask[:, 3].any()
    empty = resampler(blank, none, torch.zeros(2, 1, dtype=torch.long))
    assert not empty.token_mask.any() and not empty.cls.any()
