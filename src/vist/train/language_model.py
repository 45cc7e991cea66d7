"""The text-only language model of `vist-nano`: data and shape.

Owns: token sequences for next-token training, the model's configuration. Must not know about pages.

Decisions
- Distant and proximal text are one sequence here. Recall and quotation examples are mixed in, so that the model learns
  to look things up in its context at all: what it cannot do with text, it cannot do with pages.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example


def build_language_model(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, context: int) -> LlamaForCausalLM:
    """A small Llama-shaped model with random weights: heads of 64, tied embeddings."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=round(width * 8 / 3 / 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


class TextSequences(Dataset):
    """Sequences of at most `tokens` token ids, each a pure function of (seed, index)."""

    def __init__(
        self,
        corpus: PackedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        mix: ExampleMix,
        tokens: int,
        samples: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.mix = corpus, tokenizer, mix
        self.tokens, self.samples, self.seed = tokens, samples, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> np.ndarray:
        rng = np.random.default_rng((self.seed, index))
        # Distant text of any length up to three quarters of the sequence; 3.5 characters are about one token.
        distant = int(rng.integers(self.tokens // 2, self.tokens * 5 // 2))
        example = draw_example(self.corpus, self.mix, rng, distant, self.tokens * 4 - distant)
        ids = self.tokenizer(example.distant + example.proximal, add_special_tokens=False).input_ids
        return np.array([self.tokenizer.bos_token_id, *ids[: self.tokens - 1]])

    def collate(self, rows: list[np.ndarray]) -> dict[str, Any]:
        """Right-padded `input_ids`, `attention_mask`, `labels` (-100 on padding), each (B, T)."""
        length = max(len(row) for row in rows)
        ids = np.full((len(rows), length), self.tokenizer.pad_token_id)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for number, row in enumerate(rows):
            ids[number, : len(row)], mask[number, : len(row)] = row, 1
        input_ids, attention_mask = torch.from_numpy(ids), torch.from_numpy(mask)
        labels = input_ids.masked_fill(attention_mask == 0, -100)
        return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
