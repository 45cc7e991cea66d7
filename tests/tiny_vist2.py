"""A tiny random VIST2 model, its processor and texts: for the tests of the model, of generation and of training."""

from __future__ import annotations

from functools import cache

import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, Qwen3Config, Qwen3ForCausalLM

from tiny_vist import alice
from vist.model.vist2 import Vist2ForCausalLM
from vist.model.vist2_processing import Vist2Processor
from vist.render import PageStyle
from vist.train.tokenizer import train_tokenizer
from vist.vision.text_vit import TextViTConfig, TextViTModel

STYLE = PageStyle(name="tiny", width=112, height=42)  # 3 x 8 patches, about 40 characters
FAMILIES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}


@cache
def tiny_tokenizer():
    return train_tokenizer([alice(20_000)], vocab_size=400, model_max_length=512)


def tiny_llm(family="qwen3", **changes):
    torch.manual_seed(0)
    config, model = FAMILIES[family]
    shape = {
        "vocab_size": 400,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "pad_token_id": tiny_tokenizer().pad_token_id,
        "bos_token_id": tiny_tokenizer().bos_token_id,
        "eos_token_id": tiny_tokenizer().eos_token_id,
        "initializer_range": 0.3,
    }
    return model(config(**{**shape, **changes})).eval()


def tiny_tower(size=(42, 112)):
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return TextViTModel(TextViTConfig(**shape, image_size=size)).eval()


def tiny_vist2(family="qwen3", **choices):
    choices = {"patches_per_token": 8, "aligner_heads": 4, "visual_levels": 2, **choices}
    model = Vist2ForCausalLM.from_backbones(tiny_llm(family), tiny_tower(), **choices).eval()
    with torch.no_grad():
        for parameter in model.aligner.parameters():  # visual tokens that differ as much as words do
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model


def tiny_processor(**changes):
    options = {"style": STYLE, "chunk_size": 10, "tolerance": 3, "ratio": 3.0, "patches_per_token": 8}
    return Vist2Processor(tiny_tokenizer(), **{**options, **changes})


def some_ids(characters=160, start=0):
    return tiny_tokenizer()(alice(4_000)[600 + start : 600 + start + characters]).input_ids


@cache
def undrawable_tokens():
    """Single bytes that are no character, and control characters: a random model writes them all the time."""
    texts = {number: tiny_tokenizer().decode([number]) for number in range(len(tiny_tokenizer()))}
    return sorted(number for number, text in texts.items() if not text.isascii() or not text.isprintable())
