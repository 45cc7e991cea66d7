"""Every formula against torch's counter on real modules."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    MixtralConfig,
    Phi3Config,
    Qwen3Config,
    Qwen3MoeConfig,
    Siglip2VisionConfig,
    SiglipVisionConfig,
)

from vist.compress.reducers import build_reducer
from vist.eval.cost import _attention_flops
from vist.eval.flops import (
    cross_projection_work,
    cross_reading_work,
    language_model_work,
    resampler_work,
    text_encoder_work,
    tower_work,
)
from vist.fuse.insert import CrossAttentionOptions, insert_cross_attention, project_states
from vist.model.configuration import VistConfig
from vist.vision.encoder import encode
from vist.vision.text_vit import TextViTConfig

TINY = {
    "vocab_size": 61,
    "hidden_size": 48,
    "intermediate_size": 72,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts_per_tok": 2, "experts_implementation": "eager"}
LLMS = {
    "llama": LlamaConfig(**TINY),
    "qwen3": Qwen3Config(**TINY, head_dim=16),
    "phi3": Phi3Config(**TINY),
    "mixtral": MixtralConfig(**TINY, num_local_experts=4, **EXPERTS),
    "qwen3_moe": Qwen3MoeConfig(
        **TINY, head_dim=8, num_experts=4, moe_intermediate_size=40, mlp_only_layers=[1], **EXPERTS
    ),
}
SHAPE = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3}
TOWERS = {
    "clip": CLIPVisionConfig(**SHAPE, image_size=56, patch_size=14),
    "siglip": SiglipVisionConfig(**SHAPE, image_size=56, patch_size=14),
    "siglip2": Siglip2VisionConfig(**SHAPE, num_patches=16, patch_size=14),
    "text_vit": TextViTConfig(**SHAPE, image_size=(56, 56)),
}


def counted(run) -> int:
    operation = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    counter = FlopCounterMode(display=False, custom_mapping={operation: _attention_flops})
    with counter:
        run()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("logits", [1, 7])
@pytest.mark.parametrize("family", LLMS)
@torch.no_grad()
def test_language_models(family, logits) -> None:
    config = LLMS[family]
    model = AutoModelForCausalLM.from_config(config).eval()
    work = language_model_work(config, 7, logits)
    ids = torch.arange(7)[None]
    assert counted(lambda: model(ids, use_cache=False, logits_to_keep=logits)) == work.total
    assert 0 < work.mixing < work.linear


@torch.no_grad()
def test_cross_attention_apart_and_inside_the_model() -> None:
    config = LLMS["qwen3"]
    model = AutoModelForCausalLM.from_config(config).eval()
    alone = counted(lambda: model(torch.arange(7)[None], use_cache=False))
    insert_cross_attention(model, CrossAttentionOptions(states_size=20))
    states = torch.randn(1, 5, 20)
    kv = project_states(model, states)
    assert counted(lambda: project_states(model, states)) == cross_projection_work(config, 20, 5).total
    reading = counted(lambda: model(torch.arange(7)[None], cross_kv=kv, use_cache=False)) - alone
    assert reading == cross_reading_work(config, 7, 5).total


@pytest.mark.parametrize("kind", TOWERS)
def test_towers(kind) -> None:
    tower = AutoModel.from_config(TOWERS[kind])  # with gradients: without, SigLIP's head runs as one uncounted kernel
    pages = torch.randint(0, 256, (1, 3, 56, 56), dtype=torch.uint8)
    got = counted(lambda: encode(tower, pages, torch.ones(1, 3, 4, 4, dtype=torch.bool)))
    assert got == (tower_work(TOWERS[kind], 16) * 3).total


@torch.no_grad()
def test_text_vit_computes_patches_with_ink_alone() -> None:
    tower = AutoModel.from_config(TOWERS["text_vit"]).eval().requires_grad_(False)
    pages, ink = torch.randint(0, 256, (1, 1, 56, 56), dtype=torch.uint8), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    ink[..., 2:, :] = False
    assert counted(lambda: encode(tower, pages, ink)) == tower_work(TOWERS["text_vit"], 8).total


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@torch.no_grad()
def test_dropped_patches_cost_nothing(kind) -> None:
    tower = AutoModel.from_config(TOWERS[kind]).eval()
    pages, ink = torch.randint(0, 256, (1, 1, 56, 56), dtype=torch.uint8), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    ink[..., 2:, :] = False
    got = counted(lambda: encode(tower, pages, ink, drop_blank=True))
    assert got == tower_work(TOWERS[kind], 8, pooled=False).total


LOCAL = {"reducer": "local", "local_preceding": 2, "local_following": 1, "local_shortcut": True}


@pytest.mark.parametrize("choices", [{}, {"resampler_size": 48}, LOCAL], ids=["adapted", "same width", "local"])
@torch.no_grad()
def test_reducers(choices) -> None:
    shape = {"num_visual_tokens": 5, "resampler_layers": 2, "resampler_heads": 2, "resampler_size": 32}
    config = VistConfig(text_config=LLMS["llama"], vision_config=TOWERS["clip"], **{**shape, **choices})
    reducer = build_reducer(config.reducer, config, 16)
    features, mask = torch.randn(1, 3, 16, 48), torch.ones(1, 3, 16, dtype=torch.bool)
    assert counted(lambda: reducer(features, mask)) == (resampler_work(config, 16) * 3).total


@torch.no_grad()
def test_a_text_encoder_reads_in_chunks() -> None:
    config = LLMS["llama"]
    encoder = AutoModel.from_config(config).eval()
    chunks = [torch.arange(4)[None], torch.arange(4)[None], torch.arange(2)[None]]
    want = sum(counted(lambda ids=ids: encoder(ids, use_cache=False)) for ids in chunks)
    assert text_encoder_work(config, 10, 4).total == want


def test_a_wrong_formula_would_be_seen() -> None:
    layer = nn.Linear(3, 5)
    assert counted(lambda: layer(torch.ones(2, 3))) == 2 * 2 * 3 * 5
