"""The model: what it computes, what trains, what a context costs."""

import copy

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from tiny_backbones import CHOICES, some_pages, tiny_llm, tiny_model, tiny_tower
from vist.compress.pve import pve_loss
from vist.errors import VistError
from vist.fuse.insert import cross_attentions
from vist.model.configuration import VistConfig
from vist.model.vist import VistForConditionalGeneration


def enable_checkpointing(model):
    model.checkpoint_activations()


def text_of(batch):
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize(
    "choices",
    [{}, {"reducer": "local"}, {"cross_gate": True}, {"cross_output_gate": True}, {"resampler_size": 16}],
)
@torch.no_grad()
def test_untrained_model_is_the_llm_bit_for_bit(batch, choices):
    model = tiny_model(trained=False, **choices)
    assert torch.equal(model(**batch).logits, tiny_llm()(**text_of(batch)).logits)


@torch.no_grad()
def test_a_model_built_from_its_config_alone_is_its_llm_too(batch):
    llm, tower = tiny_llm(), tiny_tower((56, 56))
    model = VistForConditionalGeneration(VistConfig(text_config=llm.config, vision_config=tower.config, **CHOICES))
    assert torch.equal(model(**batch).logits, model(**text_of(batch)).logits)
    assert not any(s.o_proj.weight.any() for s in cross_attentions(model.language_model))
    assert model.resampler.latents.std() < 0.05
    assert model.state_dict().keys() == tiny_model().state_dict().keys()


@torch.no_grad()
def test_the_right_page_is_not_the_wrong_page(model, batch):
    read = model(**batch).logits
    other = model(**{**batch, **some_pages(seed=5), "ink_mask": batch["ink_mask"]}).logits
    assert not torch.allclose(read, other, atol=1e-3)
    assert not torch.allclose(read, model(**text_of(batch)).logits, atol=1e-3)


@pytest.mark.parametrize("choices", [{}, {"reducer": "local"}, {"num_page_positions": 2}])
@torch.no_grad()
def test_padding_pages_change_no_logit(batch, choices):
    model = tiny_model(**choices)
    blank = {
        "pixel_values": torch.cat([batch["pixel_values"], torch.full((2, 2, 56, 56), 255, dtype=torch.uint8)], 1),
        "ink_mask": torch.cat([batch["ink_mask"], torch.zeros(2, 2, 4, 4, dtype=torch.bool)], 1),
    }
    assert torch.equal(model(**{**batch, **blank}).logits, model(**batch).logits)


