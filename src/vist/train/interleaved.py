"""Training data of VIST2: sequences in which finished chunks are pages, for each of its three stages.

Owns: what is read back, the curriculum, which tokens count. Source: VIST2 (arXiv 2601.10378): OCR-style warm-up,
optical language modelling with a growing visual history, modal-interleaved instruction tuning. Must not know how the
model is built or optimised.

Shapes: B batch, T places, M visual tokens of the batch, S text tokens named per visual token.

Decisions
- Samples are pure functions of (seed, index), the curriculum included: its place is the sample's share of the stage.
- Reading back: pages first, then their text; every token of it is predictable from the pages. A share of the pages
  holds random strings, since prose alone teaches to guess.
- Optical language modelling: chunks of history are pages with a probability that the curriculum raises, the others
  stay text. Every text token counts, also those of chunks whose text is dropped afterwards.
- Instructions: only the answer and its end token count.
- `names` (M,S) are the text tokens that begin in the patches of each visual token, where a stage asks for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from vist.fuse.interleave import Role
from vist.model.chunks import Budget, DrawnChunk, decode
from vist.model.vist2_processing import IGNORED, Stretch, Vist2Processor
from vist.render import layout
from vist.train.corpus import PackedCorpus
from vist.train.examples import ExampleMix, draw_example
from vist.train.instructions import draw_instruction
from vist.train.reading import random_text
from vist.train.tokenizer import first_visible
from vist.vision.text_vit import ASCII

NAMES = 12  # text tokens named per visual token; later ones are left out
CHARACTERS_PER_TOKEN = 4


@dataclass(frozen=True)
class Curriculum:
    """How hard a stage's samples are, from its beginning to `until` (a share of the stage), then constant.

    Attributes:
        visual: share of history chunks that are pages.
        chunks: most chunks of a sample.
        ratio: highest text tokens per visual token; samples are drawn between the first value and this one.
        until: where the rise ends.
    """

    visual: tuple[float, float] = (1.0, 1.0)
    chunks: tuple[int, int] = (1, 4)
    ratio: tuple[float, float] = (2.0, 4.0)
    until: float = 0.6

    def at(self, progress: float) -> tuple[float, int, float]:
        """`visual`, `chunks` and the highest `ratio` at this share of the stage (0 to 1)."""
        part = min(1.0, progress / self.until) if self.until > 0 else 1.0
        visual, chunks, ratio = (low + (high - low) * part for low, high in (self.visual, self.chunks, self.ratio))
        return visual, round(chunks), ratio


class InterleavedSamples(Dataset, ABC):
    """What the three stages have in common: drawing by index, collating. A subclass says what a sample is."""

    def __init__(
        self, corpus: PackedCorpus, processor: Vist2Processor, curriculum: Curriculum, samples: int, seed: int
    ):
        self.corpus, self.processor, self.curriculum = corpus, processor, curriculum
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> list[Stretch]:
        rng = np.random.default_rng((self.seed, index))
        visual, chunks, ratio = self.curriculum.at(index / self.samples)
        ratio = float(rng.uniform(min(self.curriculum.ratio[0], ratio), ratio))
        budget = Budget(ratio, self.processor.patches_per_token, self.processor.max_visual_tokens)
        return self.sample(rng, int(rng.integers(1, chunks + 1)), visual, budget)

    @abstractmethod
    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> list[Stretch]:
        """The stretches of one sequence."""

    def collate(self, rows: Sequence[list[Stretch]]) -> dict[str, Any]:
        """The model's arguments."""
        return self.processor.pack([[row] for row in rows])

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids

    def start(self) -> Stretch:
        """The special token that every sequence begins with."""
        return Stretch(Role.KEPT, [self.processor.tokenizer.bos_token_id])


