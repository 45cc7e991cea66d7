"""Where each word stands on its page and how much information it carries, for the overlay of the report.

Owns words' boxes and their importance s_w. Does not draw.

Decisions
- s_w comes from the token statistics saved beside the model (the training corpus, as the paper has it); where there are
  none, the shown text itself is counted, paragraph by paragraph, and the report says so.
- A word is as important as its rarest token.
- A word broken over two rows has a box in each.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vist.compress.frequency import TokenFrequency
from vist.eval.reader import Reader
from vist.render import layout

FREQUENCY_FILE = "token_frequency.safetensors"
COUNTED_IN_CORPUS = "token counts of the training corpus"
COUNTED_IN_TEXT = "token counts of this text itself, since the model carries no corpus statistics"


@dataclass(frozen=True)
class WordBox:
    """One word (or its part in one row): page, box in pixels, importance s_w and its rank among all boxes, 0 to 1."""

    word: str
    page: int
    x: int
    y: int
    width: int
    height: int
    importance: float
    rank: float


def token_importance(reader: Reader, text: str) -> tuple[np.ndarray, str]:
    """Importance s_w of every token (V,) and a phrase that says what was counted."""
    path = Path(str(reader.model.config.name_or_path)) / FREQUENCY_FILE
    if path.is_file():
        return TokenFrequency.load(path).importance(), COUNTED_IN_CORPUS
    paragraphs = [part for part in re.split(r"\n\s*\n", text) if part.strip()] or [text]
    vocabulary = max(len(reader.tokenizer), int(reader.model.config.text_config.vocab_size))
    counted = TokenFrequency.from_corpus((reader.ids(part) for part in paragraphs), vocabulary)
    return counted.importance(), COUNTED_IN_TEXT


def word_boxes(reader: Reader, text: str, importance: np.ndarray) -> list[WordBox]:
    """The boxes of all words of `text` on its pages; `importance` (V,) by token id."""
    places = layout(text, reader.style)
    by_character = _character_importance(reader, text, importance)
    found = []
    for match in re.finditer(r"\S+", text):
        start, stop = match.span()
        rows = places.page[start:stop].astype(np.int64) * reader.style.rows + places.row[start:stop]
        for row in np.unique(rows):
            inside = start + np.flatnonzero(rows == row)
            left, right = places.x[inside].min(), (places.x[inside] + places.advance[inside]).max()
            found.append((match.group(), int(row), int(left), int(right - left), float(by_character[start:stop].max())))
    return _ranked(found, reader.style.rows, reader.style.row_height)


def _character_importance(reader: Reader, text: str, importance: np.ndarray) -> np.ndarray:
    """For each character the importance of the token that it belongs to."""
    ids, places = reader.ids_with_places(text)
    values = np.full(len(text), -np.inf)
    borders = [*places, len(text)]
    for number, token in enumerate(ids):
        start, stop = borders[number], max(borders[number] + 1, borders[number + 1])
        values[start:stop] = np.maximum(values[start:stop], importance[token])
    return values


def _ranked(found: list[tuple[str, int, int, int, float]], rows: int, row_height: int) -> list[WordBox]:
    """Boxes with the share of other boxes that are less important: even colours, whatever the scale of s_w."""
    values = np.sort([item[-1] for item in found])
    return [
        WordBox(
            word=word,
            page=row // rows,
            x=left,
            y=row % rows * row_height,
            width=width,
            height=row_height,
            importance=value,
            rank=float(np.searchsorted(values, value, side="left") / max(1, len(values) - 1)),
        )
        for word, row, left, width, value in found
    ]
