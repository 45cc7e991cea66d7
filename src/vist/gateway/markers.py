"""Kept strings and their places: numbered markers in the text that becomes pages, the strings as text beside them.

Owns `Guarded`, the text with markers and the list of what they stand for, and the way back. Which parts are kept is
`guard`'s decision.

Decisions
- A marker is plain ASCII, `[#3]`, so that every font can draw it and every reader has seen its like. If the text has
  such a thing already, the markers take one `#` more, as many as it needs to be none of the text's own.
- Equal strings share a number: the list is paid for as text.
- What stood in the text comes back exactly, the user's tags too; what the reader is shown is without the outermost
  tags.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from vist.errors import VistError
from vist.gateway.guard import UNCLOSED, VERBATIM, Span

_MARKER = re.compile(r"\[(#++)[0-9]++\]")
_OPENING = re.compile(r"<verbatim>", re.IGNORECASE)
_CLOSING = re.compile(r"</verbatim>\Z", re.IGNORECASE)


@dataclass(frozen=True)
class Kept:
    """A kept string.

    Attributes:
        number: the number of its markers, from 1.
        text: the string for the reader.
        kind: why it is kept, one of `guard.KINDS`.
        source: what stood in the text: `text`, with the user's tags if there were any.
    """

    number: int
    text: str
    kind: str
    source: str


@dataclass(frozen=True)
class Guarded:
    """A text to be drawn and what is kept beside it.

    Attributes:
        text: the text with a marker in place of every kept string.
        kept: the kept strings in the order of their numbers.
        hashes: how many `#` a marker has.
    """

    text: str
    kept: tuple[Kept, ...]
    hashes: int = 1

    @property
    def unclosed(self) -> bool:
        """Whether the text has an opening tag that is never closed: everything behind it was kept."""
        return any(kept.kind == UNCLOSED for kept in self.kept)

    def marker(self, number: int) -> str:
        """Return the marker with this number."""
        return f"[{'#' * self.hashes}{number}]"

    def legend(self) -> str:
        """Return the kept strings as text for the reader, one to a line behind its marker; empty when none is."""
        return "\n".join(f"{self.marker(kept.number)} {kept.text}" for kept in self.kept)


def annotate(text: str, spans: Sequence[Span]) -> Guarded:
    """Put a marker in place of every span.

    Args:
        text: the text in which the spans were found.
        spans: sorted and without overlaps, as `find_verbatim` returns them.

    Raises:
        VistError: spans that overlap, are out of order or lie outside the text.
    """
    taken = {len(match[1]) for match in _MARKER.finditer(text)}
    hashes = next(number for number in count(1) if number not in taken)
    numbers: dict[str, Kept] = {}
    parts, end = [], 0
    for span in spans:
        if not end <= span.start < span.end <= len(text):
            raise VistError(
                f"The span {span.start} to {span.end} is out of order or outside the text of {len(text)} characters; "
                "give sorted spans of this text that do not overlap."
            )
        source = text[span.start : span.end]
        if source not in numbers:
            numbers[source] = Kept(len(numbers) + 1, _without_tags(source, span.kind), span.kind, source)
        parts += [text[end : span.start], f"[{'#' * hashes}{numbers[source].number}]"]
        end = span.end
    return Guarded("".join([*parts, text[end:]]), tuple(numbers.values()), hashes)


def _without_tags(source: str, kind: str) -> str:
    """What the user marked, without the outermost tags."""
    if kind not in (VERBATIM, UNCLOSED):
        return source
    opening = _OPENING.match(source)
    inner = source[opening.end() :] if opening else source
    return _CLOSING.sub("", inner) if kind == VERBATIM else inner


def restore(guarded: Guarded) -> str:
    """Return the text from which `annotate` made this, to the character."""
    sources = {guarded.marker(kept.number): kept.source for kept in guarded.kept}
    marker = re.compile(rf"\[#{{{guarded.hashes}}}[0-9]+\]")
    return marker.sub(lambda match: sources.get(match[0], match[0]), guarded.text)
