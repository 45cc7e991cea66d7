"""Where a text token stands among the visual tokens of its chunk: which of them, and in which part of its strip.

Owns that arithmetic and the guide of a sequence. Must not know about models or losses.

Decisions
- A visual token is a strip of patches. It is cut into parts of equal width, counted from its first patch whatever the
  ratio, so that one part always means the same places of the aligner's input.
- Few strips are as long as the aligner has room for. The parts are those of one patch less, which makes them narrow
  enough for digits to have one each; what lies behind belongs to the last.
- A guide says, for every place of a sequence, at which place the token that it predicts can be looked up, and in which
  part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from vist.model.chunks import DrawnChunk, decode
from vist.model.vist2_processing import IGNORED, Stretch, Vist2Processor
from vist.render import PageStyle, layout
from vist.train.tokenizer import first_visible

NOWHERE = -1


@dataclass(frozen=True)
class Strips:
    """How visual tokens are read: page style, the patches that are cut into parts, and how many parts."""

    style: PageStyle
    room: int
    parts: int

    @classmethod
    def of(cls, processor: Vist2Processor, parts: int) -> Strips:
        """For the chunks of this processor."""
        return cls(processor.page_style, max(1, (processor.patches_per_token or 1) - 1), parts)

    def places(self, text: str, pages: DrawnChunk, characters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For these characters of a chunk's text: their visual token and its part; NOWHERE = not drawn."""
        placed, ink = layout(text, self.style), pages.ink.reshape(-1)
        patches, cell = int(ink.sum()), placed.cells()[characters]
        patch = (placed.page[characters] * self.style.rows + placed.row[characters]) * self.style.cols + cell
        drawn = (placed.advance[characters] > 0) & ink[patch]
        rank = np.cumsum(ink)[patch] - 1
        token = rank * pages.count // max(1, patches)
        first = -(-token * patches // pages.count)
        width = self.style.row_height
        centre = (2 * placed.x[characters] + placed.advance[characters]) // 2
        inside = np.clip(centre - cell * width, 0, width - 1)
        part = np.minimum(((rank - first) * width + inside) * self.parts // (self.room * width), self.parts - 1)
        return np.where(drawn, token, NOWHERE), np.where(drawn, part, NOWHERE)


@dataclass(frozen=True)
class Tokens:
    """A text with its token ids and the first visible character of each."""

    text: str
    ids: list[int]
    starts: np.ndarray
    spans: np.ndarray

    @classmethod
    def of(cls, text: str, tokenizer: PreTrainedTokenizerBase) -> Tokens:
        """Without special tokens."""
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        spans = np.array(encoded.offset_mapping).reshape(-1, 2)
        return cls(text, list(encoded.input_ids), first_visible(text, spans), spans)


def guide_of(
    stretches: Sequence[Stretch],
    starts: Sequence[int],
    source: Tokens,
    origins: np.ndarray,
    tokenizer: PreTrainedTokenizerBase,
    strips: Strips,
) -> tuple[np.ndarray, np.ndarray]:
    """(T,) where the token that each place predicts can be looked up, and in which part; NOWHERE = it cannot.

    `stretches` a sequence whose drawn chunks begin at the tokens `starts` of `source`. `origins`: for the last
    predicted tokens of the sequence, in order, the character of `source` that each is a copy of, -1 = none.
    """
    length = sum(len(stretch.ids) for stretch in stretches)
    where, part = np.full(length, NOWHERE), np.full(length, NOWHERE)
    predicts = np.array([token for stretch in stretches for token in stretch.predicts])
    asking = np.flatnonzero(predicts != IGNORED)
    count = min(len(asking), len(origins))
    asking, origins = asking[len(asking) - count :], origins[len(origins) - count :]
    place, drawn = 0, iter(starts)
    for stretch in stretches:
        if stretch.pages is not None:
            token = next(drawn)
            own = source.ids[token : token + stretch.pages.tokens]
            low, high = (source.spans[token, 0], source.spans[token + len(own) - 1, 1]) if own else (0, 0)
            asked = (origins >= low) & (origins < high) & (asking >= place + len(stretch.ids) - 1)
            text = source.text[low:high]
            if asked.any() and text == decode(tokenizer, own):
                found, part[asking[asked]] = strips.places(text, stretch.pages, origins[asked] - low)
                where[asking[asked]] = np.where(found == NOWHERE, NOWHERE, place + found)
        place += len(stretch.ids)
    return where, part


def chunk_starts(stretches: Sequence[Stretch], before: int) -> list[int]:
    """The first token of each drawn chunk of a sequence that holds the text of its chunks, less `before` tokens."""
    starts, count = [], -before
    for stretch in stretches:
        if stretch.pages is not None:
            starts.append(count - stretch.pages.tokens)
        else:
            count += len(stretch.ids)
    return starts
