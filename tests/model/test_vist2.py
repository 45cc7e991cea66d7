"""VIST2's teacher-forced forward: the stock LLM without pages, and what a later token can and cannot see."""

import pytest
import torch
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from tiny_vist2 import FAMILIES, STYLE, some_ids, tiny_llm, tiny_processor, tiny_tower, tiny_vist2
from vist.errors import VistError
from vist.fuse.interleave import Role
from vist.model.vist2 import Vist2ForCausalLM
from vist.render import PageStyle

TEXT, KEPT, VISUAL = int(Role.TEXT), int(Role.KEPT), int(Role.VISUAL)


@pytest.fixture(scope="module")
def model():
    return tiny_vist2()


@pytest.fixture(scope="module")
def batch():
    return dict(tiny_processor().interleaved([some_ids(200), some_ids(90, 300)]))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_without_pages_it_is_the_stock_model(family):
    stock, model = tiny_llm(family), tiny_vist2(family)
    ids = torch.tensor([some_ids(60)])
    assert torch.equal(model(input_ids=ids).logits, stock(input_ids=ids).logits)
    assert torch.equal(model(input_ids=ids, labels=ids).loss, stock(input_ids=ids, labels=ids).loss)


@torch.no_grad()
def test_text_that_all_stays_is_the_stock_model_too(model):
    ids = torch.tensor([some_ids(60)])
    roles, zeros = torch.full_like(ids, KEPT), torch.zeros_like(ids)
    out = model(input_ids=ids, roles=roles, spans=zeros, documents=zeros).logits
    assert torch.allclose(out, model(input_ids=ids).logits, atol=1e-5)


@torch.no_grad()
def test_text_of_past_chunks_changes_no_later_logit_and_pages_do(model, batch):
    logits = model(**batch).logits
    roles, spans = batch["roles"][0], batch["spans"][0]
    first = (roles == TEXT) & (spans == spans[roles == TEXT][0])
    later = torch.arange(len(roles)) > int(first.nonzero().max())
    other_text = dict(batch, input_ids=batch["input_ids"].clone())
    other_text["input_ids"][0, first] = 50
    changed = model(**other_text).logits
    assert torch.equal(changed[0, later], logits[0, later])
    assert not torch.equal(changed[0, first], logits[0, first])
    other_page = dict(batch, pixel_values=batch["pixel_values"].clone())
    other_page["pixel_values"][0, 0] = other_page["pixel_values"][0, 1]
    assert not torch.allclose(model(**other_page).logits[0, later], logits[0, later], atol=1e-3)


@torch.no_grad()
def test_the_page_of_a_chunk_changes_no_logit_of_the_chunks_before(model, batch):
    logits = model(**batch).logits
    owner, places = batch["page_chunks"][0], (batch["roles"][0] == VISUAL).nonzero().flatten()
    for chunk in range(int(owner.max()) + 1):
        pixels = batch["pixel_values"].clone()
        pixels[0, owner == chunk] = 255 - pixels[0, owner == chunk].flip(-1)
        changed = model(**dict(batch, pixel_values=pixels)).logits
        border = int(places[int(batch["visual_counts"][0, :chunk].sum())])
        assert torch.equal(changed[0, :border], logits[0, :border])
        assert not torch.allclose(changed[0, border:], logits[0, border:], atol=1e-3)
        assert torch.equal(changed[1], logits[1])


def test_the_gradient_with_respect_to_past_text_is_exactly_zero(model, batch):
    embeds = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
    given = {name: value for name, value in batch.items() if name != "input_ids"}
    logits = model(inputs_embeds=embeds, **given).logits
    roles, spans = batch["roles"][0], batch["spans"][0]
    last = roles.nonzero().max()
    logits[0, last].square().sum().backward()
    past = (roles == TEXT) & (spans != spans[last])
    assert past.sum() > 20 and (embeds.grad[0, past] == 0).all()
    assert (embeds.grad[0, last] != 0).any()
    assert (embeds.grad[1] == 0).all()


@torch.no_grad()
def test_padding_and_neighbours_change_nothing(model, batch):
    alone = dict(tiny_processor().interleaved([some_ids(90, 300)]))
    length = alone["input_ids"].shape[1]
    assert torch.allclose(model(**batch).logits[1, :length], model(**alone).logits[0], atol=1e-5)


