"""The configuration: defaults of the paper, round trip, checks."""

import pytest
from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, Qwen3Config

from vist.errors import VistError
from vist.model.configuration import VistConfig


def test_defaults_are_the_papers():
    config = VistConfig(text_config=LlamaConfig(hidden_size=128), vision_config=CLIPVisionConfig())
    assert (config.num_visual_tokens, config.pve_weight, config.pve_temperature) == (64, 1.0, 0.07)
    assert (config.reducer, config.num_page_positions, config.pve_normalize) == ("perceiver", 0, False)
    assert config.resampler_size == 128 and config.vision_size == 768
    assert config.get_text_config(decoder=True) is config.text_config


def test_round_trip(tmp_path):
    text = Qwen3Config(hidden_size=64, num_hidden_layers=3, tie_word_embeddings=True)
    vision = CLIPVisionConfig(hidden_size=32, num_attention_heads=2)
    config = VistConfig(text_config=text, vision_config=vision, num_visual_tokens=7, style="icl")
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert type(again) is VistConfig and type(again.text_config) is Qwen3Config
    assert again.to_diff_dict() == config.to_diff_dict()
    assert again.text_config.num_hidden_layers == 3 and again.num_visual_tokens == 7 and again.style == "icl"
    assert again.tie_word_embeddings


def test_a_running_backbones_attention_kernel_is_kept():
    text = LlamaConfig(hidden_size=64, attn_implementation="eager")
    assert VistConfig(text_config=text).text_config._attn_implementation == "eager"


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ({"num_visual_tokens": 0}, "num_visual_tokens must be a positive whole number, got 0"),
        ({"num_visual_tokens": -3}, "got -3"),
        ({"num_visual_tokens": 2.5}, "got 2.5"),
        ({"resampler_layers": 0}, "resampler_layers must be"),
        ({"resampler_heads": 3}, r"must be a multiple of resampler_heads \(3\)"),
        ({"resampler_size": -8}, "resampler_size must be"),
        ({"reducer": "mean"}, "Unknown reducer 'mean'; choose one of perceiver, local"),
        ({"num_page_positions": -1}, "num_page_positions must be"),
        ({"num_page_positions": 1.5}, "num_page_positions must be"),
        ({"local_preceding": -1}, "local_preceding must be 0"),
        ({"local_following": 0.5}, "local_following must be a whole number, got 0.5"),
        ({"local_expansion": 0}, "local_expansion must be a positive whole number, got 0"),
        ({"pve_weight": -1.0}, "pve_weight must be"),
        ({"pve_temperature": 0.0}, "pve_temperature must be positive, got 0.0"),
        ({"text_config": {"model_type": "nothing"}}, "Unknown backbone type 'nothing'"),
    ],
)
def test_users_get_sentences(choice, sentence):
    with pytest.raises(VistError, match=sentence):
        VistConfig(**{"text_config": LlamaConfig(hidden_size=64), **choice})
