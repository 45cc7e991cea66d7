"""The cross-attention sublayer against attention written out with loops."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

from vist.fuse.cross_attention import CrossAttention

SHAPE = {"hidden_size": 16, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4}


def build(states_size=12, kernel="sdpa", gate=False, norm=True, output_gate=False, trained=True, subtokens=False):
    config = LlamaConfig(**SHAPE, attn_implementation=kernel)
    options = {"gate": gate, "norm": norm, "output_gate": output_gate, "subtokens": subtokens}
    cross = CrossAttention(config, states_size, layer_idx=0, **options)
    if trained:
        for parameter in cross.parameters():
            nn.init.normal_(parameter, std=0.5)
    return cross


def inputs(batch=2, text=5, tokens=7, states_size=12):
    hidden, states = torch.randn(batch, text, 16), torch.randn(batch, tokens, states_size)
    mask = torch.rand(batch, 1, 1, tokens) > 0.4
    mask[..., 0] = True
    return hidden, states, mask


def slow(cross, hidden, states, mask):
    """Query by query and head by head, two query heads to each key/value head, no positions, no causality."""
    out = torch.zeros_like(hidden)
    for b in range(hidden.shape[0]):
        visible = states[b, mask[b, 0, 0]]
        for t in range(hidden.shape[1]):
            normed = hidden[b, t] if cross.norm is None else cross.norm(hidden[b, t])
            query = cross.q_proj(normed).view(4, 4)
            heads = []
            for head in range(4):
                keys = torch.stack([cross.k_proj(s).view(2, 4)[head // 2] for s in visible])
                values = torch.stack([cross.v_proj(s).view(2, 4)[head // 2] for s in visible])
                heads.append((keys @ query[head] / 2.0).softmax(0) @ values)
            heads = torch.cat(heads)
            read = cross.o_proj(heads if cross.g_proj is None else heads * cross.g_proj(normed))
            out[b, t] = read if cross.gate is None else read * torch.tanh(cross.gate)
    return out


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize(
    ("gate", "norm", "output_gate"),
    [(False, True, False), (True, True, False), (False, False, False), (False, True, True), (True, False, True)],
)
@torch.no_grad()
def test_attention_equals_the_loop(kernel, gate, norm, output_gate):
    cross = build(kernel=kernel, gate=gate, norm=norm, output_gate=output_gate)
    hidden, states, mask = inputs()
    out = cross(hidden, cross.project(states), mask)
    torch.testing.assert_close(out, slow(cross, hidden, states, mask), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@torch.no_grad()
def test_sub_tokens_are_keys_that_every_head_sees_beside_a_null_key(kernel):
    cross = build(kernel=kernel, subtokens=True)
    hidden, states, mask = inputs()
    expected = torch.zeros_like(hidden)
    for b in range(hidden.shape[0]):
        visible = states[b, mask[b, 0, 0]]
        keys = [part for state in visible for part in cross.k_proj(state).view(2, 4)] + [cross.null_key]
        values = [part for state in visible for part in cross.v_proj(state).view(2, 4)] + [torch.zeros(4)]
        for t in range(hidden.shape[1]):
            query = cross.q_proj(cross.norm(hidden[b, t])).view(4, 4)
            heads = [(torch.stack(keys) @ one / 2.0).softmax(0) @ torch.stack(values) for one in query]
            expected[b, t] = cross.o_proj(torch.cat(heads))
    kv = cross.project(states)
    assert kv.shape == (2, 2, 1, 2 * 7 + 1, 4)
    torch.testing.assert_close(cross(hidden, kv, mask), expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_without_a_mask_every_text_token_sees_every_visual_token():
    """A module that does not say `is_causal = False` would be masked like self-attention."""
    cross = build()
    hidden, states, mask = inputs()
    out = cross(hidden, cross.project(states))
    torch.testing.assert_close(out, slow(cross, hidden, states, torch.ones_like(mask)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("subtokens", [False, True])
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_sample_without_context_reads_exactly_zero_and_has_finite_gradients(kernel, subtokens):
    cross = build(kernel=kernel, subtokens=subtokens)
    hidden, states, mask = inputs()
    mask[1] = False
    hidden.requires_grad_(True)
    out = cross(hidden, cross.project(states), mask)
    assert not out[1].any() and out[0].abs().min() > 0
    out.square().sum().backward()
    assert hidden.grad.isfinite().all() and not hidden.grad[1].any()
    assert all(parameter.grad.isfinite().all() for parameter in cross.parameters())


@pytest.mark.parametrize("subtokens", [False, True])
@torch.no_grad()
def test_masked_tokens_change_nothing(subtokens):
    cross = build(subtokens=subtokens)
    hidden, states, mask = inputs()
    changed = torch.where(mask.squeeze(1).transpose(1, 2), states, states + 9)
    assert torch.equal(cross(hidden, cross.project(changed), mask), cross(hidden, cross.project(states), mask))


@pytest.mark.parametrize("subtokens", [False, True])
def test_an_empty_context_reads_zero(subtokens):
    cross = build(subtokens=subtokens)
    hidden, states, mask = inputs()
    assert not cross(hidden, cross.project(states[:, :0]), mask[..., :0]).any()


@pytest.mark.parametrize("gate", [False, True])
def test_untrained_output_is_exactly_zero_but_can_learn(gate):
    cross = build(gate=gate, trained=False)
    hidden, states, mask = inputs()
    out = cross(hidden, cross.project(states), mask)
    assert not out.any()
    out.sum().backward()
    learning = cross.gate if gate else cross.o_proj.weight
    assert learning.grad.any()


@pytest.mark.parametrize("states_size", [12, 16, 20])
@torch.no_grad()
def test_copied_weights_are_those_of_self_attention(states_size):
    config = LlamaConfig(**SHAPE)
    stock, norm = LlamaAttention(config, layer_idx=0), LlamaRMSNorm(16)
    nn.init.normal_(norm.weight)
    cross = build(states_size=states_size, gate=True)
    cross.match(stock)
    cross.copy_from(stock, norm)
    shared = min(states_size, 16)
    for name in ("k_proj", "v_proj"):
        copied, source = getattr(cross, name).weight, getattr(stock, name).weight
        assert torch.equal(copied[:, :shared], source[:, :shared]) and not copied[:, shared:].any()
    assert torch.equal(cross.q_proj.weight, stock.q_proj.weight)
    assert torch.equal(cross.o_proj.weight, stock.o_proj.weight)
    assert torch.equal(cross.norm.weight, norm.weight)


@torch.no_grad()
def test_an_output_gate_starts_open():
    torch.manual_seed(0)
    plain = build(trained=False)
    torch.manual_seed(0)
    gated = build(output_gate=True, trained=False)
    gated.load_state_dict(plain.state_dict(), strict=False)
    for cross in (plain, gated):
        nn.init.eye_(cross.o_proj.weight)
    hidden, states, mask = inputs()
    torch.testing.assert_close(gated(hidden, gated.project(states), mask), plain(hidden, plain.project(states), mask))


def test_without_a_gate_the_output_projection_is_not_copied():
    stock = LlamaAttention(LlamaConfig(**SHAPE), layer_idx=0)
    cross = build(trained=False)
    cross.copy_from(stock, LlamaRMSNorm(16))
    assert not cross.o_proj.weight.any() and torch.equal(cross.q_proj.weight, stock.q_proj.weight)


@torch.no_grad()
def test_biases_and_head_norms_come_along_where_the_family_has_them():
    qwen2 = Qwen2Attention(Qwen2Config(**{k: v for k, v in SHAPE.items() if k != "head_dim"}), layer_idx=0)
    qwen3 = Qwen3Attention(Qwen3Config(**SHAPE), layer_idx=0)
    nn.init.normal_(qwen2.k_proj.bias)
    nn.init.normal_(qwen3.k_norm.weight)
    for stock in (qwen2, qwen3):
        cross = build()
        cross.match(stock)
        cross.copy_from(stock, LlamaRMSNorm(16))
        stock_names = {name.rsplit(".", 1)[0] + "." + name.rsplit(".", 1)[1] for name, _ in stock.named_parameters()}
        assert stock_names <= {name for name, _ in cross.named_parameters()}
        assert torch.equal(cross.k_proj.weight, stock.k_proj.weight[:, :12])
    assert torch.equal(cross.k_norm.weight, qwen3.k_norm.weight)
    hidden, states, _ = inputs()
    key = cross.project(states)[:, 0].transpose(1, 2)
    torch.testing.assert_close(key, qwen3.k_norm(cross.k_proj(states).unflatten(-1, (2, 4))))
