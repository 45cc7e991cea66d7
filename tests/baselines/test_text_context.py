"""CEPE*, pooling and the convolutional encoder: each against a slow version, and all as models like VIST."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import vist
from tiny_backbones import tiny_llm, tiny_tokenizer
from vist.baselines.cepe import CepeEncoder
from vist.baselines.configuration import TextContextConfig
from vist.baselines.hierarchical import HierarchicalEncoder, block_ratios
from vist.baselines.pooled import PooledEncoder
from vist.baselines.processing import TextContextProcessor
from vist.baselines.text_context import TextContextForConditionalGeneration
from vist.errors import VistError
from vist.fuse.insert import cross_attentions

CEPE = {"encoder": "cepe", "chunk_size": 4, "encoder_size": 16, "encoder_layers": 2, "encoder_heads": 2}
CHOICES = {
    "pooled": {"encoder": "pooled", "ratio": 2.65},
    "hierarchical": {"encoder": "hierarchical", "ratio": 2.65},
    "cepe": CEPE,
    "cepe with gate": {**CEPE, "cross_gate": True},
    "cepe without norm": {**CEPE, "cross_norm": False},
    "pooled like vist-nano": {"ratio": 2, "cross_output_gate": True, "cross_subtokens": True},
}


def build(name: str, trained: bool = True) -> TextContextForConditionalGeneration:
    model = TextContextForConditionalGeneration.from_language_model(tiny_llm(), **CHOICES[name]).eval()
    if trained:
        torch.manual_seed(1)
        for parameter in model.encoder.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        for sublayer in cross_attentions(model.language_model):
            torch.nn.init.normal_(sublayer.o_proj.weight, std=0.3)
            if sublayer.gate is not None:
                torch.nn.init.constant_(sublayer.gate, 0.7)
    return model


@pytest.fixture
def batch():
    """Two samples with contexts of 11 and 5 tokens; the second prompt is padded on the left."""
    inputs = {"input_ids": torch.randint(3, 18, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    inputs["input_ids"][1, :2], inputs["attention_mask"][1, :2] = 0, 0
    context = {"context_ids": torch.randint(3, 18, (2, 11)), "context_mask": torch.ones(2, 11, dtype=torch.bool)}
    context["context_mask"][1, 5:] = False
    return {**inputs, **context}


def encoder_of(kind, **choices):
    config = TextContextConfig(text_config=tiny_llm().config, **choices)
    encoder = kind(config).eval()
    torch.manual_seed(2)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return config, encoder


@pytest.mark.parametrize("ratio", [1, 2, 2.65, 4])
@torch.no_grad()
def test_pooling_is_the_mean_of_each_group(ratio):
    config, encoder = encoder_of(PooledEncoder, ratio=ratio)
    embedded, mask = torch.randn(2, 11, 32), torch.ones(2, 11, dtype=torch.bool)
    mask[1, 6:] = False
    states, alive = encoder(None, embedded, mask)
    for sample, length in ((0, 11), (1, 6)):
        groups: dict[int, list] = {}
        edges = [int(number * ratio) for number in range(12)]
        for token in range(length):
            groups.setdefault(sum(edge <= token for edge in edges) - 1, []).append(embedded[sample, token])
        want = torch.stack([encoder.norm(torch.stack(found).mean(0)) for found in groups.values()])
        assert alive[sample].sum() == len(groups) and alive[sample, : len(groups)].all()
        torch.testing.assert_close(states[sample, : len(groups)], want)
        tokens = [number for number, found in enumerate(groups.values()) for _ in found]
        assert PooledEncoder.tokens_of(config, length).tolist() == tokens


def layer_norm(norm, row):
    centred = row - row.mean()
    return centred / (centred.square().mean() + norm.eps).sqrt() * norm.weight + norm.bias


def slow_block(block, rows, ratio):
    """One residual block token by token; tokens beyond the ends are zeros."""
    zero = torch.zeros_like(rows[0])
    at = lambda seq, place: seq[place] if 0 <= place < len(seq) else zero  # noqa: E731
    seen = []
    for place in range(len(rows)):
        read = sum(block.conv1.weight[:, :, tap] @ at(rows, place + tap - 2) for tap in range(5))
        seen.append(F.gelu(layer_norm(block.norm1, read)))
    out, number = [], 0
    while int(number * ratio) < len(rows):
        first, last = int(number * ratio), min(int((number + 1) * ratio), len(rows))
        read = sum(block.conv2.weight[:, :, tap] @ at(seen, first + tap - 1) for tap in range(3))
        out.append(F.gelu(layer_norm(block.norm2, read) + torch.stack(rows[first:last]).mean(0)))
        number += 1
    return out


@pytest.mark.parametrize("ratio", [2, 2.65, 4])
@torch.no_grad()
def test_the_pyramid_is_that_of_its_definition(ratio):
    config, encoder = encoder_of(HierarchicalEncoder, ratio=ratio)
    assert len(encoder.blocks) == (1 if ratio == 2 else 2)
    embedded, mask = torch.randn(2, 11, 32), torch.ones(2, 11, dtype=torch.bool)
    mask[1, 6:] = False
    states, alive = encoder(None, embedded, mask)
    for sample, length in ((0, 11), (1, 6)):
        rows = list(embedded[sample, :length])
        for block in encoder.blocks:
            rows = slow_block(block, rows, ratio ** (1 / len(encoder.blocks)))
        assert int(alive[sample].sum()) == len(rows)
        want = torch.stack([layer_norm(encoder.norm, row) for row in rows])
        torch.testing.assert_close(states[sample, : len(rows)], want, rtol=1e-4, atol=1e-4)
        tokens = HierarchicalEncoder.tokens_of(config, length)
        assert int(tokens[-1]) == len(rows) - 1 and (tokens.diff() >= 0).all() and (tokens.diff() <= 1).all()


@torch.no_grad()
def test_a_block_of_ratio_two_is_a_strided_convolution():
    """The published block: stride 2, padding 1, average pooling over pairs."""
    _, encoder = encoder_of(HierarchicalEncoder, ratio=2)
    block, rows = encoder.blocks[0], torch.randn(1, 32, 10)
    seen = F.gelu(block.norm1(F.conv1d(rows, block.conv1.weight, padding=2).mT)).mT
    main = block.norm2(F.conv1d(seen, block.conv2.weight, stride=2, padding=1).mT)
    want = F.gelu(main + F.adaptive_avg_pool1d(rows, 5).mT)
    got, _ = block(rows.mT, torch.ones(1, 10, dtype=torch.bool))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_blocks_share_the_ratio():
    assert block_ratios(2) == [2] and block_ratios(4) == [2, 2] and block_ratios(8) == [2, 2, 2]
    assert np.prod(block_ratios(5.3)) == pytest.approx(5.3) and max(block_ratios(5.3)) <= 2


@torch.no_grad()
def test_cepe_reads_each_chunk_alone():
    _, encoder = encoder_of(CepeEncoder, **CEPE)
    ids, mask = torch.randint(3, 18, (2, 11)), torch.ones(2, 11, dtype=torch.bool)
    mask[1, 5:] = False
    states, alive = encoder(ids, torch.zeros(2, 11, 32), mask)
    assert torch.equal(alive, mask)
    for sample, length in ((0, 11), (1, 5)):
        chunks = ids[sample, :length].split(4)
        want = torch.cat([encoder.roberta(chunk[None]).last_hidden_state[0] for chunk in chunks])
        torch.testing.assert_close(states[sample, :length], want, rtol=1e-4, atol=1e-5)
    moved = ids.clone()
    moved[0, 4] = (moved[0, 4] - 3 + 1) % 15 + 3
    changed = (encoder(moved, torch.zeros(2, 11, 32), mask)[0] != states).any(-1)[0].tolist()
    assert changed == [False] * 4 + [True] * 4 + [False] * 3  # both ways inside the chunk, nowhere else


@pytest.mark.parametrize("name", CHOICES)
@torch.no_grad()
def test_untrained_is_the_stock_model_bit_for_bit(name, batch):
    stock, model = tiny_llm(), build(name, trained=False)
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    assert torch.equal(model(**batch).logits, stock(**text).logits)


@pytest.mark.parametrize("name", CHOICES)
@torch.no_grad()
def test_round_trip_is_bit_equal(name, batch, tmp_path):
    model = build(name)
    model.save_pretrained(tmp_path)
    TextContextProcessor(tiny_tokenizer(), style="vist-7").save_pretrained(tmp_path)
    again, processor = vist.load(tmp_path)
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys() and all(torch.equal(state[key], loaded[key]) for key in state)
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.trainable_parameters().keys() == model.trainable_parameters().keys()
    assert type(processor) is TextContextProcessor and processor.page_style.name == "vist-7"


@pytest.mark.parametrize("name", CHOICES)
@torch.no_grad()
def test_a_context_counts_and_padding_does_not(name, batch):
    model = build(name)
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    logits = model(**batch).logits
    assert not torch.allclose(logits, model(**text).logits, atol=1e-3)
    alone = model(
        input_ids=batch["input_ids"][1:, 2:],
        context_ids=batch["context_ids"][1:, :5],
        context_mask=batch["context_mask"][1:, :5],
    )
    torch.testing.assert_close(logits[1:, 2:], alone.logits, rtol=1e-4, atol=1e-4)
    nothing = model(**text, context_ids=batch["context_ids"], context_mask=torch.zeros(2, 11, dtype=torch.bool))
    torch.testing.assert_close(nothing.logits, model(**text).logits)


@pytest.mark.parametrize("name", ["pooled", "hierarchical", "cepe"])
@torch.no_grad()
def test_generation_is_cached_and_takes_a_shared_context(name, batch):
    model, options = build(name), {"max_new_tokens": 5, "do_sample": False}
    out = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, use_cache=False), out)
    context = model.encode_context(batch["context_ids"], batch["context_mask"])
    text = {key: batch[key] for key in ("input_ids", "attention_mask")}
    cross_kv = model.project_context(context.states)
    assert torch.equal(model.generate(**text, cross_kv=cross_kv, cross_mask=context.mask, **options), out)
    with pytest.raises(VistError, match="context_mask"):
        model(input_ids=batch["input_ids"], context_ids=batch["context_ids"])


def test_only_encoder_and_cross_attention_learn(batch):
    model = build("hierarchical")
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    learned = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learned == set(model.trainable_parameters())
    assert all("cross_attn" in name or name.startswith("encoder.") for name in learned)


def test_the_processor_keeps_the_text_as_text():
    processor = TextContextProcessor(tiny_tokenizer())
    inputs = processor(context=["the cat sat on the mat", None], prompt=["then", "a dog ran"])
    assert inputs["context_ids"].shape == (2, 6) and inputs["context_mask"].sum(1).tolist() == [6, 0]
    assert processor.tokenizer.decode(inputs["context_ids"][0]) == "the cat sat on the mat"
    assert "context_ids" not in processor(prompt="then")
    with pytest.raises(VistError, match="max_pages"):
        processor(context="the cat", prompt="then", max_pages=3)


@pytest.mark.parametrize(
    ("choices", "message"),
    [({"encoder": "wavelet"}, "wavelet"), ({"ratio": 0.5}, "0.5"), ({"encoder": "cepe", "encoder_heads": 5}, "heads")],
)
def test_impossible_choices_are_named(choices, message):
    with pytest.raises(VistError, match=message):
        TextContextConfig(text_config=tiny_llm().config, **choices)
