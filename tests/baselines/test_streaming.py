"""StreamingLLM against its definition written out: unrotated keys, positions counted inside the cache."""

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from tiny_backbones import VOCABULARY, tiny_llm
from vist.baselines.streaming import StreamingCache, StreamingModel, read
from vist.errors import VistError

SINKS, WINDOW = 2, 5


def tiny_qwen():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3Config(vocab_size=len(VOCABULARY), num_key_value_heads=2, head_dim=8, initializer_range=0.4, **shape)
    return Qwen3ForCausalLM(config).eval()


def rotated(states_HD, position, inv_freq):
    angle = position * inv_freq
    cos, sin = torch.cat([angle.cos()] * 2), torch.cat([angle.sin()] * 2)
    half = states_HD.shape[-1] // 2
    return states_HD * cos + torch.cat([-states_HD[:, half:], states_HD[:, :half]], dim=-1) * sin


def slow_stream(model, ids):
    """Logits after each token: one token at a time, every key rotated anew by its place in the cache."""
    decoder, inv_freq = model.model, model.model.rotary_emb.inv_freq
    kept = [[] for _ in decoder.layers]
    found = []
    for token in ids:
        hidden = decoder.embed_tokens(token)
        for layer, memory in zip(decoder.layers, kept, strict=True):
            attn, normed = layer.self_attn, layer.input_layernorm(hidden)
            query, key, value = (getattr(attn, f"{name}_proj")(normed).view(-1, attn.head_dim) for name in "qkv")
            if hasattr(attn, "q_norm"):
                query, key = attn.q_norm(query), attn.k_norm(key)
            memory.append((key, value))
            if len(memory) > SINKS + WINDOW:
                del memory[SINKS]
            query = rotated(query, len(memory) - 1, inv_freq)
            keys = torch.stack([rotated(key, place, inv_freq) for place, (key, _) in enumerate(memory)])
            values = torch.stack([value for _, value in memory])
            groups = query.shape[0] // keys.shape[1]
            keys, values = keys.repeat_interleave(groups, dim=1), values.repeat_interleave(groups, dim=1)
            weights = (torch.einsum("hd,chd->hc", query, keys) * attn.head_dim**-0.5).softmax(-1)
            hidden = hidden + attn.o_proj(torch.einsum("hc,chd->hd", weights, values).flatten())
            hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
        found.append(model.lm_head(decoder.norm(hidden)))
    return torch.stack(found)


