"""What a supported LLM's layers look like: refusals name the reason, projections are read wherever they are kept."""

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    StableLmConfig,
)

from vist.errors import VistError
from vist.fuse.families import SUPPORTED_FAMILIES, stock_projection
from vist.fuse.insert import CrossAttentionOptions, insert_cross_attention

SMALL = {
    "vocab_size": 61,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
REFUSED = {
    r"'gemma2' \(sandwich norm\): its layers normalise after each sublayer too": Gemma2Config(**SMALL, head_dim=8),
    r"'gemma3_text' \(sandwich norm\)": Gemma3TextConfig(**SMALL, head_dim=8),
    r"'olmo2' \(post-norm\): its layers have no input_layernorm": Olmo2Config(**SMALL),
    r"'opt' \(feed-forward without a module of its own\): .* mlp": OPTConfig(
        vocab_size=61, hidden_size=16, num_hidden_layers=1, ffn_dim=24, num_attention_heads=2, word_embed_proj_dim=16
    ),
    "GPT2LMHeadModel has no list of decoder layers": GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2),
    r"'gpt_neox' \(no self-attention under that name\)": GPTNeoXConfig(
        vocab_size=61, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    ),
    r"'cohere' \(parallel attention and feed-forward\): .* post_attention_layernorm": CohereConfig(**SMALL),
    r"'granite' \(scaled residuals\)": GraniteConfig(**SMALL, residual_multiplier=0.5),
    r"'stablelm' \(LayerNorm\)": StableLmConfig(**SMALL),
    r"'deepseek_v3' \(latent attention\)": DeepseekV3Config(
        **{**SMALL, "num_key_value_heads": 2}, **LATENT, first_k_dense_replace=1
    ),
    "'gemma' is not tested for bit-equality with stock": GemmaConfig(**SMALL, head_dim=8),
}


@pytest.mark.parametrize("reason", REFUSED, ids=[config.model_type for config in REFUSED.values()])
def test_other_architectures_are_refused_with_the_reason(reason):
    model = AutoModelForCausalLM.from_config(REFUSED[reason])
    before = [type(module) for module in model.modules()]
    with pytest.raises(VistError, match=reason) as caught:
        insert_cross_attention(model, CrossAttentionOptions(states_size=12))
    assert all(family in str(caught.value) for family in SUPPORTED_FAMILIES) and "\n" not in str(caught.value)
    assert [type(module) for module in model.modules()] == before


@torch.no_grad()
def test_the_parts_of_a_fused_projection_are_those_the_stock_forward_uses():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Phi3Config(**SMALL)).eval()
    attention, hidden = model.model.layers[0].self_attn, torch.randn(1, 3, 16)
    seen = {}

    def kernel(module, query, key, value, mask, **_):
        seen.update(q_proj=query, k_proj=key, v_proj=value)
        return torch.zeros(1, 3, 2, 8), None

    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("spy", kernel)
    attention.config._attn_implementation = "spy"
    still = torch.ones(1, 3, 8), torch.zeros(1, 3, 8)  # positions that rotate nothing
    attention(hidden, still, None)
    for name, states in seen.items():
        weight, bias = stock_projection(attention, name)
        assert bias is None
        torch.testing.assert_close(hidden @ weight.T, states.transpose(1, 2).flatten(2))


class Quantised(nn.Module):
    """A linear layer that, like those of quantisation libraries, keeps packed bytes where the weight was."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.hidden, self.bias = linear, linear.bias
        self.weight = nn.Parameter(torch.zeros(7, dtype=torch.uint8), requires_grad=False)

    def forward(self, states):
        return self.hidden(states.float()).to(states.dtype)


@torch.no_grad()
def test_a_quantised_projection_is_read_from_what_it_does():
    torch.manual_seed(0)
    attention = nn.Module()
    attention.q_proj = Quantised(nn.Linear(6, 4))
    weight, bias = stock_projection(attention, "q_proj")
    stock = attention.q_proj.hidden
    torch.testing.assert_close(weight.float(), stock.weight, atol=0.02, rtol=0)
    assert torch.equal(bias, stock.bias)