@torch.no_grad()
def test_packed_documents_are_what_they_are_alone(model):
    processor = tiny_processor()
    texts = [processor.sequence(some_ids(90)), processor.sequence(some_ids(70, 300))]
    packed = model(**processor.pack([texts])).logits[0]
    alone = [model(**processor.pack([[text]])).logits[0] for text in texts]
    assert torch.allclose(packed, torch.cat(alone), atol=1e-5)


@torch.no_grad()
def test_eager_and_sdpa_agree(model, batch):
    sdpa = model(**batch).logits
    eager = tiny_vist2()
    eager.set_attn_implementation("eager")
    real = batch["roles"] != 0
    assert torch.allclose(eager(**batch).logits[real], sdpa[real], atol=1e-4)


@torch.no_grad()
def test_flex_attention_agrees(model, batch, monkeypatch):
    """The block mask through the whole model; the kernel itself runs unfused, as no compiler is asked for."""
    from torch.nn.attention.flex_attention import flex_attention
    from transformers.integrations import flex_attention as integration

    def unfused(*args, training=False, **kwargs):
        return flex_attention(*args, **kwargs)

    monkeypatch.setattr(integration, "compile_friendly_flex_attention", unfused)
    flex = tiny_vist2()
    flex.language_model.set_attn_implementation("flex_attention")
    assert flex.language_model.config._attn_implementation == "flex_attention"
    real = batch["roles"] != 0
    assert torch.allclose(flex(**batch).logits[real], model(**batch).logits[real], atol=1e-4)


@torch.no_grad()
def test_the_loss_is_over_the_places_that_predict(model, batch):
    out = model(**batch)
    targets = batch["shift_labels"]
    picked = out.logits.log_softmax(-1).gather(2, targets.clamp(min=0)[..., None])[..., 0]
    assert torch.allclose(out.loss, -picked[targets != -100].mean(), atol=1e-5)


def test_training_reaches_aligner_and_llm_but_not_the_tower():
    model = tiny_vist2(aligner_layers=1).train()
    model(**tiny_processor().interleaved([some_ids(120)])).loss.backward()
    moved = {
        name for name, parameter in model.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }
    assert any(name.startswith("aligner.mlp") for name in moved) and any("self_attn" in name for name in moved)
    assert not any(name.startswith("vision_tower") for name in moved) and not model.vision_tower.training


TOWERS = {
    "clip": (CLIPVisionModel, CLIPVisionConfig, {"image_size": 42, "patch_size": 14}),
    "siglip": (SiglipVisionModel, SiglipVisionConfig, {"image_size": 42, "patch_size": 14}),
    "siglip2": (Siglip2VisionModel, Siglip2VisionConfig, {"patch_size": 14, "num_patches": 9}),
}


@pytest.mark.parametrize("name", TOWERS)
@pytest.mark.parametrize("aligner", ["shuffle", "resampler"])
@torch.no_grad()
def test_other_towers_and_aligners(name, aligner):
    tower, config, shape = TOWERS[name]
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, **shape}
    options = {"aligner": aligner, "aligner_layers": 1, "aligner_heads": 4, "max_visual_tokens": 8}
    model = Vist2ForCausalLM.from_backbones(tiny_llm(), tower(config(**shape)), **options).eval()
    square = PageStyle(name="square", width=42, height=42, font_size=5)
    batch = tiny_processor(style=square, max_visual_tokens=8).interleaved([some_ids(100)])
    changed = dict(batch, pixel_values=batch["pixel_values"].flip(1))
    logits = model(**batch).logits
    assert logits.isfinite().all() and not torch.equal(model(**changed).logits, logits)


def test_what_does_not_fit_is_refused(model, batch):
    fewer = dict(batch, visual_counts=batch["visual_counts"].clone())
    fewer["visual_counts"][1, 0] -= 1
    with pytest.raises(VistError, match="Sample 1 has .* places for visual tokens but its pages bring"):
        model(**fewer)
    wide = Vist2ForCausalLM.from_backbones(tiny_llm(), tiny_tower((56, 112)), aligner_heads=4)
    with pytest.raises(VistError, match="3 x 8 cells but the vision tower sees 4 x 8"):
        wide(**batch)
    tight = tiny_vist2(patches_per_token=1)
    with pytest.raises(VistError, match="at most 1 patches per token"):
        tight(**batch)
    with pytest.raises(VistError, match="'gpt2' is not tested with VIST2"):
        from transformers import GPT2Config, GPT2LMHeadModel

        small = GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=50, n_positions=32)
        Vist2ForCausalLM.from_backbones(GPT2LMHeadModel(small), tiny_tower())
    assert STYLE.rows == 3
