"""Training data of VIST2: sequences in which finished chunks are pages, for each of its three stages.

Owns: what is read back, the curriculum, which tokens count. Source: VIST2 (arXiv 2601.10378): OCR-style warm-up,
optical language modelling with a growing visual history, modal-interleaved instruction tuning. Must not know how the
model is built or optimised.

Shapes: B batch, T places.

Decisions
- Samples are pure functions of (seed, index), the curriculum included: its place is the sample's share of the stage.
- Reading back: pages first, then text of which almost every token is predictable from them: passages in any order,
  planted facts (many per page), or all of it from the beginning, some of it random strings, since prose alone teaches
  to guess.
- Optical language modelling: chunks of history are pages with a probability that the curriculum raises, the others
  stay text. Every text token counts, also those of chunks whose text is dropped afterwards.
- Instructions: only the answer and its end token count.
- Where the next token is a copy of something on a page, the sample says where to look it up (strips.py): next-token
  loss alone finds it many times more slowly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from vist.fuse.interleave import Role
from vist.model.chunks import Budget, DrawnChunk
from vist.model.vist2_processing import IGNORED, Stretch, Vist2Processor
from vist.train.corpus import PackedCorpus
from vist.train.examples import Example, ExampleMix, draw_example
from vist.train.instructions import draw_instruction
from vist.train.reading import random_text
from vist.train.strips import NOWHERE, Strips, Tokens, chunk_starts, guide_of
from vist.vision.text_vit import ASCII

CHARACTERS_PER_TOKEN = 4
SHORTEST = 150  # characters of a text to read back


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

    def draw(self, rng: np.random.Generator, progress: float, processor: Vist2Processor) -> tuple[int, float, Budget]:
        """Number of chunks, share that is visual, and the budget of a sample at this share of the stage."""
        visual, chunks, most = self.at(progress)
        ratio = float(rng.uniform(min(self.ratio[0], most), most))
        budget = Budget(ratio, processor.patches_per_token, processor.max_visual_tokens)
        return int(rng.integers(1, chunks + 1)), visual, budget


class Row(NamedTuple):
    """A sequence, and for each of its places where the token it predicts can be looked up: place and part, (T,)."""

    stretches: list[Stretch]
    where: np.ndarray
    part: np.ndarray


class InterleavedSamples(Dataset, ABC):
    """What the three stages have in common: drawing by index, collating. A subclass says what a sample is."""

    def __init__(
        self,
        corpus: PackedCorpus,
        processor: Vist2Processor,
        curriculum: Curriculum,
        samples: int,
        seed: int,
        parts: int = 1,
    ):
        self.corpus, self.processor, self.curriculum = corpus, processor, curriculum
        self.samples, self.seed = samples, seed
        self.strips = Strips.of(processor, parts)

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, index: int) -> Row:
        rng = np.random.default_rng((self.seed, index))
        return self.sample(rng, *self.curriculum.draw(rng, index / self.samples, self.processor))

    @abstractmethod
    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> Row:
        """One sequence."""

    def collate(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The model's arguments, and `guide` and `guide_part` (B,T)."""
        batch = self.processor.pack([[row.stretches] for row in rows])
        guide = np.full((2, *batch["roles"].shape), NOWHERE)
        for number, row in enumerate(rows):
            guide[:, number, : len(row.where)] = row.where, row.part
        return {**batch, "guide": torch.from_numpy(guide[0]), "guide_part": torch.from_numpy(guide[1])}

    def ids(self, text: str) -> list[int]:
        """Token ids of a text, nothing added."""
        return self.processor.tokenizer(text, add_special_tokens=False).input_ids

    def start(self) -> Stretch:
        """The special token that every sequence begins with."""
        return Stretch(Role.KEPT, [self.processor.tokenizer.bos_token_id])

    def row(self, stretches: list[Stretch], starts: list[int], source: Tokens, origins: np.ndarray) -> Row:
        """A sequence with its guide; see `guide_of`."""
        return Row(stretches, *guide_of(stretches, starts, source, origins, self.processor.tokenizer, self.strips))


