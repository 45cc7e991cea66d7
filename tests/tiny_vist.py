"""A tiny random VIST model with its own tokenizer, saved in the real format: what the tests of eval and cli read."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from vist.model.processing import VistProcessor
from vist.model.vist import VistForConditionalGeneration
from vist.train.tokenizer import train_tokenizer
from vist.vision.text_vit import TextViTConfig, TextViTModel

ALICE = Path(__file__).parent.parent / "src" / "vist" / "assets" / "texts" / "alice_in_wonderland.txt"


def alice(characters: int) -> str:
    """The beginning of the packaged book."""
    return ALICE.read_text(encoding="utf-8")[:characters]


def build_tiny(folder: Path, context: int = 512) -> Path:
    """Save a model with random weights, cross-attention included, to `folder`."""
    torch.manual_seed(0)
    tokenizer = train_tokenizer([alice(20_000)], vocab_size=400, model_max_length=context)
    llm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=context,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            tie_word_embeddings=True,
        )
    )
    tower = TextViTModel(
        TextViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48)
    )
    model = VistForConditionalGeneration.from_backbones(
        llm, tower, num_visual_tokens=4, resampler_layers=1, resampler_heads=2
    )
    for layer in model.language_model.model.layers:  # untrained, the pages would change nothing
        torch.nn.init.normal_(layer.cross_attn.o_proj.weight, std=0.5)
    model.eval().save_pretrained(folder)
    VistProcessor(tokenizer, style="vist").save_pretrained(folder)
    return folder
