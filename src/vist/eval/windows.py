"""Cutting texts into windows: distant text that fills whole pages, and the proximal text right after it.

Owns where windows begin and end, and where the texts come from. Does not know models' outputs or conditions' metrics.

Decisions
- The distant part is measured in pages, because pages are what the reader pays for: it is the longest piece before
  the proximal text that fits the wanted number, found by laying the text out, so the last page is full too.
- Both parts begin and end between words, at a blank or a line break, as in training. Split there, the two tokenized
  apart are the one token sequence of the whole.
- Windows of one document are spread evenly over it; places that are too near the start to fill the pages are left out.
- Only the text around a window is tokenized and laid out: a document of any length costs the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from vist.errors import VistError
from vist.eval.conditions import Passage
from vist.eval.reader import Reader
from vist.render import PageStyle, layout
from vist.train.corpus import documents

TEXTS = Path(__file__).parent.parent / "assets" / "texts"
BOOK, OTHER_BOOK = "alice_in_wonderland", "flatland_opening"
_CHARACTERS_PER_TOKEN = 12  # more than any language needs on average
_IDEOGRAPHS = "\u2e80"  # from here on in Unicode, scripts are written without blanks
_NARROWEST = 2  # pixels: no row holds more characters than its width over this


@dataclass(frozen=True)
class Window:
    """One place of a document: its number, the distant text, and the token ids of the proximal text after it."""

    document: int
    distant: str
    proximal: tuple[int, ...]


def packaged_text(name: str) -> str:
    """A public-domain text that comes with the package: "alice_in_wonderland" or "flatland_opening"."""
    return (TEXTS / f"{name}.txt").read_text(encoding="utf-8")


def read_documents(paths: Sequence[Path], limit: int | None = None) -> Iterator[str]:
    """The documents of text, Parquet and JSON Lines files, at most `limit`.

    Raises VistError as `vist.train.corpus.documents` does.
    """
    return islice((text for path in paths for text in documents(path)), limit)


def count_pages(text: str, style: PageStyle) -> int:
    """Pages that a text fills."""
    return len(layout(text, style).spans)


def fill_pages(text: str, pages: int, style: PageStyle) -> str:
    """The longest end of `text`, from the start of a word, that fits on `pages` pages; all of it if it fits.

    A text without a place to cut is cut anywhere. Found by halving: about twelve layouts of a few thousand characters.
    """
    text = text[-pages * style.rows * style.text_width // _NARROWEST :]
    starts = [0, *(place for place in range(1, len(text)) if is_border(text, place - 1))]
    kept = _longest_fit(text, starts, pages, style)
    if kept is None:
        kept = _longest_fit(text, range(len(text)), pages, style)
    return kept or ""


def _longest_fit(text: str, starts: Sequence[int], pages: int, style: PageStyle) -> str | None:
    """The longest piece from one of `starts` to the end that fits, None if not even the last one does."""
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        if count_pages(text[starts[middle] :], style) <= pages:
            high = middle
        else:
            low = middle + 1
    return text[starts[low] :] if low < len(starts) else None


def is_border(text: str, place: int) -> bool:
    """Whether a text may be cut at this character: a blank, a line break, or a sign of a script without blanks."""
    return text[place].isspace() or text[place] >= _IDEOGRAPHS


def next_border(text: str, place: int) -> int:
    """The first border at or after `place`, or the end of the text."""
    while place < len(text) and not is_border(text, place):
        place += 1
    return place


def cut_window(reader: Reader, text: str, end: int, pages: int, proximal: int, document: int = 0) -> Window | None:
    """The window whose proximal part is the last `proximal` tokens of `text[:end]`, or a few more to begin at a border.

    None where the text before `end` is too short.
    """
    offset = max(0, end - proximal * _CHARACTERS_PER_TOKEN)
    ids, places = reader.ids_with_places(text[offset:end])
    if len(ids) <= proximal:
        return None
    first = first_token(text[offset:end], places, len(ids) - proximal)
    reach = pages * reader.style.rows * reader.style.text_width // _NARROWEST
    place = offset + places[first]
    distant = fill_pages(text[max(0, place - reach) : place], pages, reader.style)
    if count_pages(distant, reader.style) < pages:
        return None
    return Window(document, distant, tuple(ids[first:]))


def first_token(text: str, places: Sequence[int], wanted: int) -> int:
    """The last token up to `wanted` that begins at a border; `wanted` itself where there is none near."""
    for token in range(wanted, max(0, wanted - 64), -1):
        if is_border(text, places[token]) and places[token] != places[token - 1]:
            return token
    return wanted


def cut_windows(
    reader: Reader, texts: Iterable[str], pages: int, proximal: int, windows: int
) -> tuple[list[Window], int]:
    """Up to `windows` windows of each text, evenly spread, and the number of texts too short for even one.

    Raises VistError when no text is long enough.
    """
    found: list[Window] = []
    short, longest = 0, 0
    for number, text in enumerate(texts):
        longest = max(longest, len(text))
        last = cut_window(reader, text, len(text), pages, proximal, number)
        if last is None:
            short += 1
            continue
        needed = len(last.distant) + len(reader.tokenizer.decode(last.proximal))
        ends = np.linspace(min(len(text), round(needed * 1.1)), len(text), windows)[:-1].round().astype(int)
        cuts = (cut_window(reader, text, next_border(text, int(end)), pages, proximal, number) for end in ends)
        found += [cut for cut in cuts if cut is not None] + [last]
    if not found:
        raise VistError(
            f"No text fills {pages} pages and {proximal} tokens after them (the longest has {longest} characters); "
            "give longer texts or lower --pages or --proximal."
        )
    return found, short


def with_wrong_texts(reader: Reader, windows: Sequence[Window], pages: int) -> list[Passage]:
    """Each window beside the distant text of a window of another document, which fills as many pages.

    With a single document the other text is a packaged book.
    """
    return [
        Passage(window.distant, wrong, window.proximal)
        for window, wrong in zip(windows, _wrong_texts(reader, windows, pages), strict=True)
    ]


def _wrong_texts(reader: Reader, windows: Sequence[Window], pages: int) -> list[str]:
    if len({window.document for window in windows}) == 1:
        other = packaged_text(OTHER_BOOK if windows[0].distant not in packaged_text(OTHER_BOOK) else BOOK)
        places = np.linspace(len(other) // 2, len(other), len(windows)).round().astype(int)
        return [fill_pages(other[: next_border(other, int(place))], pages, reader.style) for place in places]
    wrong = []
    for number, window in enumerate(windows):
        following = (windows[(number + step) % len(windows)] for step in range(1, len(windows)))
        wrong.append(next(other.distant for other in following if other.document != window.document))
    return wrong