class ReadBack(InterleavedSamples):
    """Stage (a): a text as pages, then passages of it, its planted facts, or all of it, to be read off the pages."""

    def __init__(self, *args: Any, mix: ExampleMix, whole: float, random_strings: float, tokens: int):
        super().__init__(*args)
        self.mix, self.whole, self.random_strings, self.tokens = mix, whole, random_strings, tokens

    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> Row:
        """Pages of the distant text, the last one of any length, then at most `tokens` of the proximal text."""
        most = chunks * self.characters
        example = self._example(rng, int(rng.integers(min(SHORTEST, most), most + 1)))
        distant = Tokens.of(example.distant, self.processor.tokenizer)
        near = Tokens.of(example.proximal, self.processor.tokenizer)
        stretches, starts, token = [self.start()], [], 0
        for piece in self.processor.pieces(distant.ids):
            drawn = self.processor.draw(piece.ids, budget)
            if isinstance(drawn, DrawnChunk):
                stretches += self.processor.frame(drawn)
                starts.append(token)
            token += len(piece.ids)
        copied = near.ids[: self.tokens]
        stretches[-1].predicts[-1] = copied[0]
        stretches.append(Stretch(Role.TEXT, copied, predicts=[*copied[1:], IGNORED]))
        return self.row(stretches, starts, distant, example.origins(near.starts[: self.tokens]))

    @property
    def characters(self) -> int:
        """Of a chunk, about."""
        return self.processor.chunk_size * CHARACTERS_PER_TOKEN

    def _example(self, rng: np.random.Generator, length: int) -> Example:
        near = self.tokens * CHARACTERS_PER_TOKEN
        if rng.random() >= self.whole:
            return draw_example(self.corpus, self.mix, rng, length, near)
        strange = rng.random() < self.random_strings
        text = random_text(rng, ASCII, length) if strange else self.corpus.window(rng, self.mix.domains, length)
        return Example("whole", text, text, ((0, 0, len(text)),))


class OpticalText(InterleavedSamples):
    """Stage (b): plain text, recall and quotation, with a growing share of its history as pages."""

    def __init__(self, *args: Any, mix: ExampleMix):
        super().__init__(*args)
        self.mix = mix

    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> Row:
        """One text of about so many chunks and the beginning of another."""
        size = self.processor.chunk_size
        near = size * CHARACTERS_PER_TOKEN
        example = draw_example(self.corpus, self.mix, rng, chunks * near, near)
        text = Tokens.of(example.distant + example.proximal, self.processor.tokenizer)
        ids = [self.processor.tokenizer.bos_token_id, *text.ids][: (chunks + 2) * size]
        as_text = set(np.flatnonzero(rng.random(chunks + 3) >= visual).tolist())
        stretches = self.processor.sequence(ids, budget=budget, as_text=as_text)
        origins = example.origins(text.starts[: len(ids) - 1] - len(example.distant))
        return self.row(stretches, chunk_starts(stretches, before=1), text, origins)


class Instructions(InterleavedSamples):
    """Stage (c): a text, a question about it, its answer; see instructions.py. Only the answer counts.

    A share of the samples, `replay`, is drawn from the stages `before`, each as often as the others, so that nothing
    learned there is lost.
    """

    def __init__(
        self,
        *args: Any,
        tasks: Mapping[str, float],
        domains: Mapping[str, float],
        replay: float = 0.0,
        before: Sequence[InterleavedSamples] = (),
    ):
        super().__init__(*args)
        self.tasks, self.domains, self.replay, self.before = tasks, domains, replay, before

    def sample(self, rng: np.random.Generator, chunks: int, visual: float, budget: Budget) -> Row:
        """The text as pages, as far as it fills chunks; question and answer behind it."""
        if self.before and rng.random() < self.replay:
            return self.before[int(rng.integers(len(self.before)))].sample(rng, chunks, visual, budget)
        length = chunks * self.processor.chunk_size * CHARACTERS_PER_TOKEN
        asked = draw_instruction(self.corpus, rng, self.tasks, self.domains, length)
        tokenizer = self.processor.tokenizer
        prompt, reply = Tokens.of(asked.prompt, tokenizer), Tokens.of(asked.answer, tokenizer)
        answer = [*reply.ids, tokenizer.eos_token_id]
        stretches = self.processor.sequence([tokenizer.bos_token_id, *prompt.ids, *answer], budget=budget)
        _keep_last(stretches, len(answer))
        copied = asked.copied_from
        origins = np.full(len(reply.ids), -1) if copied is None else reply.starts - 1 + copied  # a blank comes first
        return self.row(stretches, chunk_starts(stretches, before=1), prompt, np.append(origins, -1))


def _keep_last(stretches: list[Stretch], count: int) -> None:
    """Let only the last `count` predicted tokens of a sequence count."""
    places = [(s, n) for s in stretches for n, token in enumerate(s.predicts) if token != IGNORED]
    for stretch, number in places[:-count]:
        stretch.predicts[number] = IGNORED
