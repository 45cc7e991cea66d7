"""Saving and loading a VIST2 model and its processor: bit-equal, strict, known to the Auto classes; bad choices."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tiny_vist2 import some_ids, tiny_llm, tiny_processor, tiny_tower, tiny_vist2
from vist.errors import CheckpointError, VistError
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_configuration import Vist2Config
from vist.model.vist2_processing import Vist2Processor

CHOICES = [
    {},
    {"aligner_layers": 1, "aligner_shortcut": True, "aligner_expansion": 2},
    {"aligner_convolutions": 2, "aligner_preceding": 2, "aligner_following": 1, "visual_levels": 1},
    {"aligner": "resampler", "aligner_layers": 1, "max_visual_tokens": 6},
]


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@torch.no_grad()
def test_round_trip_is_bit_equal(family, choices, tmp_path):
    model = tiny_vist2(family, **choices)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    again = Vist2ForCausalLM.from_pretrained(tmp_path)
    state, loaded = model.state_dict(), again.state_dict()
    assert state.keys() == loaded.keys() and all(torch.equal(state[name], loaded[name]) for name in state)
    batch = tiny_processor(max_visual_tokens=6).interleaved([some_ids(100)])
    assert torch.equal(again(**batch).logits, model(**batch).logits)
    trainable = {name for name, parameter in again.named_parameters() if parameter.requires_grad}
    assert trainable == {name for name in state if not name.startswith("vision_tower")}


def test_visual_tokens_start_at_the_size_of_embeddings():
    llm = tiny_llm()
    model = Vist2ForCausalLM.from_backbones(llm, tiny_tower(), aligner_heads=4)
    batch = tiny_processor().interleaved([some_ids(100)])
    tokens = model.encode_chunks(*(batch[n] for n in ("pixel_values", "ink_mask", "page_chunks", "visual_counts")))
    assert tokens.std().item() == pytest.approx(llm.get_input_embeddings().weight.std().item(), rel=0.1)


def test_the_processor_comes_back_as_it_was(tmp_path):
    processor = tiny_processor(border_ids=(300, 301), ratio=2.5)
    processor.save_pretrained(tmp_path)
    again = Vist2Processor.from_pretrained(tmp_path)
    ids = some_ids(150)
    assert again.page_style == processor.page_style and again.pieces(ids) == processor.pieces(ids)
    mine, theirs = processor.interleaved([ids]), again.interleaved([ids])
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    with pytest.raises(CheckpointError, match="no model folder"):
        Vist2Processor.from_pretrained(tmp_path / "nowhere")


def load_error(folder):
    with pytest.raises(CheckpointError) as caught:
        Vist2ForCausalLM.from_pretrained(folder)
    message = str(caught.value)
    assert "\n" not in message and str(folder) in message
    return message


def test_incomplete_folders_are_refused(tmp_path):
    assert "no model folder" in load_error(tmp_path / "nowhere")
    assert "no config.json" in load_error(tmp_path)
    tiny_llm().save_pretrained(tmp_path / "llm")
    assert "'qwen3', not 'vist2'" in load_error(tmp_path / "llm")
    tiny_vist2().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    weights = load_file(path)
    missing = {name: value for name, value in weights.items() if name != "aligner.norm.weight"}
    save_file(missing, path, metadata={"format": "pt"})
    assert "lacks 1 weight" in load_error(tmp_path)
    weights["aligner.norm.weight"] = torch.zeros(5)
    save_file(weights, path, metadata={"format": "pt"})
    assert "(5,)" in load_error(tmp_path) and "(2, 32)" in load_error(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    assert "Cannot load" in load_error(tmp_path)


AUTO = """
import sys
from transformers import AutoConfig, AutoModelForCausalLM, AutoProcessor
import vist
folder = sys.argv[1]
assert type(AutoProcessor.from_pretrained(folder)) is vist.Vist2Processor
assert type(AutoModelForCausalLM.from_pretrained(folder)) is vist.Vist2ForCausalLM
assert type(AutoConfig.from_pretrained(folder)) is vist.Vist2Config
"""


def test_auto_classes_know_vist2(tmp_path):
    tiny_vist2().save_pretrained(tmp_path)
    tiny_processor().save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "vist2"
    subprocess.run([sys.executable, "-c", AUTO, str(tmp_path)], check=True)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"aligner": "glue"}, "Unknown aligner 'glue'"),
        ({"patches_per_token": 0}, "patches_per_token must be a whole number of at least 1"),
        ({"aligner": "resampler"}, "aligner_layers must be a whole number of at least 1"),
        ({"aligner_layers": 1, "aligner_heads": 5}, "must be a multiple of aligner_heads"),
    ],
)
def test_impossible_choices(choices, message):
    with pytest.raises(VistError, match=message):
        Vist2Config(text_config=tiny_llm().config, vision_config=tiny_tower().config, **choices)
