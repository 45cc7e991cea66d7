"""Training data of the visual context: distant text as pages, proximal text as tokens.

Owns: samples and batches for `VistForConditionalGeneration`. Must not know how the model is built or optimised.

Shapes: B batch, P pages, T proximal tokens, L distant tokens.

Decisions
- Pages are rendered here, in the data loader's workers, from samples that are pure functions of (seed, index).
- The distant text's token ids come along for PVE only, masked by frequency; the model does not read them as text.
- A share of the batches shows the distant part as text instead of pages, so that a language model that still learns
  keeps reading both. Whole batches, since text is several times longer than the visual tokens it stands for.
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
from vist.render import PageStyle, layout, render
from vist.train.alignment import visual_token_of
from vist.train.corpus import PackedCorpus
from vist.train.examples import Example, ExampleMix, draw_example
from vist.train.tokenizer import first_visible


@dataclass(frozen=True)
class ContextShape:
    """How much is read.

    Attributes:
        distant: shortest and longest distant text in characters.
        tokens: proximal tokens, BOS included.
        masking: which distant tokens PVE leaves out.
        masking_rate: share of them.
        text_share: share of batches with the distant part as text.
        text_distant: shortest and longest distant text of those, in characters.
        text_tokens: their most tokens in all.
    """

    distant: tuple[int, int]
    tokens: int
    masking: MaskingStrategy = "frequency"
    masking_rate: float = 0.5
    text_share: float = 0.0
    text_distant: tuple[int, int] = (150, 2800)
    text_tokens: int = 1024


class ContextSamples(Dataset):
    """Pages and text of one example each. `parts` (sub-tokens) of a visual token are what the guide points at."""

    def __init__(
        self,
        corpus: PackedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        style: PageStyle,
        visual_tokens: int,
        parts: int,
        mix: ExampleMix,
        shape: ContextShape,
        importance: np.ndarray,
        samples: int,
        batch_size: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.style, self.mix, self.shape = corpus, tokenizer, style, mix, shape
        self.importance = torch.from_numpy(importance)
        self.parts, self.samples, self.batch_size, self.seed = parts, samples, batch_size, seed
        self.group = -(-style.rows * style.cols // visual_tokens)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        as_text = np.random.default_rng((self.seed, index // self.batch_size, 1)).random() < self.shape.text_share
        low, high = self.shape.text_distant if as_text else self.shape.distant
        example = draw_example(self.corpus, self.mix, rng, int(rng.integers(low, high + 1)), self.shape.tokens * 4)
        encoded = self.tokenizer(example.proximal, add_special_tokens=False, return_offsets_mapping=True)
        proximal = encoded.input_ids[: self.shape.tokens - 1]
        distant = self._ids(example.distant)
        if as_text:
            room = self.shape.text_tokens - 1 - len(proximal)
            return {"prompt": np.array([self.tokenizer.bos_token_id, *distant[-room:], *proximal])}
        pages = render(example.distant, self.style)
        return {
            "prompt": np.array([self.tokenizer.bos_token_id, *proximal]),
            "guide": self._guide(example, pages.ink, encoded.offset_mapping[: len(proximal)]),
            "pixels": pages.pixels,
            "ink": pages.ink,
            "context": np.array(distant),
            "keep": self._keep(distant, int(rng.integers(2**62))),
        }

    def _guide(self, example: Example, ink: np.ndarray, offsets: Sequence[tuple[int, int]]) -> np.ndarray:
        """(T + 1,) the part of a visual token where what comes after each place of the prompt begins; else -1.

        `offsets` are the character spans of the T proximal tokens.
        """
        source = example.origins(first_visible(example.proximal, np.array(offsets).reshape(-1, 2)))
        guide = np.full(len(offsets) + 1, -1)
        found = np.flatnonzero(source >= 0)
        placed = layout(example.distant, self.style)
        guide[found] = visual_token_of(placed, ink, source[found], self.group, self.parts)
        return guide

    def _keep(self, ids: list[int], seed: int) -> np.ndarray:
        generator = torch.Generator().manual_seed(seed)
        shape = self.shape
        kept = frequency_mask(torch.tensor(ids), self.importance, shape.masking_rate, shape.masking, generator)
        return kept.numpy()

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def collate(self, rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
        """The model's arguments; pages are padded with blank ones, text on the right."""
        pad = self.tokenizer.pad_token_id
        ids, there = _stack([row["prompt"] for row in rows], pad)
        batch = {
            "input_ids": ids,
            "attention_mask": there.long(),
            "labels": ids.masked_fill(~there, -100),
        }
        if "pixels" in rows[0]:
            batch["guide"], _ = _stack([row["guide"] for row in rows], -1)
            batch["pixel_values"], _ = _stack([row["pixels"] for row in rows], self.style.background)
            batch["ink_mask"], _ = _stack([row["ink"] for row in rows], False)
            batch["context_ids"], _ = _stack([row["context"] for row in rows], pad)
            batch["context_keep"], _ = _stack([row["keep"] for row in rows], False)
        return batch


def _stack(arrays: Sequence[np.ndarray], filler: int | bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrays of different length as one (B, longest, ...) tensor, and which places (B, longest) are real."""
    longest = max(len(array) for array in arrays)
    stacked = np.full((len(arrays), longest, *arrays[0].shape[1:]), filler, dtype=arrays[0].dtype)
    there = np.zeros((len(arrays), longest), dtype=bool)
    for number, array in enumerate(arrays):
        stacked[number, : len(array)], there[number, : len(array)] = array, True
    return torch.from_numpy(stacked), torch.from_numpy(there)