class ReadBack(InterleavedSamples):
    """Stage (a): the pages of one or more chunks, then their text. With `names` for the alignment."""

    def __init__(self, *args: Any, domains: Mapping[str, float], random_strings: float = 0.15):
        super().__init__(*args)
        self.domains, self.random_strings = domains, random_strings

    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> list[Stretch]:
        """Pages that can be drawn, then all of their text in one stretch."""
        length = (chunks + 1) * self.processor.chunk_size * CHARACTERS_PER_TOKEN
        strange = rng.random() < self.random_strings
        text = random_text(rng, ASCII, length) if strange else self.corpus.window(rng, self.domains, length)
        pieces = [piece for piece in self.processor.pieces(self.ids(text)) if piece.kind != "special"][:chunks]
        stretches = [self.start()]
        copied: list[int] = []
        for piece in pieces:
            drawn = self.processor.draw(piece.ids, budget)
            if isinstance(drawn, DrawnChunk):
                stretches += self.processor.frame(drawn)
                copied += piece.ids
        stretches[-1].predicts[-1] = copied[0] if copied else IGNORED
        return [*stretches, Stretch(Role.TEXT, copied, predicts=[*copied[1:], IGNORED])]

    def collate(self, rows: Sequence[list[Stretch]]) -> dict[str, Any]:
        """The model's arguments and `names` (M,S)."""
        names = [self._names(row) for row in rows]
        return {**super().collate(rows), "names": torch.from_numpy(np.concatenate(names))}

    def _names(self, row: list[Stretch]) -> np.ndarray:
        """Names of a sequence's visual tokens. The copied text is the pages' own, in their order."""
        copied = list(row[-1].ids)
        found = [np.zeros((0, NAMES), np.int64)]
        for stretch in row:
            if stretch.pages is not None:
                own, copied = copied[: stretch.pages.tokens], copied[stretch.pages.tokens :]
                found.append(token_names(self.processor, own, stretch.pages))
        return np.concatenate(found)


def token_names(processor: Vist2Processor, ids: Sequence[int], pages: DrawnChunk) -> np.ndarray:
    """(K,S) the text tokens that begin in the patches of each visual token of a chunk, in order; IGNORED = no more."""
    text = decode(processor.tokenizer, ids)
    encoded = processor.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    names = np.full((pages.count, NAMES), IGNORED)
    if list(encoded.input_ids) != list(ids) or not pages.ink.any():
        return names  # a chunk cut where the tokenizer alone would not cut: its tokens have no exact places
    starts = first_visible(text, np.array(encoded.offset_mapping).reshape(-1, 2))
    placed = layout(text, processor.page_style)
    rank = np.cumsum(pages.ink.reshape(-1)) - 1
    patch = (placed.page[starts] * placed.style.rows + placed.row[starts]) * placed.style.cols + placed.cells()[starts]
    drawn = (placed.advance[starts] > 0) & pages.ink.reshape(-1)[patch]
    token = rank[patch] * pages.count // int(pages.ink.sum())
    used = np.zeros(pages.count, np.int64)
    for number in np.flatnonzero(drawn).tolist():
        where = token[number]
        if used[where] < NAMES:
            names[where, used[where]] = ids[number]
            used[where] += 1
    return names


class OpticalText(InterleavedSamples):
    """Stage (b): plain text, recall and quotation, with a growing share of its history as pages."""

    def __init__(self, *args: Any, mix: ExampleMix):
        super().__init__(*args)
        self.mix = mix

    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> list[Stretch]:
        """One text of about so many chunks and the beginning of another."""
        size = self.processor.chunk_size
        near = size * CHARACTERS_PER_TOKEN
        example = draw_example(self.corpus, self.mix, rng, chunks * near, near)
        ids = [self.processor.tokenizer.bos_token_id, *self.ids(example.distant + example.proximal)]
        ids = ids[: (chunks + 2) * size]
        as_text = set(np.flatnonzero(rng.random(chunks + 3) >= visual).tolist())
        return self.processor.sequence(ids, budget=budget, as_text=as_text)


class Instructions(InterleavedSamples):
    """Stage (c): a text, a question about it, its answer; see instructions.py. Only the answer counts."""

    def __init__(self, *args: Any, tasks: Mapping[str, float], domains: Mapping[str, float]):
        super().__init__(*args)
        self.tasks, self.domains = tasks, domains

    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> list[Stretch]:
        """The text as pages, as far as it fills chunks; question and answer behind it."""
        length = chunks * self.processor.chunk_size * CHARACTERS_PER_TOKEN
        asked = draw_instruction(self.corpus, rng, self.tasks, self.domains, length)
        tokenizer = self.processor.tokenizer
        prompt, answer = self.ids(asked.prompt), [*self.ids(asked.answer), tokenizer.eos_token_id]
        stretches = self.processor.sequence([tokenizer.bos_token_id, *prompt, *answer], budget=budget)
        _keep_last(stretches, len(answer))
        return stretches


def _keep_last(stretches: list[Stretch], count: int) -> None:
    """Let only the last `count` predicted tokens of a sequence count."""
    places = [(s, n) for s in stretches for n, token in enumerate(s.predicts) if token != IGNORED]
    for stretch, number in places[:-count]:
        stretch.predicts[number] = IGNORED
