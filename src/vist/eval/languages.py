"""Visual tokens against tokenizer tokens, language by language.

Owns the count of both and the share of characters that could not be drawn. Does not know how well they are read.

Decisions
- Counted page by page: the tokens of the page's text, and the visual tokens that the reducer really uses for it. The
  saving is 1 - visual / text over all pages; pages are resampled.
- A saving says nothing about quality: a script the encoder cannot read costs as little as one it can. The share of
  characters that no installed font has stands beside it, since an empty page is cheap too.
- The tokenizer is the model's unless another is named: a tokenizer made for English flatters every other language.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vist.errors import VistError
from vist.eval.labelled import read_table
from vist.eval.reader import Reader
from vist.eval.scores import Row, score_rows

_PAGES = 16
MAIN = ("Japanese", "Korean", "Chinese", "Arabic", "Hindi", "Thai", "German", "English")


@dataclass(frozen=True)
class LanguageText:
    """A text in one language."""

    language: str
    script: str
    text: str


def read_languages(file: Path, wanted: Sequence[str] = ()) -> list[LanguageText]:
    """The texts of a file with `text`, `language` and `script`, those whose language begins with a wanted name.

    Raises VistError for a missing column, an empty file, and a wanted language that is not there.
    """
    rows = read_table(file.parent, file.stem, ("text", "language", "script"))
    texts = [LanguageText(str(row["language"]), str(row["script"]), str(row["text"] or "")) for row in rows]
    texts = [item for item in texts if item.text.strip()]
    if not wanted:
        return texts
    found = []
    for name in wanted:
        chosen = [item for item in texts if item.language.lower().startswith(name.lower())]
        if not chosen:
            raise VistError(f"{str(file)!r} has no language {name!r}; for example it has {texts[0].language!r}.")
        found += chosen
    return list(dict.fromkeys(found))


def count_tokens(
    reader: Reader, text: str, tokens_of: Callable[[str], int], max_pages: int | None = None
) -> dict[str, np.ndarray]:
    """For each page of a text its `text` tokens, `visual` tokens, `characters` and those `lost`, (P,) each."""
    reader.tower("Counting visual tokens page by page")
    pages = reader.draw(text)
    if max_pages is not None:
        pages = pages[:max_pages]
    visual: list[int] = []
    with torch.inference_mode():
        for start in range(0, len(pages), _PAGES):
            some = [[pages[number]] for number in range(start, min(start + _PAGES, len(pages)))]
            visual += reader.encode_pages(reader.stack_pages(some)).mask.sum(1).tolist()
    texts = [pages[number].text for number in range(len(pages))]
    lost = [loss.count() for loss in pages.losses]
    counts = {"text": [tokens_of(page) for page in texts], "visual": visual, "lost": lost}
    return {name: np.array(values, dtype=float) for name, values in counts.items()} | {
        "characters": np.array([len(page) for page in texts], dtype=float)
    }


def language_rows(counts: dict[str, np.ndarray], resamples: int = 10_000, seed: int = 0, **axes: Any) -> list[Row]:
    """Text tokens per visual token, the saving, and the share of characters that could not be drawn."""
    shared: dict[str, Any] = {"pairs": (), "resamples": resamples, "seed": seed, **axes}
    return [
        *score_rows("ratio", {"visual": counts["text"]}, {"visual": counts["visual"]}, **shared),
        *score_rows("saving", {"visual": counts["text"] - counts["visual"]}, {"visual": counts["text"]}, **shared),
        *score_rows("lost", {"visual": counts["lost"]}, {"visual": counts["characters"]}, **shared),
    ]
