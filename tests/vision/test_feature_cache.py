"""A page that was encoded before is not encoded again, and comes back bit for bit."""

import pytest
import torch

from tiny_backbones import some_pages, tiny_model
from vision.test_encoder import BUILDERS
from vist.errors import VistError
from vist.vision.encoder import encode, freeze
from vist.vision.feature_cache import FeatureCache, page_key


@pytest.fixture(params=BUILDERS)
def tower(request):
    torch.manual_seed(0)
    tower = BUILDERS[request.param]().eval()
    freeze(tower)
    return tower


def passes(tower):
    seen = []
    tower.register_forward_hook(lambda module, arguments, output: seen.append(1))
    return seen


def test_kept_features_are_those_of_encoding_again(tower):
    pages = some_pages(batch=2, pages=3)
    pages["ink_mask"][1, 2] = False
    want = encode(tower, **pages, pages_per_pass=1)
    cache, seen = FeatureCache(tower), passes(tower)
    for repeat in range(2):
        got = cache.encode(**pages)
        assert torch.equal(got.features, want.features) and torch.equal(got.mask, want.mask)
        assert len(seen) == 5 and (cache.hits, cache.misses) == (5 * repeat, 5)


def test_what_stands_beside_a_page_does_not_matter(tower):
    """A page found among others has the bits it has alone, in whatever order pages came."""
    first, second = some_pages(batch=1, pages=2), some_pages(batch=1, pages=3, seed=1)
    cache = FeatureCache(tower)
    alone = cache.encode(first["pixel_values"][:, 1:], first["ink_mask"][:, 1:])
    mixed = {name: torch.cat([second[name], first[name]], 1) for name in first}
    got, want = cache.encode(**mixed), encode(tower, **mixed, pages_per_pass=1)
    assert torch.equal(got.features, want.features) and torch.equal(got.features[:, 4:], alone.features)
    assert cache.hits == 1


def test_batched_encoding_differs_by_rounding_only(tower):
    pages = some_pages()
    torch.testing.assert_close(FeatureCache(tower).encode(**pages).features, encode(tower, **pages).features)


def test_pixels_and_ink_make_the_page():
    pages = some_pages(batch=1, pages=1)
    pixels, ink = pages["pixel_values"][0, 0], pages["ink_mask"][0, 0]
    brighter, barer = pixels.clone(), ink.clone()
    brighter[5, 5] ^= 1
    barer[0, 0] = False
    keys = {page_key(pixels, ink), page_key(brighter, ink), page_key(pixels, barer), page_key(pixels.T, ink)}
    assert len(keys) == 4 and page_key(pixels.clone(), ink.clone()) in keys


def test_the_limit_holds_and_the_oldest_go_first():
    model = tiny_model()
    pages = some_pages(batch=1, pages=3)
    roomy = FeatureCache(model.vision_tower)
    roomy.encode(**pages)
    tight = FeatureCache(model.vision_tower, max_bytes=roomy.bytes - 1)
    tight.encode(**pages)
    assert tight.bytes < roomy.bytes
    tight.encode(pages["pixel_values"][:, 1:], pages["ink_mask"][:, 1:])
    assert tight.hits == 2
    tight.encode(pages["pixel_values"][:, :1], pages["ink_mask"][:, :1])
    assert tight.hits == 2 and tight.misses == 4


def test_kept_features_serve_every_setting_and_mode():
    model = tiny_model(reducer="local")
    pages, cache = some_pages(), FeatureCache(model.vision_tower)
    with torch.inference_mode():
        cache.encode(**pages)
    seen = cache.encode(**pages)  # outside of it, for training on kept features
    context = model.compress_features(seen, 2)
    context.states.sum().backward()
    torch.testing.assert_close(context.states, model.encode_context(**pages, visual_tokens=2).states)
    assert cache.hits == cache.misses == 6


def test_a_tower_in_training_and_an_empty_store_are_refused():
    tower = tiny_model().vision_tower
    with pytest.raises(VistError, match="max_bytes"):
        FeatureCache(tower, max_bytes=0)
    tower.requires_grad_(True)
    with pytest.raises(VistError, match="in training"):
        FeatureCache(tower)
