"""Teaching TextViT to read: pages with the characters of every patch as targets.

Owns: reading targets, the data, the loss and the accuracy of reading. Must not know about LLMs.

Shapes: X pages, N patches, S slots, A classes, V vocabulary, F text tokens that begin on a page.

Decisions
- Targets are exact, from the layout: patch n names, in order, the characters whose centre lies in it.
- Every style of the recipe and a share of random strings are mixed in: prose alone teaches to guess words, and what
  must survive (numbers, names, identifiers) cannot be guessed.
- Pages are also cut short, so that the encoder meets every amount of blank paper.
- Each patch also names, by a linear map of its feature, the text tokens that begin in it. Where the words of an
  alphabetic text are cut into tokens depends on letters far outside a patch; the encoder sees them, while whoever
  reads its features afterwards sees a few patches at a time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase

from vist.render import Layout, PageStyle, layout, render
from vist.train.corpus import PackedCorpus
from vist.train.tokenizer import first_visible
from vist.vision.text_vit import EMPTY, OTHER, TextViTConfig, TextViTModel

TOKEN_SLOTS = 4  # text tokens that can begin in one patch
TOKEN_WEIGHT = 0.5
IGNORED = -100

PAGE_CHARACTERS = 1400  # more than the densest style holds


@dataclass(frozen=True)
class ReadingMix:
    """What TextViT reads in training.

    Attributes:
        styles: weight of each named page style.
        domains: weight of each corpus domain.
        random_strings: share of pages that hold random strings instead of text.
        short_pages: share of pages that are cut at a random length.
        typographic: share of pages whose straight quotes and double hyphens become curly quotes and dashes, which most
            of the corpus lacks.
    """

    styles: Mapping[str, float]
    domains: Mapping[str, float]
    random_strings: float = 0.15
    short_pages: float = 0.1
    typographic: float = 0.4


def reading_targets(placed: Layout, text: str, config: TextViTConfig, page: int = 0) -> np.ndarray:
    """(N, S) int64 classes of the characters of one page: 0 empty, 1 another character, 2.. place in the alphabet.

    Characters without width (swallowed blanks, joiners) are not named. Characters beyond the last slot are left out.
    """
    (rows, columns), slots = config.grid, config.slots
    classes = {char: number for number, char in enumerate(config.alphabet, start=OTHER + 1)}
    targets = np.full((rows * columns, slots), EMPTY)
    here = np.flatnonzero((placed.page == page) & (placed.advance > 0))
    cells = patch_of(placed, here)
    used = np.zeros(rows * columns, dtype=np.int64)
    for character, cell in zip(here.tolist(), cells.tolist(), strict=True):
        if used[cell] < slots:
            char = " " if text[character].isspace() else text[character]
            targets[cell, used[cell]] = classes.get(char, OTHER)
            used[cell] += 1
    return targets


def patch_of(placed: Layout, characters: np.ndarray) -> np.ndarray:
    """Reading-order number of the patch in which each of these characters has its centre."""
    return placed.row[characters] * placed.style.cols + placed.cells()[characters]


def token_targets(placed: Layout, text: str, tokenizer: PreTrainedTokenizerBase) -> np.ndarray:
    """(N, TOKEN_SLOTS) ids of the text tokens that begin in each patch of the first page, in order; IGNORED = none.

    A token begins at the centre of its first visible character. Those beyond the last slot are left out.
    """
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    starts = first_visible(text, np.array(encoded.offset_mapping).reshape(-1, 2))
    targets = np.full((placed.style.rows * placed.style.cols, TOKEN_SLOTS), IGNORED)
    drawn = np.flatnonzero((placed.page[starts] == 0) & (placed.advance[starts] > 0))
    used = np.zeros(len(targets), dtype=np.int64)
    for number, patch in zip(drawn.tolist(), patch_of(placed, starts[drawn]).tolist(), strict=True):
        if used[patch] < TOKEN_SLOTS:
            targets[patch, used[patch]] = encoded.input_ids[number]
            used[patch] += 1
    return targets


def random_text(rng: np.random.Generator, alphabet: str, length: int) -> str:
    """Words of random characters: digits, hexadecimal, letters, or anything of the alphabet."""
    pools = ("0123456789", "0123456789abcdef", alphabet[33:59] + alphabet[65:91], alphabet[1:95], alphabet[1:])
    words: list[str] = []
    while sum(map(len, words)) + len(words) < length:
        pool = pools[rng.integers(len(pools))]
        words.append("".join(pool[place] for place in rng.integers(0, len(pool), int(rng.integers(1, 12)))))
    return " ".join(words)


def typographic(text: str) -> str:
    """The text with curly quotes for straight ones and dashes for double hyphens."""
    text = re.sub(r"(?<!\S)\"|(?<=[(\[—])\"", "“", text).replace('"', "”")
    text = re.sub(r"(?<!\S)'|(?<=[(\[“—])'", "‘", text).replace("'", "’")
    return text.replace("--", "—")


class ReadingPages(Dataset):
    """Pages with their targets, each a pure function of (seed, index)."""

    def __init__(
        self,
        corpus: PackedCorpus,
        tokenizer: PreTrainedTokenizerBase,
        config: TextViTConfig,
        mix: ReadingMix,
        samples: int,
        seed: int,
    ):
        self.corpus, self.tokenizer, self.config, self.mix = corpus, tokenizer, config, mix
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self.seed, index))
        names = list(self.mix.styles)
        weights = np.array([self.mix.styles[name] for name in names])
        style = PageStyle.named(names[rng.choice(len(names), p=weights / weights.sum())])
        text = self._text(rng)
        return {
            **page_sample(text, style, self.config),
            "tokens": token_targets(layout(text, style), text, self.tokenizer),
        }

    def _text(self, rng: np.random.Generator) -> str:
        length = int(rng.integers(1, PAGE_CHARACTERS)) if rng.random() < self.mix.short_pages else PAGE_CHARACTERS
        if rng.random() < self.mix.random_strings:
            return random_text(rng, self.config.alphabet, length)
        text = self.corpus.window(rng, self.mix.domains, length)
        return typographic(text) if rng.random() < self.mix.typographic else text


def page_sample(text: str, style: PageStyle, config: TextViTConfig) -> dict[str, np.ndarray]:
    """The first page of a text: pixels (H, W) uint8, ink (N,) bool, targets (N, S)."""
    pages = render(text, style)
    targets = reading_targets(layout(text, style), text, config)
    return {"pixels": pages.pixels[0], "ink": pages.ink[0].reshape(-1), "targets": targets}


def collate_pages(rows: Sequence[Mapping[str, np.ndarray]]) -> dict[str, Any]:
    """`pixel_values` (X, H, W) uint8, `ink_mask` (X, N) bool, `labels` (X, N, S); `tokens` where the rows have them."""
    names = {"pixels": "pixel_values", "ink": "ink_mask", "targets": "labels", "tokens": "tokens"}
    return {names[key]: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0]}


class Reader(nn.Module):
    """TextViT with its reading losses, in the shape that the Trainer expects.

    The head for text tokens belongs to the training: the encoder is kept without it.
    """

    def __init__(self, encoder: TextViTModel, vocab_size: int):
        super().__init__()
        self.encoder = encoder
        width = encoder.config.hidden_size
        self.token_slots = nn.Linear(width, TOKEN_SLOTS * width)
        self.token_head = nn.Linear(width, vocab_size)

    def forward(
        self, pixel_values: torch.Tensor, ink_mask: torch.Tensor, labels: torch.Tensor, tokens: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Cross-entropy over the slots of inked patches and over their text tokens; shares of both named right."""
        features = self.encoder(pixel_values, ink_mask)
        logits = self.encoder.read_logits(features[ink_mask])
        wanted = labels[ink_mask]
        reading_loss = F.cross_entropy(logits.flatten(0, 1).float(), wanted.flatten())
        right, total = reading_score(logits, wanted)
        token_loss, token_accuracy = self._name_tokens(features[ink_mask], tokens[ink_mask])
        return {
            "loss": reading_loss + TOKEN_WEIGHT * token_loss,
            "reading_loss": reading_loss,
            "token_loss": token_loss,
            "reading_accuracy": right / total.clamp(min=1),
            "token_accuracy": token_accuracy,
        }

    def _name_tokens(self, features_ND: torch.Tensor, tokens_NS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        patch, slot = (tokens_NS != IGNORED).nonzero(as_tuple=True)
        wanted_F = tokens_NS[patch, slot]
        slots_NSD = self.token_slots(features_ND).unflatten(-1, (TOKEN_SLOTS, -1))
        scores_FV = self.token_head(slots_NSD[patch, slot]).float()
        loss = F.cross_entropy(scores_FV, wanted_F, reduction="sum") / max(1, len(wanted_F))
        return loss, (scores_FV.argmax(-1) == wanted_F).float().sum() / max(1, len(wanted_F))


def reading_score(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """How many characters are named right in their slot, and how many there are; empty slots do not count."""
    there = targets != EMPTY
    return ((logits.argmax(-1) == targets) & there).sum(), there.sum()
