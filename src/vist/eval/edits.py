"""Edit distance and the error rates that are made of it.

Owns the distance and the counting of characters and words. Does not know pages or models.

Decisions
- Levenshtein: insertions, deletions and substitutions cost one each. A row of the table is one vector operation; the
  insertions, which run along the row, are a running minimum.
- Rates are not computed here: errors and lengths are, so that texts can be added up before they are divided.
- Characters are Unicode code points, words are what blanks separate; runs of blanks count as one, since a page does not
  show more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def edit_distance(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Fewest insertions, deletions and substitutions that make one sequence the other."""
    if len(first) < len(second):
        first, second = second, first
    codes: dict[Any, int] = {}
    rows, columns = (np.array([codes.setdefault(item, len(codes)) for item in items]) for items in (first, second))
    places = np.arange(len(columns) + 1)
    previous = places.copy()
    for number, item in enumerate(rows.tolist(), start=1):
        current = np.empty_like(previous)
        current[0] = number
        np.minimum(previous[1:] + 1, previous[:-1] + (columns != item), out=current[1:])
        previous = np.minimum.accumulate(current - places) + places
    return int(previous[-1])


def shown(text: str) -> str:
    """A text with runs of blanks as one and none at its ends."""
    return " ".join(text.split())


def character_errors(reference: str, read: str) -> tuple[int, int]:
    """Wrong characters and the characters of the reference."""
    reference, read = shown(reference), shown(read)
    return edit_distance(reference, read), len(reference)


def word_errors(reference: str, read: str) -> tuple[int, int]:
    """Wrong words and the words of the reference."""
    return edit_distance(reference.split(), read.split()), len(reference.split())
