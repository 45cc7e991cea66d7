"""Every supported LLM family with cross-attention inserted against the stock model: the definition of support."""

import copy
import pickle

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

from vist.errors import VistError
from vist.fuse import insert
from vist.fuse.families import SUPPORTED_FAMILIES
from vist.fuse.insert import (
    CrossAttentionOptions,
    cross_attentions,
    insert_cross_attention,
    project_states,
)

TINY = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**TINY),
    "mistral": MistralConfig(**TINY, sliding_window=4),
    "qwen2": Qwen2Config(**TINY, tie_word_embeddings=True),
    "qwen3": Qwen3Config(**TINY, head_dim=8),
    "smollm3": SmolLM3Config(**TINY, no_rope_layers=[1, 1, 0], attention_bias=True),
    "phi3": Phi3Config(**TINY, resid_pdrop=0.5, sliding_window=4),
    "mixtral": MixtralConfig(**TINY, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": Qwen3MoeConfig(
        **TINY, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=12, mlp_only_layers=[1]
    ),
}


def build(family, kernel="sdpa"):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[family]), attn_implementation=kernel).eval()


def train(model):
    """Stand-in for training: every inserted weight takes another value."""
    for parameter in (p for sublayer in cross_attentions(model) for p in sublayer.parameters()):
        nn.init.normal_(parameter, std=0.3)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    attention = torch.ones(2, 9, dtype=torch.long)
    attention[1, :3] = 0
    text = {"input_ids": torch.randint(1, 61, (2, 9)), "attention_mask": attention}
    mask = torch.rand(2, 1, 1, 5) > 0.3
    return text, {"cross_states": torch.randn(2, 5, 12), "cross_mask": mask}


def test_every_supported_family_has_a_row():
    assert set(CONFIGS) == set(SUPPORTED_FAMILIES)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("gate", [False, True])
@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
@torch.no_grad()
def test_untrained_equals_stock_bit_for_bit(family, gate, kernel, batch, tmp_path):
    build(family, kernel).save_pretrained(tmp_path)
    stock = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=kernel).eval()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=kernel).eval()
    insert_cross_attention(model, CrossAttentionOptions(states_size=12, gate=gate))
    text, context = batch
    want = stock(**text).logits
    assert torch.equal(model(**text).logits, want)
    assert torch.equal(model(**text, **context).logits, want)
    kv = project_states(model, context["cross_states"])
    assert torch.equal(model(**text, cross_kv=kv, cross_mask=context["cross_mask"]).logits, want)


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
@torch.no_grad()
def test_untrained_training_mode_draws_the_same_dropouts(family, batch):
    stock, model = build(family).train(), build(family).train()
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    text, context = batch
    logits = []
    for twin, inputs in ((stock, text), (model, text), (model, {**text, **context})):
        torch.manual_seed(3)
        logits.append(twin(**inputs).logits)
    assert torch.equal(logits[1], logits[0]) and torch.equal(logits[2], logits[0])


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
@torch.no_grad()
def test_cached_equals_uncached(family, batch):
    model = build(family)
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    train(model)
    text, context = batch
    whole = model(**text, **context).logits
    first = model(text["input_ids"][:, :6], attention_mask=text["attention_mask"][:, :6], use_cache=True, **context)
    rest = model(
        text["input_ids"][:, 6:],
        attention_mask=text["attention_mask"],
        past_key_values=first.past_key_values,
        **context,
    )
    torch.testing.assert_close(rest.logits, whole[:, 6:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_routers_are_still_seen_through_swapped_layers(batch):
    stock, model = build("mixtral"), build("mixtral")
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    text, context = batch
    want = stock(**text, output_router_logits=True).router_logits
    got = model(**text, **context, output_router_logits=True).router_logits
    assert len(got) == 3 and all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
@torch.no_grad()
def test_trained_layers_read_the_context_and_stay_stock_without_one(family, batch):
    stock, model = build(family), build(family)
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    train(model)
    text, context = batch
    assert torch.equal(model(**text).logits, stock(**text).logits)
    read = model(**text, **context).logits
    assert not torch.allclose(read, stock(**text).logits, atol=1e-2)
    kv = project_states(model, context["cross_states"])
    assert torch.equal(model(**text, cross_kv=kv, cross_mask=context["cross_mask"]).logits, read)


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
@torch.no_grad()
def test_the_layer_is_self_attention_then_cross_attention_then_feed_forward(family, batch):
    """A layer written out from its parts, in the order the paper gives."""
    model = build(family)
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    train(model)
    _, context = batch
    layer, hidden = model.model.layers[1], torch.randn(2, 4, 16)
    positions = model.model.rotary_emb(hidden, torch.arange(4)[None])
    out = layer(hidden, position_embeddings=positions, **context)
    attended = layer.self_attn(layer.input_layernorm(hidden), position_embeddings=positions, attention_mask=None)[0]
    middle = hidden + attended
    middle = middle + layer.cross_attn(middle, layer.cross_attn.project(context["cross_states"]), context["cross_mask"])
    torch.testing.assert_close(out, middle + layer.mlp(layer.post_attention_layernorm(middle)))


def test_names_and_classes_stay_stock():
    stock, model = build("llama"), build("llama")
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    assert [n for n in model.state_dict() if ".cross_attn." not in n] == list(stock.state_dict())
    assert {type(layer).__name__ for layer in model.model.layers} == {"LlamaDecoderLayer"}
    assert all(isinstance(layer, type(stock.model.layers[0])) for layer in model.model.layers)
    assert not hasattr(stock.model.layers[0], "cross_attn")
    assert len(model(torch.ones(1, 3, dtype=torch.long), output_hidden_states=True).hidden_states) == 4


@torch.no_grad()
def test_copies_and_pickles_read_the_same(batch, monkeypatch):
    model = build("qwen3")
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    train(model)
    text, context = batch
    want = model(**text, **context).logits
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(**text, **context).logits, want)
    pickled = pickle.dumps(model)
    monkeypatch.delattr(insert, "Qwen3DecoderLayer")  # as in a process that has not swapped anything yet
    assert torch.equal(pickle.loads(pickled)(**text, **context).logits, want)


def test_checkpointed_layers_have_the_same_gradients(batch):
    text, context = batch
    gradients = []
    for checkpointing in (False, True):
        model = build("mistral").train()
        insert_cross_attention(model, CrossAttentionOptions(states_size=12))
        torch.manual_seed(2)
        train(model)
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        states = context["cross_states"].clone().requires_grad_(True)
        model(**text, cross_states=states * 2, cross_mask=context["cross_mask"]).logits.square().mean().backward()
        gradients.append([states.grad, *(p.grad for p in model.parameters())])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed)


@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_training_in_mixed_precision(family, batch):
    """Norms come out in float32 and projections in bfloat16; the sublayer must bring them together."""
    model = build(family).train()
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    train(model)
    text, context = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(**text, **context).logits.float().square().mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for s in cross_attentions(model) for p in [s.k_proj.weight])


def test_inserting_twice_is_refused():
    model = build("llama")
    insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    with pytest.raises(VistError, match="already has cross-attention"):
        insert_cross_attention(model, CrossAttentionOptions(states_size=12))
