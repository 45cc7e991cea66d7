"""ToMe and FastV inside a tower: against slow versions, page by page, and VIST around them."""

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

import vist
from tiny_backbones import CHOICES, some_pages, tiny_llm, tiny_tokenizer
from vist.baselines.fastv import AttentionPruning
from vist.baselines.reduced import ReducedVistForConditionalGeneration, reduce_tower
from vist.baselines.tome import TokenMerging
from vist.errors import VistError
from vist.fuse.insert import cross_attentions
from vist.model.processing import VistProcessor
from vist.vision.encoder import encode
from vist.vision.text_vit import TextViTConfig, TextViTModel

SHAPE = {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
REDUCTIONS = {"tome": {"reduction": "tome", "merges": 3}, "fastv": {"reduction": "fastv", "pruned": 0.6}}


def tower_of(kind):
    torch.manual_seed(0)
    image = {"image_size": 56, "patch_size": 14}
    if kind == "text_vit":
        tower = TextViTModel(TextViTConfig(**SHAPE, image_size=(56, 56)))
    elif kind == "clip":
        tower = CLIPVisionModel(CLIPVisionConfig(**SHAPE, **image))
    else:
        tower = SiglipVisionModel(SiglipVisionConfig(**SHAPE, **image))
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower.eval().requires_grad_(False)


def parts(layer, hidden):
    """Queries, keys, values (H,N,Dh), the output projection and the feed-forward of a layer of any tower."""
    if hasattr(layer, "qkv"):
        q, k, v = layer.qkv(layer.norm1(hidden)).chunk(3, dim=-1)
        out, mlp, norm = layer.proj, lambda x: layer.fc2(F.gelu(layer.fc1(x))), layer.norm2
    else:
        attn, normed = layer.self_attn, layer.layer_norm1(hidden)
        q, k, v = attn.q_proj(normed), attn.k_proj(normed), attn.v_proj(normed)
        out, mlp, norm = attn.out_proj, layer.mlp, layer.layer_norm2
    heads = [part.view(len(hidden), 2, 12).transpose(0, 1) for part in (q, k, v)]
    return *heads, out, lambda x: mlp(norm(x))


def slow_tome(layers, hidden, first, merges):
    """One page, token by token: `hidden` (N,D) real tokens only."""
    members = [[number] for number in range(len(hidden))]
    for layer in layers:
        q, k, v, out, mlp = parts(layer, hidden)
        sizes = torch.tensor([float(len(found)) for found in members])
        weights = (q @ k.mT / 12**0.5 + sizes.log()).softmax(-1)
        hidden = hidden + out((weights @ v).transpose(0, 1).flatten(1))
        metric = k.mean(0)
        metric = metric / metric.norm(dim=-1, keepdim=True)
        ours, theirs = range(first, len(hidden), 2), range(first + 1, len(hidden), 2)
        pairs = []
        for a in ours:
            similar = [(float(metric[a] @ metric[b]), b) for b in theirs]
            if similar:
                pairs.append((*max(similar, key=lambda pair: pair[0]), a))
        pairs.sort(key=lambda pair: -pair[0])
        gone = {a: b for _, b, a in pairs[: min(merges, (len(hidden) - first) // 2)]}
        rows, kept = [], []
        for token in range(len(hidden)):
            if token in gone:
                continue
            group = [token, *(a for a, b in gone.items() if b == token)]
            total = sum(sizes[other] for other in group)
            rows.append(sum(hidden[other] * sizes[other] for other in group) / total)
            kept.append([member for other in group for member in members[other]])
        hidden, members = torch.stack(rows), kept
        hidden = hidden + mlp(hidden)
    spread = torch.zeros(sum(len(found) for found in members), hidden.shape[1])
    for row, found in zip(hidden, members, strict=True):
        spread[found] = row
    return spread


def slow_fastv(layers, hidden, first, share, after):
    places = list(range(len(hidden)))
    for number, layer in enumerate(layers, start=1):
        q, k, v, out, mlp = parts(layer, hidden)
        weights = (q @ k.mT / 12**0.5).softmax(-1)
        hidden = hidden + out((weights @ v).transpose(0, 1).flatten(1))
        hidden = hidden + mlp(hidden)
        if number == after:
            got = weights.mean(0).mean(0)[first:]
            stay = len(got) - int(len(got) * share)
            best = sorted(sorted(range(len(got)), key=lambda place: -float(got[place]))[:stay])
            places = [*range(first), *(first + place for place in best)]
            hidden = hidden[places]
    spread = torch.zeros(max(len(places), *(place + 1 for place in places)), hidden.shape[1])
    spread[places] = hidden
    return spread


@pytest.mark.parametrize("kind", ["text_vit", "clip", "siglip"])
@pytest.mark.parametrize("reduction", [TokenMerging(3), AttentionPruning(0.6, 2)], ids=["tome", "fastv"])
@torch.no_grad()
def test_a_tower_is_reduced_page_by_page_as_defined(kind, reduction):
    tower = tower_of(kind)
    layers = list(tower.layers if kind == "text_vit" else tower.encoder.layers)
    first = 1 if kind == "clip" else 0
    hidden, alive = torch.randn(3, 11, 24), torch.ones(3, 11, dtype=torch.bool)
    alive[1, 7:], alive[2, 2 + first :] = False, False
    got = reduction.run(layers, hidden, alive, first)
    for page, length in enumerate(alive.sum(1).tolist()):
        rows = hidden[page, :length]
        if isinstance(reduction, TokenMerging):
            want = slow_tome(layers, rows, first, 3)
        else:
            want = slow_fastv(layers, rows, first, 0.6, 2)
        torch.testing.assert_close(got[page, : len(want)], want, rtol=1e-4, atol=1e-4)
        assert (got[page, len(want) : length] == 0).all()


@pytest.mark.parametrize("kind", ["text_vit", "clip", "siglip"])
@pytest.mark.parametrize("reduction", [TokenMerging(0), AttentionPruning(0.0, 2)], ids=["tome", "fastv"])
@pytest.mark.parametrize("drop_blank", [False, True])
@torch.no_grad()
def test_reducing_nothing_is_the_stock_tower(kind, reduction, drop_blank):
    tower, pages = tower_of(kind), some_pages()
    want = encode(tower, **pages, drop_blank=drop_blank)
    reduce_tower(tower, reduction)
    got = encode(tower, **pages, drop_blank=drop_blank)
    torch.testing.assert_close(got.features, want.features, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["text_vit", "clip", "siglip"])
@torch.no_grad()
def test_fewer_tokens_are_fewer_different_features(kind):
    tower, pages = tower_of(kind), some_pages()
    pages["ink_mask"][:] = True
    reduce_tower(tower, TokenMerging(3))
    for page in encode(tower, **pages).features.flatten(0, 1):
        assert len(page.unique(dim=0)) == 16 - 3 * 3
    tower = tower_of(kind)
    reduce_tower(tower, AttentionPruning(0.75, 1))
    for page in encode(tower, **pages).features.flatten(0, 1):
        assert len(page.unique(dim=0)) == 4 + 1  # and the empty one


def reduced(name, kind="text_vit", trained=True):
    choices = {**CHOICES, **REDUCTIONS[name]}
    model = ReducedVistForConditionalGeneration.from_backbones(tiny_llm(), tower_of(kind), **choices).eval()
    if trained:
        for sublayer in cross_attentions(model.language_model):
            torch.nn.init.normal_(sublayer.o_proj.weight, std=0.3)
    return model


@pytest.fixture
def batch():
    pages = some_pages()
    pages["ink_mask"][1, 1:] = False
    return {"input_ids": torch.randint(3, 18, (2, 6)), **pages}


@pytest.mark.parametrize("name", REDUCTIONS)
@torch.no_grad()
def test_untrained_is_the_stock_model_bit_for_bit(name, batch):
    model = reduced(name, trained=False)
    assert torch.equal(model(**batch).logits, tiny_llm()(batch["input_ids"]).logits)


@pytest.mark.parametrize("kind", ["text_vit", "clip"])
@pytest.mark.parametrize("name", REDUCTIONS)
@torch.no_grad()
def test_round_trip_is_bit_equal_and_reduces_again(name, kind, batch, tmp_path):
    model = reduced(name, kind)
    model.save_pretrained(tmp_path)
    VistProcessor(tiny_tokenizer()).save_pretrained(tmp_path)
    again, _ = vist.load(tmp_path)
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys() and all(torch.equal(state[key], loaded[key]) for key in state)
    assert type(again) is ReducedVistForConditionalGeneration
    logits = model(**batch).logits
    assert torch.equal(again(**batch).logits, logits)
    assert again.trainable_parameters().keys() == model.trainable_parameters().keys()
    runner = again.vision_tower if kind == "text_vit" else again.vision_tower.encoder
    runner.reduction = TokenMerging(0)
    assert not torch.allclose(again(**batch).logits, logits, atol=1e-4)


@torch.no_grad()
def test_padding_pages_change_nothing(batch):
    for name in REDUCTIONS:
        model = reduced(name)
        got = model(**batch).logits[1:]
        alone = {"pixel_values": batch["pixel_values"][1:, :1], "ink_mask": batch["ink_mask"][1:, :1]}
        torch.testing.assert_close(got, model(input_ids=batch["input_ids"][1:], **alone).logits, rtol=1e-4, atol=1e-4)


def test_refusals(tmp_path):
    config = Siglip2VisionConfig(**SHAPE, num_patches=16, patch_size=14)
    with pytest.raises(VistError, match="siglip2"):
        reduce_tower(Siglip2VisionModel(config), TokenMerging(2))
    with pytest.raises(VistError, match="save_pretrained"):
        reduced("tome").save_adapter(tmp_path)
    for choice in ({"reduction": "vote"}, {"merges": -1}, {"pruned": 1.0}, {"prune_after": 9}):
        with pytest.raises(VistError, match=next(iter(choice))):
            ReducedVistForConditionalGeneration.from_backbones(tiny_llm(), tower_of("clip"), **CHOICES, **choice)
