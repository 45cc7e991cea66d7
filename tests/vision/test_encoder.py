"""Every supported tower, tiny and random, saved in the real format and read back through the one interface."""

import numpy as np
import pytest
import torch
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from vist.errors import VistError
from vist.vision.encoder import encode, load_vision_tower, normalize_pages, num_patches, patch_grid, shorten
from vist.vision.text_vit import TextViTConfig, TextViTModel

SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {**SHAPE, "image_size": 56, "patch_size": 14}
BUILDERS = {
    "clip": lambda: CLIPVisionModel(CLIPVisionConfig(**SQUARE)),
    "siglip": lambda: SiglipVisionModel(SiglipVisionConfig(**SQUARE)),
    "siglip2": lambda: Siglip2VisionModel(Siglip2VisionConfig(**SHAPE, num_patches=16, patch_size=14)),
    "text_vit": lambda: TextViTModel(TextViTConfig(**{**SQUARE, "image_size": (56, 56)})),
}


@pytest.fixture(params=list(BUILDERS))
def tower(request, tmp_path):
    torch.manual_seed(0)
    BUILDERS[request.param]().save_pretrained(tmp_path)
    return load_vision_tower(tmp_path).eval().requires_grad_(False)


def some_pages(batch=2, pages=3, side=56, cells=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (batch, pages, side, side), dtype=torch.uint8, generator=generator)
    pixels[..., 0, 0], pixels[..., 0, 1] = 0, 255
    ink = torch.rand(batch, pages, cells, cells, generator=generator) > 0.4
    ink[:, :, 0, 0] = True
    return pixels, ink


def test_shapes_and_mask_follow_the_pages(tower):
    pixels, ink = some_pages()
    seen = encode(tower, pixels, ink)
    assert seen.features.shape == (2, 3, 16, 32) and num_patches(tower.config) == 16
    assert torch.equal(seen.mask, ink.flatten(2))
    assert not seen.features[~seen.mask].any()
    assert seen.features[seen.mask].abs().amax(-1).min() > 0


def test_pages_without_ink_are_not_encoded_and_change_nothing(tower):
    pixels, ink = some_pages()
    seen = encode(tower, pixels, ink)
    counted = []
    hook = tower.register_forward_hook(
        lambda module, args, kwargs, output: counted.append(len(args[0])), with_kwargs=True
    )
    blank = torch.full((2, 4, 56, 56), 255, dtype=torch.uint8)
    padded = encode(
        tower, torch.cat([pixels, blank], 1), torch.cat([ink, torch.zeros(2, 4, 4, 4, dtype=torch.bool)], 1)
    )
    hook.remove()
    assert counted == [6]
    assert torch.equal(padded.features[:, :3], seen.features)
    assert not padded.features[:, 3:].any() and not padded.mask[:, 3:].any()


def test_a_batch_without_any_page_gives_zeros(tower):
    pixels, ink = some_pages()
    seen = encode(tower, pixels, torch.zeros_like(ink))
    assert seen.features.shape == (2, 3, 16, 32) and not seen.features.any() and not seen.mask.any()


def test_many_passes_equal_one(tower):
    pixels, ink = some_pages()
    together, apart = encode(tower, pixels, ink), encode(tower, pixels, ink, pages_per_pass=2)
    torch.testing.assert_close(together.features, apart.features, atol=1e-5, rtol=0)


