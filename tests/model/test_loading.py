"""Saving and loading: bit-equal both ways, strict about what is missing, known to the Auto classes."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, CLIPVisionConfig, CLIPVisionModel

from tiny_backbones import CHOICES, tiny_llm, tiny_model
from vist.errors import CheckpointError
from vist.model.vist import VistForConditionalGeneration


@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"reducer": "local", "num_page_positions": 3, "cross_gate": True, "resampler_size": 16},
        {"cross_norm": False},
        {
            "reducer": "local",
            "local_expansion": 3,
            "local_preceding": 2,
            "local_following": 1,
            "local_shortcut": True,
            "cross_output_gate": True,
            "cross_subtokens": True,
        },
    ],
)
@torch.no_grad()
def test_round_trip_is_bit_equal(choices, batch, tmp_path):
    model = tiny_model(**choices)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = VistForConditionalGeneration.from_pretrained(tmp_path)
    assert not again.training
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys() and all(torch.equal(state[name], loaded[name]) for name in state)
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    assert again.trainable_parameters().keys() == model.trainable_parameters().keys()
    assert again.get_output_embeddings().weight is again.get_input_embeddings().weight


@torch.no_grad()
def test_clip_weights_keep_their_names(batch, tmp_path):
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=8
    )
    model = VistForConditionalGeneration.from_backbones(tiny_llm(), CLIPVisionModel(vision), **CHOICES).eval()
    model.save_pretrained(tmp_path)
    again = VistForConditionalGeneration.from_pretrained(tmp_path)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


def test_the_auto_class_loads_in_a_chosen_precision(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    model = AutoModelForImageTextToText.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert type(model) is VistForConditionalGeneration
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_generation_settings_are_the_llms(tmp_path):
    model = tiny_model()
    assert model.generation_config.eos_token_id == 2 and model.generation_config.pad_token_id == 0
    model.save_pretrained(tmp_path)
    assert VistForConditionalGeneration.from_pretrained(tmp_path).generation_config.eos_token_id == 2


@pytest.fixture
def folder(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    return tmp_path


def load_error(folder):
    with pytest.raises(CheckpointError) as caught:
        VistForConditionalGeneration.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_a_missing_folder(tmp_path):
    assert "no model folder" in load_error(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path):
    assert "no config.json" in load_error(tmp_path)


def test_a_truncated_shard(folder):
    shard = folder / "model.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    assert "Cannot load" in load_error(folder)


def test_a_weight_of_the_wrong_shape(folder):
    weights = load_file(folder / "model.safetensors")
    weights["resampler.latents"] = torch.zeros(5, 32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = load_error(folder)
    assert "resampler.latents" in message and "(5, 32)" in message and "(4, 32)" in message


def test_a_missing_weight(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["resampler.latents"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = load_error(folder)
    assert "lacks 1 weight" in message and "resampler.latents" in message


def test_another_architecture(tmp_path):
    tiny_llm().save_pretrained(tmp_path)
    assert "'llama'" in load_error(tmp_path)


def test_a_config_with_an_impossible_value(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_visual_tokens": 0}))
    with pytest.raises(ValueError, match="num_visual_tokens must be a positive whole number, got 0"):
        VistForConditionalGeneration.from_pretrained(folder)


AUTO = """
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
{and_then}
import sys
folder = sys.argv[1]
assert type(AutoProcessor.from_pretrained(folder)).__name__ == "VistProcessor"
assert type(AutoModelForImageTextToText.from_pretrained(folder)).__name__ == "VistForConditionalGeneration"
assert type(AutoConfig.from_pretrained(folder)).__name__ == "VistConfig"
"""


def run(code, folder):
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


def test_auto_classes_know_vist_when_transformers_comes_first(folder, processor):
    processor.save_pretrained(folder)
    run(AUTO.format(and_then="import vist\nassert callable(vist.render)"), folder)


def test_importing_vist_is_light_and_auto_classes_know_it_later(folder, processor):
    processor.save_pretrained(folder)
    names = """
import sys, vist
assert not {"torch", "transformers", "numpy"} & set(sys.modules)
assert callable(vist.render) and len(vist.render("a line of text")) == 1
from vist.render import PageStyle
from vist import render
assert vist.PageStyle is PageStyle and len(render("a line of text", "vist-7")) == 1
assert issubclass(vist.CheckpointError, vist.VistError) and "load" in dir(vist)
"""
    loading = """
model, processor = vist.load(folder)
assert type(model) is vist.VistForConditionalGeneration and type(processor) is vist.VistProcessor
try:
    vist.nothing
except AttributeError as error:
    assert "no attribute 'nothing'" in str(error)
try:
    vist.load("no-such-model")
except vist.CheckpointError as error:
    assert "no-such-model" in str(error)
"""
    run(names + AUTO.format(and_then="") + loading, folder)


def test_loading_says_nothing(folder):
    code = "import sys, vist; vist.VistForConditionalGeneration.from_pretrained(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    said = [line for line in done.stderr.splitlines() if line.strip() and "Loading weights" not in line]
    assert done.stdout == "" and said == []
