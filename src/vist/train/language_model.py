"""The text-only language model of `vist-nano`: data and shape.

Owns: token sequences for next-token training, the model's configuration. Must not know about pages.

Decisions
- Distant and proximal text are one sequence here. Recall and quotation examples are mixed in, so that the model learns
  to look things up in its context at all: what it cannot do with text, it cannot do with pages.
- Each batch has a length of its own, short ones more often: looking up is learned sooner where there is less to look
  through, and the model must know positions as far as its longest context.
- Embeddings start at the size of everything else on the residual stream, and the output layer is not tied to them and
  starts at zero. Tied ones start so small that the first layer drowns them, and then nothing can be matched by content.
- Queries and keys have biases, drawn at unit size: with nothing but random embeddings to go by, no head can attend by
  position alone, and "the token before" is the first half of every lookup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, Qwen3Config, Qwen3ForCausalLM

from vist.train.corpus import PackedCorpus
from vist.train.examples import Example, ExampleMix, draw_example
from vist.train.tokenizer import first_visible


def build_language_model(tokenizer: PreTrainedTokenizerBase, width: int, layers: int, context: int) -> Qwen3ForCausalLM:
    """A small Qwen3-shaped model with random weights: heads of 64, unit embeddings, an untied output layer of zeros."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=round(width * 8 / 3 / 64) * 64,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        num_key_value_heads=width // 64,
        head_dim=64,
        attention_bias=True,
        max_position_embeddings=context,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight)
    torch.nn.init.zeros_(model.lm_head.weight)
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.q_proj.bias)
        torch.nn.init.normal_(layer.self_attn.k_proj.bias)
    return model


class TextSequences(Dataset):
    """Sequences of token ids with the places they repeat, each a pure function of (seed, index).

    `tokens` are the shortest and the longest length of a batch; lengths between are drawn evenly by their logarithm.
    """

    def __init__(
        self,
        corpus: PackedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        mix: ExampleMix,
        tokens: tuple[int, int],
        samples: int,
        batch_size: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.mix, self.tokens = corpus, tokenizer, mix, tokens
        self.samples, self.batch_size, self.seed = samples, batch_size, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        tokens = self._length(index // self.batch_size)
        rng = np.random.default_rng((self.seed, index))
        # Distant text of any length up to three quarters of the sequence; 3.5 characters are about one token.
        distant = int(rng.integers(tokens // 2, tokens * 5 // 2))
        example = draw_example(self.corpus, self.mix, rng, distant, tokens * 4 - distant)
        return self.sample(example, tokens)

    def sample(self, example: Example, tokens: int) -> dict[str, np.ndarray]:
        """`ids` (T,) with BOS, T at most `tokens`; `guide` (T,): the place of which the next id is a copy, else -1."""
        text = example.distant + example.proximal
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        starts = first_visible(text, np.array(encoded.offset_mapping).reshape(-1, 2))
        origins = example.origins(starts - len(example.distant))
        guide = np.where(origins < 0, -1, np.searchsorted(starts, origins, side="right"))  # one further: BOS
        ids = np.array([self.tokenizer.bos_token_id, *encoded.input_ids])
        return {"ids": ids[:tokens], "guide": np.append(guide, -1)[:tokens]}

    def _length(self, batch: int) -> int:
        low, high = self.tokens
        return round(low * (high / low) ** np.random.default_rng((self.seed, batch, 1)).random())

    def collate(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """Right-padded `input_ids`, `attention_mask`, `labels` (-100 on padding), `guide` (-1), each (B, T)."""
        length = max(len(row["ids"]) for row in rows)
        ids = np.full((len(rows), length), self.tokenizer.pad_token_id)
        guide = np.full((len(rows), length), -1)
        mask = np.zeros((len(rows), length), dtype=np.int64)
        for number, row in enumerate(rows):
            there = slice(len(row["ids"]))
            ids[number, there], guide[number, there], mask[number, there] = row["ids"], row["guide"], 1
        input_ids, attention_mask = torch.from_numpy(ids), torch.from_numpy(mask)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "labels": input_ids.masked_fill(attention_mask == 0, -100),
            "guide": torch.from_numpy(guide),
        }
