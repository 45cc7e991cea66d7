"""Chunks of text: where one ends, and what becomes of it.

Owns the rule that ends a chunk, the cutting of a text into chunks, and the drawing of one. Knows tokenizers and pages;
does not know models, caches or batches.

Decisions
- The rule looks only at the tokens so far, so a text that is read and the same text while it is written are cut alike.
- A chunk ends at its size, or up to `tolerance` tokens earlier where a sentence ends. It never ends inside a character:
  byte-level tokens may split one, and a page can only show whole ones.
- Special tokens carry structure and cannot be drawn. One ends the chunk before it, stays text and is in no chunk.
- A text that cannot be drawn without loss stays text, whole, with the reason. So does one that holds U+FFFD, which is
  what a tokenizer makes of bytes that are no character.
- A chunk that needs more than one page has several; nothing is cut. Its pages are one strip of patches.
- A chunk of t tokens asks for t / ratio visual tokens, and gets more where its patches would not fit into those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerBase

from vist.errors import VistError
from vist.render import PageStyle, render

CHARACTER_TOKENS = 4  # the most tokens that one character of UTF-8 is split into
SENTENCE_ENDS = tuple(".!?…。！？\n")
CLOSERS = "\"'”’»)]}"
NO_CHARACTER = "\ufffd"


class Piece(NamedTuple):
    """A stretch of a text's tokens: `kind` "chunk" (finished), "open" (the unfinished last one) or "special".

    `full` of a chunk: it ended by the rule, so what follows it is predicted from its pages; otherwise a special token
    ended it, and was predicted from its text.
    """

    kind: Literal["chunk", "open", "special"]
    ids: tuple[int, ...]
    full: bool


@dataclass(frozen=True, eq=False)
class DrawnChunk:
    """The pages of a chunk, `pixels` (P,H,W) uint8 and `ink` (P,rows,cols) bool, its text and its visual tokens."""

    pixels: np.ndarray
    ink: np.ndarray
    tokens: int  # of text
    count: int  # visual tokens


class Undrawn(NamedTuple):
    """Why a chunk stays text, in a sentence, and its beginning."""

    reason: str
    text: str


@dataclass(frozen=True)
class ChunkRule:
    """When a chunk ends.

    Attributes:
        size: text tokens of a chunk.
        tolerance: how many tokens before `size` the end of a sentence is enough.
    """

    size: int = 128
    tolerance: int = 16

    def __post_init__(self) -> None:
        if self.size < 1:
            raise VistError(f"The chunk size is {self.size}, but must be at least 1 token.")
        if not 0 <= self.tolerance < self.size:
            raise VistError(
                f"The tolerance is {self.tolerance} tokens; it must be 0 or more and below the chunk size {self.size}."
            )

    def ends(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> bool:
        """Whether a chunk of these tokens is finished."""
        if len(ids) < self.size - self.tolerance:
            return False
        if len(ids) >= self.size + CHARACTER_TOKENS - 1:
            return True  # bytes that never become a character
        tail = decode(tokenizer, ids[-2 * CHARACTER_TOKENS :])
        if tail.endswith(NO_CHARACTER):
            return False
        return len(ids) >= self.size or tail.rstrip(CLOSERS + " ").endswith(SENTENCE_ENDS)

    def cut(self, ids: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Iterator[Piece]:
        """The pieces of a text, in order; joined they are the text."""
        special = set(tokenizer.all_special_ids)
        current: list[int] = []
        for token in ids:
            if token in special:
                if current:
                    yield Piece("chunk", tuple(current), full=False)
                    current = []
                yield Piece("special", (token,), full=False)
                continue
            current.append(token)
            if self.ends(current, tokenizer):
                yield Piece("chunk", tuple(current), full=True)
                current = []
        if current:
            yield Piece("open", tuple(current), full=False)


@dataclass(frozen=True)
class Budget:
    """How many visual tokens a chunk gets.

    Attributes:
        ratio: text tokens per visual token.
        patches_per_token: most patches that one visual token can take; None = any number.
        most: most visual tokens of a chunk; None = any number.
    """

    ratio: float = 4.0
    patches_per_token: int | None = 8
    most: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.ratio, int | float) and 1 <= self.ratio < math.inf):
            raise VistError(f"The ratio is {self.ratio!r}, but must be a number of text tokens per visual token, 1 up.")

    def tokens(self, text_tokens: int, patches: int) -> int:
        """Visual tokens of a chunk of so many text tokens, drawn in so many patches; at least 1."""
        room = 1 if self.patches_per_token is None else -(-patches // self.patches_per_token)
        wanted = max(self.asked(text_tokens), room)
        return wanted if self.most is None else min(wanted, self.most)

    def asked(self, text_tokens: int) -> int:
        """Visual tokens that the ratio alone would give."""
        return max(1, math.ceil(text_tokens / self.ratio))

    def check(self, chunks: Sequence[tuple[int, int]]) -> None:
        """Raises VistError when (text tokens, visual tokens) of these chunks are less than half the ratio asked for."""
        given = sum(visual for _, visual in chunks)
        asked = sum(self.asked(text) for text, _ in chunks)
        if given > 2 * asked:
            reached = sum(text for text, _ in chunks) / given
            raise VistError(
                f"The aligner cannot give a ratio of {self.ratio:g}: it takes at most {self.patches_per_token} patches "
                f"per visual token, and this text reaches {reached:.1f} text tokens per visual token; "
                "ask for a lower ratio or draw with a smaller font."
            )


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of these tokens, as it is."""
    text = tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
    assert isinstance(text, str)
    return text


def draw_chunk(text: str, tokens: int, style: PageStyle, budget: Budget) -> DrawnChunk | Undrawn:
    """The pages of a chunk of `tokens` text tokens, or why it cannot be drawn without loss."""
    if NO_CHARACTER in text:
        return Undrawn("It holds bytes that are no character.", text[:40])
    pages = render(text, style)
    if pages.loss:
        return Undrawn(pages.loss.sentence(), text[:40])
    return DrawnChunk(pages.pixels, pages.ink, tokens, budget.tokens(tokens, int(pages.ink.sum())))