@pytest.mark.parametrize("build", [tiny_llm, tiny_qwen])
@torch.no_grad()
def test_token_by_token_is_the_definition(build):
    model = build()
    ids = torch.randint(3, 18, (20,))
    want = slow_stream(model, ids)
    cache = StreamingCache(model, WINDOW, SINKS)
    got = torch.cat([model(token[None, None], past_key_values=cache).logits[0] for token in ids])
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert cache.layers[0].keys.shape[-2] == SINKS + WINDOW and cache.get_seq_length() == 20
    reading = StreamingModel(model, SINKS + WINDOW, SINKS)
    out = reading(ids[None, [0, 18, 19]], context_ids=ids[None, 1:18])  # start token, context, rest of the prompt
    torch.testing.assert_close(out.logits[0], want[17:].log_softmax(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("build", [tiny_llm, tiny_qwen])
@pytest.mark.parametrize("block", [2, 5, 6, 64])
@torch.no_grad()
def test_blocks_give_the_numbers_of_token_by_token(build, block, monkeypatch):
    monkeypatch.setattr("vist.baselines.streaming.BLOCK", block)
    model = build()
    ids = torch.randint(3, 18, (30,))
    want, cache = slow_stream(model, ids), StreamingCache(model, WINDOW, SINKS)
    first = read(model, ids[:5], cache, keep=5)
    second = read(model, ids[5:24], cache, keep=3)
    third = torch.cat([model(token[None, None], past_key_values=cache).logits[0] for token in ids[24:26]])
    last = read(model, ids[26:], cache, keep=4)
    got = torch.cat([first, second, third, last])
    torch.testing.assert_close(got, torch.cat([want[:5], want[21:]]), rtol=1e-4, atol=1e-4)
    assert cache.layers[0].keys.shape[-2] == SINKS + WINDOW and cache.get_seq_length() == 30


@torch.no_grad()
def test_a_block_may_cross_the_caches_edge():
    model, ids = tiny_llm(), torch.randint(3, 18, (16,))
    cache = StreamingCache(model, WINDOW, SINKS)
    first = model(ids[None, :4], past_key_values=cache).logits[0]
    mask = cache.mask(12, model.dtype, model.device)  # three of the twelve fit
    rest = model(ids[None, 4:], attention_mask=mask, past_key_values=cache).logits[0]
    torch.testing.assert_close(torch.cat([first, rest]), slow_stream(model, ids), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_sinks_it_is_a_sliding_window():
    model, ids = tiny_qwen(), torch.randint(3, 18, (19,))
    distance = torch.arange(19)[:, None] - torch.arange(19)
    band = torch.where((distance >= 0) & (distance < 6), 0.0, -torch.inf)[None, None]
    want = model(ids[None], attention_mask=band).logits[0]
    torch.testing.assert_close(read(model, ids, StreamingCache(model, 6, 0), keep=19), want, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_what_fits_is_read_as_ever_and_blocks_that_overflow_are_refused():
    model, ids = tiny_llm(), torch.randint(3, 18, (1, 12))
    cache = StreamingCache(model, 20, SINKS)
    torch.testing.assert_close(model(ids, past_key_values=cache).logits, model(ids).logits)
    cache = StreamingCache(model, 8, SINKS)
    first = model(ids[:, :9], past_key_values=cache).logits
    torch.testing.assert_close(first, model(ids[:, :9]).logits)
    with pytest.raises(VistError, match="3 tokens at once do not fit .*streaming.read"):
        model(ids[:, 9:], past_key_values=cache)
    with pytest.raises(VistError, match="11 tokens at once do not fit"):
        model(ids[:, :11], past_key_values=StreamingCache(model, 8, SINKS))


@torch.no_grad()
def test_it_generates_beyond_the_llms_length():
    model = tiny_llm()
    ids = torch.randint(3, 18, (25,))
    reading = StreamingModel(model, SINKS + WINDOW, SINKS)
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    out = reading.generate(ids[None, [0, 24]], context_ids=ids[None, 1:24], **options)
    row = ids.tolist()
    for _ in range(4):
        logits = slow_stream(model, torch.tensor(row))[-1]
        logits[2] = -torch.inf  # the end of the text may not come yet
        row.append(int(logits.argmax()))
    assert out[0, 2:].tolist() == row[25:]


@torch.no_grad()
def test_batches_are_rows_and_padding_is_left_out():
    reading = StreamingModel(tiny_llm(), 9)
    ids, context = torch.randint(3, 18, (2, 4)), torch.randint(3, 18, (2, 14))
    mask, context_mask = torch.ones_like(ids), torch.ones_like(context)
    mask[1, :2], context_mask[1, 6:] = 0, 0
    encoded = reading.encode_context(context, context_mask)
    text = {"input_ids": ids, "attention_mask": mask}
    got = reading(**text, cross_kv=reading.project_context(encoded.states), cross_mask=encoded.mask).logits
    alone = reading(ids[1:, 2:], context_ids=context[1:, :6]).logits
    torch.testing.assert_close(got[1:, 2:], alone)
    assert (got[1, :2] == 0).all() and got.shape == (2, 4, len(VOCABULARY))


@torch.no_grad()
def test_probabilities_of_a_model_in_half_precision_add_up():
    ids = torch.randint(3, 18, (1, 12))
    got = StreamingModel(tiny_llm().to(torch.bfloat16), 9)(ids[:, :4], context_ids=ids[:, 4:]).logits
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(1, 4))


def test_refusals():
    with pytest.raises(VistError, match="at least one"):
        StreamingCache(tiny_llm(), 0)
    with pytest.raises(VistError, match="at least one"):
        StreamingCache(tiny_llm(), 4, -1)
    model = tiny_llm(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(VistError, match="dynamic"):
        StreamingCache(model, 8)
