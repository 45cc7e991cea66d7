"""Training data of the visual context: distant text as pages, proximal text as tokens.

Owns: samples and batches for `VistForConditionalGeneration`. Must not know how the model is built or optimised.

Shapes: B batch, P pages, T proximal tokens, L distant tokens.

Decisions
- Pages are rendered here, in the data loader's workers, from samples that are pure functions of (seed, index).
- The distant text's token ids come along for PVE only, masked by frequency; the model never reads them as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from vist.compress.frequency import MaskingStrategy, frequency_mask
from vist.render import PageStyle, render
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example


@dataclass(frozen=True)
class ContextShape:
    """How much is read.

    Attributes:
        distant: shortest and longest distant text in characters.
        tokens: proximal tokens, BOS included.
        masking: which distant tokens PVE leaves out.
        masking_rate: share of them.
    """

    distant: tuple[int, int]
    tokens: int
    masking: MaskingStrategy = "frequency"
    masking_rate: float = 0.5


class ContextSamples(Dataset):
    """Pages and text of one example each."""

    def __init__(
        self,
        corpus: PackedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        style: PageStyle,
        mix: ExampleMix,
        shape: ContextShape,
        importance: np.ndarray,
        samples: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.style, self.mix, self.shape = corpus, tokenizer, style, mix, shape
        self.importance, self.samples, self.seed = torch.from_numpy(importance), samples, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        distant = int(rng.integers(self.shape.distant[0], self.shape.distant[1] + 1))
        example = draw_example(self.corpus, self.mix, rng, distant, self.shape.tokens * 4)
        pages = render(example.distant, self.style)
        context = torch.tensor(self._ids(example.distant))
        keep = frequency_mask(
            context,
            self.importance,
            self.shape.masking_rate,
            self.shape.masking,
            torch.Generator().manual_seed(int(rng.integers(2**62))),
        )
        prompt = [self.tokenizer.bos_token_id, *self._ids(example.proximal)[: self.shape.tokens - 1]]
        return {
            "pixels": pages.pixels,
            "ink": pages.ink,
            "prompt": np.array(prompt),
            "context": context.numpy(),
            "keep": keep.numpy(),
        }

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def collate(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The model's arguments; pages are padded with blank ones, text on the right."""
        pad = self.tokenizer.pad_token_id
        ids, there = _stack([row["prompt"] for row in rows], pad)
        context, _ = _stack([row["context"] for row in rows], pad)
        keep, _ = _stack([row["keep"] for row in rows], False)
        pixels, _ = _stack([row["pixels"] for row in rows], self.style.background)
        ink, _ = _stack([row["ink"] for row in rows], False)
        return {
            "input_ids": ids,
            "attention_mask": there.long(),
            "labels": ids.masked_fill(~there, -100),
            "pixel_values": pixels,
            "ink_mask": ink,
            "context_ids": context,
            "context_keep": keep,
        }


def _stack(arrays: Sequence[np.ndarray], filler: int | bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays of different length as one (B, longest, ...) tensor, and which places (B, longest) are real."""
    longest = max(len(array) for array in arrays)
    stacked = np.full((len(arrays), longest, *arrays[0].shape[1:]), filler, dtype=arrays[0].dtype)
    there = np.zeros((len(arrays), longest), dtype=bool)
    for number, array in enumerate(arrays):
        stacked[number, : len(array)], there[number, : len(array)] = array, True
    return torch.from_numpy(stacked), torch.from_numpy(there)
