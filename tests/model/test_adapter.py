"""Adapter folders: only what was trained, bit-equal on the right backbones, refused on others; publishing offline."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

import vist
from tiny_backbones import CHOICES, tiny_llm, tiny_tokenizer, tiny_tower
from vist.errors import CheckpointError, VistError
from vist.model import adapter as adapter_module
from vist.model.processing import VistProcessor
from vist.model.vist import VistForConditionalGeneration


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    place = tmp_path_factory.mktemp("backbones")
    tiny_llm().save_pretrained(place / "llm")
    tiny_tower((56, 56)).save_pretrained(place / "vision")
    return place / "llm", place / "vision"


def train(model):
    """Stand-in for training: every trained weight takes another value."""
    torch.manual_seed(4)
    for parameter in model.trainable_parameters().values():
        nn.init.normal_(parameter, std=0.2)
    return model.eval()


def build(backbones, **choices):
    return train(VistForConditionalGeneration.from_backbones(*backbones, **{**CHOICES, **choices}))


@pytest.fixture
def folder(backbones, tmp_path):
    return build(backbones).save_adapter(tmp_path / "adapter")


CHOICES_SEEN = [
    {},
    {"lora_rank": 2},
    {"reducer": "local", "num_page_positions": 3, "resampler_size": 16, "cross_gate": True},
]


@pytest.mark.parametrize("choices", CHOICES_SEEN, ids=["plain", "lora", "local"])
@torch.no_grad()
def test_round_trip_is_bit_equal_and_holds_no_backbone(choices, backbones, batch, tmp_path):
    model = build(backbones, **choices)
    assert not any(
        value.requires_grad for name, value in model.named_parameters() if name.endswith("embed_tokens.weight")
    )
    model.save_adapter(tmp_path / "adapter")
    assert sorted(path.name for path in (tmp_path / "adapter").iterdir()) == [
        "adapter.json",
        "adapter.safetensors",
        "backbones.safetensors",
        "config.json",
    ]
    assert load_file(tmp_path / "adapter" / "adapter.safetensors").keys() == model.trainable_parameters().keys()
    again = VistForConditionalGeneration.from_adapter(tmp_path / "adapter")
    assert not again.training and again.trainable_parameters().keys() == model.trainable_parameters().keys()
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.config.to_dict() == {
        **model.config.to_dict(),
        "_name_or_path": again.config.to_dict().get("_name_or_path"),
    }


@torch.no_grad()
def test_a_tower_cut_short_is_cut_again(batch, tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModel

    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(**shape, image_size=32, patch_size=8)).save_pretrained(tmp_path / "clip")
    choices = {**CHOICES, "vision_layers": 2, "vision_drop_blank": True}
    model = train(VistForConditionalGeneration.from_backbones(tiny_llm(), tmp_path / "clip", **choices))
    again = VistForConditionalGeneration.from_adapter(model.save_adapter(tmp_path / "adapter"), llm=tiny_llm())
    assert len(again.vision_tower.encoder.layers) == 2 and again.config.vision_drop_blank
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    model.save_pretrained(tmp_path / "whole")
    whole = VistForConditionalGeneration.from_pretrained(tmp_path / "whole")
    assert torch.equal(whole(**batch).logits, model(**batch).logits)


@torch.no_grad()
def test_backbones_that_moved_are_given(backbones, folder, batch, tmp_path):
    record = json.loads((folder / "adapter.json").read_text())
    assert record["llm"]["id"] == str(backbones[0]) and record["vision"]["model_type"] == "text_vit"
    moved = shutil.copytree(backbones[0], tmp_path / "moved")
    want = build(backbones)(**batch).logits
    assert torch.equal(VistForConditionalGeneration.from_adapter(folder, llm=moved)(**batch).logits, want)
    objects = {"llm": tiny_llm(), "vision": tiny_tower((56, 56))}
    assert torch.equal(VistForConditionalGeneration.from_adapter(folder, **objects)(**batch).logits, want)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_same_backbone_in_another_precision_is_the_same(folder, dtype):
    model = VistForConditionalGeneration.from_adapter(folder, dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}


def refused(folder, **backbones):
    with pytest.raises(CheckpointError) as caught:
        VistForConditionalGeneration.from_adapter(folder, **backbones)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_another_backbone_is_refused(backbones, folder):
    fine_tuned = tiny_llm()
    with torch.no_grad():
        fine_tuned.model.layers[1].mlp.up_proj.weight.mul_(1.02)
    message = refused(folder, llm=fine_tuned)
    assert "another language model" in message and "model.layers.1.mlp.up_proj.weight" in message
    assert str(backbones[0]) in message
    assert "another language model" in refused(folder, llm=tiny_llm(num_hidden_layers=3))
    assert "another language model" in refused(folder, llm=tiny_llm(hidden_size=16, intermediate_size=24))
    other_tower = tiny_tower((56, 56))
    nn.init.normal_(other_tower.patch_embed.weight)
    assert "another vision tower" in refused(folder, vision=other_tower)


def test_a_folder_that_is_no_whole_adapter_is_refused(backbones, folder, tmp_path):
    assert "no adapter.json" in refused(backbones[0])
    with pytest.raises(CheckpointError, match="load it with from_adapter"):
        VistForConditionalGeneration.from_pretrained(folder)
    weights = load_file(folder / "adapter.safetensors")
    latents = weights.pop("resampler.latents")
    save_file(weights, folder / "adapter.safetensors")
    assert "lacks resampler.latents" in refused(folder)
    save_file({**weights, "resampler.latents": latents[:2].clone()}, folder / "adapter.safetensors")
    assert "(2, 32)" in refused(folder)
    whole = (folder / "adapter.safetensors").read_bytes()
    (folder / "adapter.safetensors").write_bytes(whole[:-50])
    assert "adapter.safetensors" in refused(folder)
    (folder / "adapter.json").write_text('{"format": "vist-adapter", "llm"')
    assert "cannot be read" in refused(folder)
    (folder / "adapter.json").unlink()
    assert "no adapter.json" in refused(folder)


def test_backbones_in_training_and_unnamed_ones(backbones, tmp_path):
    model = build(backbones)
    model.language_model.lm_head.weight.requires_grad_(True)
    with pytest.raises(VistError, match="weights of a backbone are being trained, for example language_model"):
        model.save_adapter(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    unnamed = VistForConditionalGeneration.from_backbones(tiny_llm(), tiny_tower((56, 56)), **CHOICES)
    assert "does not say where its language model is; pass llm=" in refused(unnamed.save_adapter(tmp_path / "unnamed"))


@torch.no_grad()
def test_load_takes_an_adapter_folder_too(backbones, folder, batch):
    VistProcessor(tiny_tokenizer(), style="vist").save_pretrained(folder)
    model, processor = vist.load(folder)
    assert torch.equal(model(**batch).logits, build(backbones)(**batch).logits)
    assert processor.tokenizer.pad_token == "<pad>"


@torch.no_grad()
def test_lora_starts_as_the_frozen_model_and_merges_into_a_full_checkpoint(backbones, batch, tmp_path):
    frozen = VistForConditionalGeneration.from_backbones(*backbones, **CHOICES).eval()
    model = VistForConditionalGeneration.from_backbones(*backbones, **CHOICES, lora_rank=2).eval()
    text = {name: batch[name] for name in ("input_ids", "attention_mask")}
    assert torch.equal(model(**text).logits, frozen(**text).logits)
    updates = {name for name in model.trainable_parameters() if "lora" in name}
    assert len(updates) == 2 * 2 * 2 and not any("cross_attn" in name or "vision" in name for name in updates)
    train(model)
    want = model(**batch).logits
    assert not torch.allclose(model(**text).logits, frozen(**text).logits, atol=1e-2)
    model.save_pretrained(tmp_path / "with")
    assert torch.equal(VistForConditionalGeneration.from_pretrained(tmp_path / "with")(**batch).logits, want)
    model.merge_lora()
    torch.testing.assert_close(model(**batch).logits, want, atol=1e-4, rtol=1e-4)
    assert model.state_dict().keys() == frozen.state_dict().keys()
    model.save_pretrained(tmp_path / "merged")
    merged = VistForConditionalGeneration.from_pretrained(tmp_path / "merged")
    assert merged.config.lora_rank == 0 and torch.equal(merged(**batch).logits, model(**batch).logits)


def test_lora_gets_gradients_and_frozen_weights_get_none(backbones, batch):
    model = VistForConditionalGeneration.from_backbones(*backbones, **CHOICES, lora_rank=2, lora_targets=["down_proj"])
    model.train()(**batch, labels=batch["input_ids"]).loss.backward()
    trained = {name for name, value in model.named_parameters() if value.grad is not None}
    assert any("mlp.down_proj.lora_B" in name for name in trained)
    assert trained <= model.trainable_parameters().keys()
    with pytest.raises(VistError, match="lora_targets names fc_9.*choose among q_proj"):
        VistForConditionalGeneration.from_backbones(*backbones, **CHOICES, lora_rank=2, lora_targets=["fc_9"])


class Hub:
    """Stands in for the Hub: keeps what would be uploaded."""

    uploads = {}

    def __init__(self, token=None):
        self.token = token

    def create_repo(self, repo_id, private=None, exist_ok=False):
        return type("Repo", (), {"repo_id": repo_id})

    def file_exists(self, repo_id, name):
        return repo_id.endswith("carded")

    def upload_folder(self, repo_id, folder_path, commit_message, commit_description, revision, create_pr):
        Hub.uploads[repo_id] = {path.name: path.read_bytes() for path in folder_path.iterdir()}
        return f"https://hub/{repo_id}"


def test_publishing_writes_a_card_and_no_local_path(backbones, monkeypatch):
    monkeypatch.setattr(adapter_module, "HfApi", Hub)
    model = build(backbones, lora_rank=2)
    model.language_model.config._name_or_path = "someone/tiny-llama"
    model.language_model.config._commit_hash = "abc123"
    assert model.push_to_hub("me/pages", adapter=True, tags=["books"]) == "https://hub/me/pages"
    files = Hub.uploads["me/pages"]
    assert {"adapter.json", "adapter.safetensors", "config.json", "README.md"} <= files.keys()
    record = json.loads(files["adapter.json"])
    assert record["llm"]["id"] == "someone/tiny-llama" and record["vision"]["id"] is None
    card = files["README.md"].decode()
    assert card.startswith("---\nlibrary_name: transformers\n") and "base_model:\n- someone/tiny-llama\n---" in card
    assert f"| LLM | someone/tiny-llama | abc123 | llama | `{record['llm']['fingerprint']}` |" in card
    assert "- token-compression\n- books\n" in card
    assert "| vision | a model that is not on the Hub | - | text_vit |" in card
    assert 'from_adapter("me/pages")' in card and "| LoRA on the language model | rank 2 |" in card
    trained = sum(value.numel() for value in model.trainable_parameters().values())
    assert f"{trained:,} of {model.num_parameters():,}" in card
    assert not any(str(backbones[0].parent).encode() in content for content in files.values())
    model.push_to_hub("me/carded")
    assert "model.safetensors" in Hub.uploads["me/carded"] and "README.md" not in Hub.uploads["me/carded"]


@torch.no_grad()
def test_a_model_spread_over_devices_by_hooks_reads_its_pages_too(backbones, batch):
    from accelerate import cpu_offload

    whole = build(backbones)
    llm = AutoModelForCausalLM.from_pretrained(backbones[0])
    for layer in llm.model.layers:  # what device_map puts on every layer
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module

        add_hook_to_module(layer, AlignDevicesHook(execution_device="cpu", io_same_device=True))
    spread = train(VistForConditionalGeneration.from_backbones(llm, backbones[1], **CHOICES))
    assert torch.equal(spread(**batch).logits, whole(**batch).logits)
    cpu_offload(whole.language_model.model.layers[0])  # weights leave memory between calls
    assert torch.equal(whole(**batch).logits, spread(**batch).logits)
    with pytest.raises(VistError, match="is not in memory"):
        whole.save_adapter("unused")
