"""Tiny random backbones, tokenizer, pages and a model whose cross-attention matters: for the tests of the model."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from vist.fuse.insert import cross_attentions
from vist.model.vist import VistForConditionalGeneration
from vist.vision.text_vit import TextViTConfig, TextViTModel

WORDS = ["the", "a", "cat", "dog", "sat", "ran", "on", "under", "mat", "log", "and", "then", "1", "2", "3"]
VOCABULARY = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS])}
CHOICES = {"num_visual_tokens": 4, "resampler_layers": 1, "resampler_heads": 2}


def tiny_llm(**changes):
    torch.manual_seed(0)
    shape = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": True,
        "initializer_range": 0.4,
    }
    return LlamaForCausalLM(LlamaConfig(**{**shape, **changes})).eval()


def tiny_tower(size=(224, 224)):
    torch.manual_seed(0)
    shape = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    return TextViTModel(TextViTConfig(**shape, image_size=size)).eval()


def tiny_model(trained=True, size=(56, 56), **choices):
    """A model in float32; `trained` gives every new weight a value that matters."""
    model = VistForConditionalGeneration.from_backbones(tiny_llm(), tiny_tower(size), **{**CHOICES, **choices}).eval()
    if trained:
        torch.manual_seed(1)
        for sublayer in cross_attentions(model.language_model):
            nn.init.normal_(sublayer.o_proj.weight, std=0.3)
        if model.page_positions is not None:
            nn.init.normal_(model.page_positions.weight)
    return model


def tiny_tokenizer():
    tokenizer = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def some_pages(batch=2, pages=3, side=56, cells=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (batch, pages, side, side), dtype=torch.uint8, generator=generator)
    ink = torch.rand(batch, pages, cells, cells, generator=generator) > 0.4
    ink[:, :, 0, 0] = True
    return {"pixel_values": pixels, "ink_mask": ink}