@pytest.mark.parametrize("choices", [{}, {"reducer": "local"}, {"num_page_positions": 2}])
@torch.no_grad()
def test_each_sample_of_a_batch_reads_as_if_alone(batch, choices):
    model = tiny_model(**choices)
    together = model(**batch).logits
    for sample, (first_token, pages) in enumerate([(0, 3), (2, 1)]):
        alone = model(
            batch["input_ids"][sample : sample + 1, first_token:],
            pixel_values=batch["pixel_values"][sample : sample + 1, :pages],
            ink_mask=batch["ink_mask"][sample : sample + 1, :pages],
        ).logits
        torch.testing.assert_close(together[sample, first_token:], alone[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_sample_without_context_is_read_by_the_stock_llm(model, batch):
    batch["ink_mask"][1] = False
    logits = model(**batch).logits
    stock = tiny_llm()(batch["input_ids"][1:, 2:]).logits
    torch.testing.assert_close(logits[1:, 2:], stock, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(logits[:1], tiny_llm()(batch["input_ids"][:1]).logits, atol=1e-2)
    batch["ink_mask"][:] = False
    assert torch.equal(model(**batch).logits, tiny_llm()(**text_of(batch)).logits)


@torch.no_grad()
def test_the_three_forms_of_a_context_agree(model, batch):
    context = model.encode_context(batch["pixel_values"], batch["ink_mask"])
    assert context.states.shape == (2, 12, 32) and context.mask.sum(1).tolist() == [12, 4]
    assert context.cls.shape == (2, 32)
    kv = model.project_context(context.states)
    assert kv.shape == (2, 2, 2, 2, 12, 8)
    want = model(**batch).logits
    states = model(**text_of(batch), cross_states=context.states, cross_mask=context.mask).logits
    projected = model(**text_of(batch), cross_kv=kv, cross_mask=context.mask).logits
    assert torch.equal(states, want) and torch.equal(projected, want)


@torch.no_grad()
def test_local_tokens_in_use_move_to_the_front():
    model = tiny_model(reducer="local")
    pages = some_pages(batch=1, pages=3)
    pages["ink_mask"][0] = torch.arange(16).view(4, 4) < torch.tensor([16, 0, 5])[:, None, None]
    context = model.encode_context(**pages)
    assert context.states.shape[1] == 4 + 2 and context.mask.all()
    last = model.encode_context(pages["pixel_values"][:, 2:], pages["ink_mask"][:, 2:])
    torch.testing.assert_close(context.states[:, 4:], last.states)


@torch.no_grad()
def test_page_codes_count_from_the_last_real_page_and_start_as_if_off():
    plain, coded = tiny_model(trained=False), tiny_model(trained=False, num_page_positions=2)
    coded.load_state_dict(plain.state_dict(), strict=False)
    pages = some_pages(batch=1, pages=4)
    pages["ink_mask"][:, 3] = False
    assert torch.equal(plain.encode_context(**pages).states, coded.encode_context(**pages).states)
    coded.page_positions.weight[0], coded.page_positions.weight[1] = 1.0, 10.0
    added = coded.encode_context(**pages).states - plain.encode_context(**pages).states
    torch.testing.assert_close(added[0, :, 0].view(3, 4)[:, 0], torch.tensor([10.0, 10.0, 1.0]))


def test_loss_is_next_token_plus_weighted_pve(batch):
    model = tiny_model(pve_weight=0.5, pve_temperature=0.2)
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    keep = torch.tensor([[True, False, True], [True, True, False]])
    ids = torch.randint(3, 18, (2, 3))
    out = model(**batch, labels=labels, context_ids=ids, context_keep=keep)
    flat = nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    table = model.get_input_embeddings().weight
    text = torch.stack([table[ids[b, keep[b]]].mean(0) for b in range(2)])
    contrast = pve_loss(model.encode_context(batch["pixel_values"], batch["ink_mask"]).cls, text, 0.2)
    torch.testing.assert_close(out.lm_loss, flat)
    torch.testing.assert_close(out.pve_loss, contrast)
    torch.testing.assert_close(out.loss, flat + 0.5 * contrast)
    assert model(**batch).loss is None and model(**batch, labels=labels).pve_loss is None
    assert out.to_tuple()[0] is out.loss and model(**batch, return_dict=False)[0].shape == out.logits.shape


def test_accumulated_parts_of_a_batch_add_up_to_the_whole(batch):
    """Next-token loss exactly; PVE, whose negatives are the part's own, by the share of labels."""
    model = tiny_model()
    labels = torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)
    whole = model(**batch, labels=labels)
    count = (labels[:, 1:] != -100).sum()
    ids = batch["input_ids"]
    total, shares = 0.0, 0.0
    for part in (slice(0, 1), slice(1, 2)):
        some = {name: value[part] for name, value in batch.items()}
        out = model(**some, labels=labels[part], context_ids=ids[part], num_items_in_batch=count)
        total += out.lm_loss
        assert out.pve_loss == 0
        shares += (labels[part][:, 1:] != -100).sum() / count
    torch.testing.assert_close(total, whole.lm_loss)
    out = model(**batch, labels=labels, context_ids=ids, num_items_in_batch=2 * count)
    torch.testing.assert_close(out.loss, whole.lm_loss / 2 + out.pve_loss / 2)
    assert shares == 1


@pytest.mark.parametrize("choices", [{}, {"reducer": "local", "num_page_positions": 2, "resampler_size": 16}])
def test_training_changes_only_what_is_new(batch, choices):
    model = tiny_model(trained=False, **choices).train()
    before = copy.deepcopy(model.state_dict())
    trainable = model.trainable_parameters()
    assert {name.split(".")[0] for name in trainable} - {"page_positions", "pve_projection"} == {
        "resampler",
        "language_model",
    }
    assert all(".cross_attn." in name for name in trainable if name.startswith("language_model"))
    optimizer = torch.optim.AdamW(trainable.values(), lr=1e-2)
    losses = []
    for _ in range(25):
        out = model(**batch, labels=batch["input_ids"], context_ids=batch["input_ids"])
        optimizer.zero_grad()
        out.loss.backward()
        optimizer.step()
        losses.append(out.loss.item())
    assert losses[-1] < 0.7 * losses[0]
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(trainable)


@pytest.mark.parametrize("choices", [{"num_page_positions": 2}, {"reducer": "local", "resampler_size": 16}])
def test_training_in_mixed_precision(batch, choices):
    model = tiny_model(**choices).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = model(**batch, labels=batch["input_ids"], context_ids=batch["input_ids"])
    out.loss.backward()
    assert out.loss.dtype == torch.float32
    assert all(parameter.grad.isfinite().all() for parameter in model.trainable_parameters().values())


def test_checkpointed_training_has_the_same_gradients(batch):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model().train()
        if checkpointing:
            enable_checkpointing(model)
            assert any(getattr(layer, "gradient_checkpointing", False) for layer in model.language_model.model.layers)
        model(**batch, labels=batch["input_ids"]).loss.backward()
        gradients.append({name: p.grad for name, p in model.trainable_parameters().items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], msg=name)


def test_a_frozen_tower_stays_in_evaluation_mode():
    model = tiny_model().train()
    assert model.language_model.training and model.resampler.training and not model.vision_tower.training
    model.vision_tower.requires_grad_(True)
    assert model.train().vision_tower.training


@torch.no_grad()
def test_bfloat16_and_other_towers(batch):
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    llm = tiny_llm().to(torch.bfloat16)
    model = VistForConditionalGeneration.from_backbones(llm, CLIPVisionModel(vision), **CHOICES).eval()
    assert model.resampler.latents.dtype == torch.bfloat16
    assert model(**batch).logits.dtype == torch.bfloat16


def test_attention_kernels_switch_as_in_any_model(model, batch):
    sdpa = model(**batch).logits
    model.set_attn_implementation("eager")
    assert model.language_model.config._attn_implementation == "eager"
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(model(**batch).logits[real], sdpa[real], atol=1e-4, rtol=1e-4)


def test_backbones_from_folders(tmp_path, batch):
    tiny_llm().save_pretrained(tmp_path / "llm")
    tiny_tower((56, 56)).save_pretrained(tmp_path / "tower")
    model = VistForConditionalGeneration.from_backbones(tmp_path / "llm", tmp_path / "tower", **CHOICES).eval()
    want = tiny_llm()(**text_of(batch)).logits
    assert torch.equal(model(**batch).logits, want)
    assert model.config.text_config is model.language_model.config


def test_users_get_sentences(model, batch, tmp_path):
    with pytest.raises(VistError, match="without ink_mask"):
        model(batch["input_ids"], pixel_values=batch["pixel_values"])
    with pytest.raises(VistError, match="without ink_mask"):
        model.generate(batch["input_ids"], pixel_values=batch["pixel_values"])
    with pytest.raises(VistError, match="Cannot load a language model"):
        VistForConditionalGeneration.from_backbones(tmp_path / "nowhere", tiny_tower())
    with pytest.raises(VistError, match="already has cross-attention"):
        VistForConditionalGeneration.from_backbones(model.language_model, tiny_tower(), **CHOICES)


@pytest.mark.parametrize("reducer", ["perceiver", "local"])
@torch.no_grad()
def test_all_visual_tokens_are_no_setting_of_the_dial(batch, reducer):
    model = tiny_model(reducer=reducer, cross_subtokens=True)
    plain = model(**batch).logits
    for asked in (4, 99, torch.full((2, 3), 4)):
        assert torch.equal(model(**batch, visual_tokens=asked).logits, plain)
    assert torch.equal(
        model(**batch, visual_tokens=torch.tensor([99, 99]), page_weights=torch.ones(2, 3)).logits, plain
    )
    assert not torch.equal(model(**batch, visual_tokens=2).logits, plain)


@pytest.mark.parametrize("reducer", ["perceiver", "local"])
@torch.no_grad()
def test_fewer_visual_tokens_leave_nothing_of_the_others(batch, reducer):
    """Counts per page: as many tokens in use, and a sample reads the same alone, beside another and after padding."""
    model = tiny_model(reducer=reducer, cross_subtokens=True, num_page_positions=2)
    counts = torch.tensor([[2, 1, 2], [2, 1, 1]])
    context = model.encode_context(batch["pixel_values"], batch["ink_mask"], counts)
    assert context.mask.sum(1).tolist() == [5, 2] and context.states.shape[1] == 5
    logits = model(**batch, visual_tokens=counts).logits
    alone = {name: value[:1] for name, value in batch.items()}
    torch.testing.assert_close(model(**alone, visual_tokens=counts[:1]).logits, logits[:1], atol=1e-4, rtol=1e-4)
    kv = model.project_context(context.states)
    text = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    cached = model(**text, cross_kv=kv, cross_mask=context.mask).logits
    torch.testing.assert_close(cached, logits, atol=1e-4, rtol=1e-4)
    padded = {"pixel_values": torch.nn.functional.pad(batch["pixel_values"], (0, 0, 0, 0, 0, 1)), **text}
    padded["ink_mask"] = torch.nn.functional.pad(batch["ink_mask"], (0, 0, 0, 0, 0, 1))
    longer = torch.nn.functional.pad(counts, (0, 1), value=4)
    assert torch.equal(model(**padded, visual_tokens=longer).logits, logits)


@torch.no_grad()
def test_learning_to_merge_changes_nothing_before_training(batch, tmp_path):
    model = tiny_model(reducer="local")
    before = [model(**batch, visual_tokens=count).logits for count in (None, 2)]
    model.learn_merging()
    assert model.trainable_parameters().keys() >= {"resampler.merge_order.weight", "resampler.merge_level"}
    model.save_pretrained(tmp_path)
    for changed in (model, VistForConditionalGeneration.from_pretrained(tmp_path).eval()):
        after = [changed(**batch, visual_tokens=count).logits for count in (None, 2)]
        assert all(torch.equal(first, second) for first, second in zip(before, after, strict=True))