def test_frozen_towers_run_without_gradient_and_trainable_ones_with(tower):
    pixels, ink = some_pages()
    assert not encode(tower, pixels, ink).features.requires_grad
    tower.requires_grad_(True)
    assert encode(tower, pixels, ink).features.requires_grad


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_features_are_the_stock_towers(kind):
    from transformers import CLIPImageProcessor, SiglipImageProcessor

    torch.manual_seed(0)
    tower = BUILDERS[kind]().eval()
    pixels, ink = some_pages(batch=1, pages=2)
    images = [np.repeat(page[:, :, None], 3, axis=2) for page in pixels[0].numpy()]
    official = (CLIPImageProcessor if kind == "clip" else SiglipImageProcessor)(do_resize=False, do_center_crop=False)
    inputs = official(images, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    stock = tower(inputs).last_hidden_state[:, 1 if kind == "clip" else 0 :]
    seen = encode(tower, pixels, ink)
    torch.testing.assert_close(seen.features[0][seen.mask[0]], stock[seen.mask[0]], atol=1e-5, rtol=1e-5)


def test_siglip2_patches_and_mask_are_the_stock_towers():
    from transformers import Siglip2ImageProcessor

    torch.manual_seed(0)
    tower = BUILDERS["siglip2"]().eval()
    pixels, ink = some_pages(batch=1, pages=2)
    images = [np.repeat(page[:, :, None], 3, axis=2) for page in pixels[0].numpy()]
    inputs = Siglip2ImageProcessor(patch_size=14, max_num_patches=16)(images, return_tensors="pt", do_resize=False)
    inputs["pixel_attention_mask"] = ink[0].flatten(1).int()
    stock = tower(**inputs).last_hidden_state
    seen = encode(tower, pixels, ink)
    torch.testing.assert_close(seen.features[0][seen.mask[0]], stock[seen.mask[0]], atol=1e-5, rtol=1e-5)


def test_siglip2_does_not_see_blank_patches():
    torch.manual_seed(0)
    tower = BUILDERS["siglip2"]().eval()
    pixels, ink = some_pages()
    before = encode(tower, pixels, ink).features
    cells = ink.repeat_interleave(14, 2).repeat_interleave(14, 3)
    changed = torch.where(cells, pixels, 128)
    assert not torch.equal(changed, pixels)
    assert torch.equal(encode(tower, changed, ink).features, before)


def test_text_vit_reads_what_it_reads_alone():
    torch.manual_seed(0)
    tower = BUILDERS["text_vit"]().eval()
    pixels, ink = some_pages()
    seen = encode(tower, pixels, ink)
    alone = tower(pixels.flatten(0, 1), ink.flatten(2).flatten(0, 1)).unflatten(0, (2, 3))
    torch.testing.assert_close(seen.features[seen.mask], alone[seen.mask], atol=1e-5, rtol=1e-5)


def test_a_patch_has_ink_if_any_cell_it_overlaps_has():
    tower = CLIPVisionModel(CLIPVisionConfig(**{**SQUARE, "image_size": 48, "patch_size": 16})).eval()
    pixels, _ = some_pages(batch=1, pages=1)
    ink = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    ink[0, 0, 1, 3] = True  # rows 0.75..1.5 of 3, columns 2.25..3
    mask = encode(tower, pixels, ink).mask.view(3, 3)
    assert mask.tolist() == [[False, False, True], [False, False, True], [False, False, False]]


def test_contrast_is_full_for_any_ink_on_any_paper():
    tower = BUILDERS["siglip"]()
    pixels = some_pages(batch=1, pages=1)[0][0]
    pale = (pixels.float() / 255 * 100 + 50).round().to(torch.uint8)
    full, stretched = normalize_pages(tower, pixels, (56, 56)), normalize_pages(tower, pale, (56, 56))
    assert full.min() == -1 and full.max() == 1
    torch.testing.assert_close(stretched, full, atol=0.02, rtol=0)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_dropped_patches_are_not_computed_and_not_seen(kind, kernel):
    """Against the stock layers called page by page on the patches with ink alone."""
    torch.manual_seed(0)
    tower = BUILDERS[kind]().eval()
    tower.set_attn_implementation(kernel)
    pixels, ink = some_pages(batch=1)
    seen = encode(tower, pixels, ink, drop_blank=True)
    images = normalize_pages(tower, pixels[0], (56, 56))
    for page in range(3):
        chosen = ink[0, page].flatten()
        if kind == "clip":
            chosen = torch.cat([torch.tensor([True]), chosen])
        hidden = tower.embeddings(images[page : page + 1])[:, chosen]
        hidden = tower.pre_layrnorm(hidden) if kind == "clip" else hidden
        hidden = tower.encoder(inputs_embeds=hidden).last_hidden_state
        want = hidden[0, 1:] if kind == "clip" else tower.post_layernorm(hidden)[0]
        torch.testing.assert_close(seen.features[0, page][seen.mask[0, page]], want, atol=1e-5, rtol=1e-5)
    everything = torch.ones_like(ink)
    stock = encode(tower, pixels, everything)
    torch.testing.assert_close(encode(tower, pixels, everything, drop_blank=True).features, stock.features)


@torch.no_grad()
def test_a_tower_can_be_cut_after_some_layers(tmp_path):
    torch.manual_seed(0)
    BUILDERS["clip"]().save_pretrained(tmp_path)
    whole, cut = load_vision_tower(tmp_path).eval(), load_vision_tower(tmp_path, layers=1).eval()
    assert cut.config.num_hidden_layers == 1 and len(cut.encoder.layers) == 1
    images = torch.randn(2, 3, 56, 56)
    hidden = whole(images, output_hidden_states=True).hidden_states[1]
    assert torch.equal(cut(images).last_hidden_state, hidden)
    shorten(whole, 1)
    assert torch.equal(whole(images).last_hidden_state, hidden)
    with pytest.raises(VistError, match="vision_layers must be 1 to 2 for this tower, got 3"):
        load_vision_tower(tmp_path, layers=3)


def test_siglip2_takes_pages_of_other_sizes():
    tower = BUILDERS["siglip2"]().eval()
    assert patch_grid(tower.config, 28, 56) == (2, 4)
    pixels, ink = torch.zeros(1, 1, 28, 56, dtype=torch.uint8), torch.ones(1, 1, 2, 4, dtype=torch.bool)
    assert encode(tower, pixels, ink).features.shape == (1, 1, 8, 32)


def test_the_vision_part_of_a_whole_clip_model_is_found(tmp_path):
    torch.manual_seed(0)
    text = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 9,
    }
    whole = CLIPModel(CLIPConfig(text_config=text, vision_config=SQUARE, projection_dim=8)).eval()
    whole.save_pretrained(tmp_path)
    tower = load_vision_tower(tmp_path).eval()
    images = torch.randn(2, 3, 56, 56)
    assert torch.equal(tower(images).last_hidden_state, whole.vision_model(images).last_hidden_state)


def test_users_get_sentences(tmp_path):
    with pytest.raises(VistError, match="not supported; use one of clip_vision_model"):
        load_vision_tower(BertConfig())
    with pytest.raises(VistError, match="Cannot load a vision tower"):
        load_vision_tower(tmp_path / "nowhere")
    pixels, ink = some_pages()
    with pytest.raises(VistError, match="do not match"):
        encode(BUILDERS["clip"](), pixels, ink[:, :2])
    with pytest.raises(VistError, match="page style|render with"):
        encode(BUILDERS["text_vit"](), *some_pages(side=112, cells=8))
