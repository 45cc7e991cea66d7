"""Every LLM family and every tower as a whole model: built from folders, saved, loaded, unchanged."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    SmolLM3Config,
)

from tiny_backbones import CHOICES, tiny_tower
from vist.fuse.families import SUPPORTED_FAMILIES
from vist.model.vist import VistForConditionalGeneration
from vist.vision.encoder import SUPPORTED_TOWERS
from vist.vision.text_vit import TextViTConfig, TextViTModel

TINY = {
    "vocab_size": 19,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2}
LLMS = {
    "llama": LlamaConfig(**TINY),
    "mistral": MistralConfig(**TINY),
    "qwen2": Qwen2Config(**TINY),
    "qwen3": Qwen3Config(**TINY, head_dim=8),
    "smollm3": SmolLM3Config(**TINY, no_rope_layers=[1, 0]),
    "phi3": Phi3Config(**TINY),
    "mixtral": MixtralConfig(**TINY, num_local_experts=3, **EXPERTS),
    "qwen3_moe": Qwen3MoeConfig(**TINY, head_dim=8, num_experts=3, moe_intermediate_size=12, **EXPERTS),
}
SHAPE = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
# Patch and image sizes of the published towers; only the widths are tiny.
TOWERS = {
    "clip B/16": (CLIPVisionModel, CLIPVisionConfig(**SHAPE, image_size=224, patch_size=16), 196),
    "clip B/32": (CLIPVisionModel, CLIPVisionConfig(**SHAPE, image_size=224, patch_size=32), 49),
    "clip L/14": (CLIPVisionModel, CLIPVisionConfig(**SHAPE, image_size=224, patch_size=14), 256),
    "siglip L/16": (SiglipVisionModel, SiglipVisionConfig(**SHAPE, image_size=256, patch_size=16), 256),
    "siglip2 L/16": (Siglip2VisionModel, Siglip2VisionConfig(**SHAPE, num_patches=256, patch_size=16), 196),
    "text_vit": (TextViTModel, TextViTConfig(**SHAPE), 256),
}


def pages():
    torch.manual_seed(2)
    ink = torch.rand(1, 2, 16, 16) > 0.3
    return {"pixel_values": torch.randint(0, 256, (1, 2, 224, 224), dtype=torch.uint8), "ink_mask": ink}


def assert_same(logits, want):
    """The same but for the last bits: weights mapped from another file may lie unaligned, and then BLAS adds up in
    another order on some CPUs."""
    torch.testing.assert_close(logits, want, atol=1e-6, rtol=0)


def test_every_family_and_tower_has_a_row():
    assert set(LLMS) == set(SUPPORTED_FAMILIES)
    assert {config.model_type for _, config, _ in TOWERS.values()} == set(SUPPORTED_TOWERS)


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
@torch.no_grad()
def test_a_saved_and_loaded_model_is_still_the_stock_llm(family, tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LLMS[family]).save_pretrained(tmp_path / "llm")
    tiny_tower().save_pretrained(tmp_path / "vision")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "llm").eval()
    model = VistForConditionalGeneration.from_backbones(tmp_path / "llm", tmp_path / "vision", **CHOICES).eval()
    ids = torch.tensor([[3, 7, 4, 9, 5]])
    want = stock(ids).logits
    assert_same(model(ids, **pages()).logits, want)
    model.save_pretrained(tmp_path / "whole")
    again = VistForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert_same(again(ids, **pages()).logits, want)
    for sublayer in (layer.cross_attn for layer in again.get_decoder().layers):
        torch.nn.init.normal_(sublayer.o_proj.weight)
    assert not torch.allclose(again(ids, **pages()).logits, want, atol=1e-2)
    assert again.generate(ids, **pages(), max_new_tokens=3, do_sample=False).shape == (1, 8)


@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_a_tower_of_a_published_shape_gives_its_patches(tower, tmp_path):
    torch.manual_seed(0)
    kind, config, patches = TOWERS[tower]
    kind(config).save_pretrained(tmp_path / "vision")
    AutoModelForCausalLM.from_config(LLMS["llama"]).save_pretrained(tmp_path / "llm")
    model = VistForConditionalGeneration.from_backbones(tmp_path / "llm", tmp_path / "vision", **CHOICES).eval()
    context = model.encode_context(**pages())
    assert context.states.shape == (1, 8, 16) and context.mask.all()
    seen = {}
    model.resampler.register_forward_pre_hook(lambda _, inputs: seen.update(patches=inputs[1].shape[-1]))
    model(torch.tensor([[3, 7]]), **pages())
    assert seen["patches"] == patches
    model.save_pretrained(tmp_path / "whole")
    again = VistForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert torch.equal(again.encode_context(**pages()).states, context.states)
