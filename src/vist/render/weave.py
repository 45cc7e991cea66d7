"""Several sources as one text to draw, and the way back from its characters to theirs.

Owns headers, line numbers, folded repeats and the record of where each stretch came from. Knows no files and no
pages.

Decisions
- The text comes out in pieces as it goes in, so sources of any length take the same memory.
- What is added (headers, numbers, the line that stands for repeats) belongs to no source; what is folded away belongs
  to the line that stands for it. So every character of a source is on exactly one page, as in all of this package.
- Only whole lines that follow each other are folded, and only where the line that says so is shorter.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from vist.errors import VistError


@dataclass(frozen=True)
class Source:
    """A text by name; `lines` are its lines with their ends, or pieces of any size."""

    name: str
    pieces: Iterable[str]


@dataclass(frozen=True)
class Weaving:
    """What is done to sources on the way.

    Attributes:
        headers: a line with the name before each source.
        numbers: every line begins with its number, from 1.
        fold: lines that repeat the one before become one line that says how many there were.
    """

    headers: bool = False
    numbers: bool = False
    fold: bool = False


@dataclass
class Woven:
    """The text of sources; iterate it once, and ask `spans` about what was yielded so far.

    `names` are those of the sources, in order.
    """

    sources: Iterable[Source]
    how: Weaving = Weaving()
    names: list[str] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)  # where stretches begin in the text
    _stretches: list[tuple[int, int, int, bool]] = field(default_factory=list)  # source, its first, its end, as it is
    _length: int = 0

    def __iter__(self) -> Iterator[str]:
        for source in self.sources:
            number, at = len(self.names), 0
            self.names.append(source.name)
            if self.how.headers:
                yield self._add(("\n" if self._length else "") + f"=== {source.name} ===\n")
            if self.how.numbers or self.how.fold:
                yield from self._lines(source, number)
                continue
            for piece in source.pieces:
                yield self._add(piece, number, at, at + len(piece))
                at += len(piece)

    def _lines(self, source: Source, number: int) -> Iterator[str]:
        at = index = 0
        for line, count in (
            _runs(_split(source.pieces)) if self.how.fold else ((line, 1) for line in _split(source.pieces))
        ):
            index += 1
            if self.how.numbers:
                yield self._add(f"{index:>5} ")
            yield self._add(line, number, at, at + len(line))
            at += len(line)
            if count > 1:
                note = _note(count - 1)
                yield self._add(note, number, at, at + (count - 1) * len(line))
                at, index = at + (count - 1) * len(line), index + count - 1

    def _add(self, text: str, source: int = -1, start: int = 0, end: int = 0) -> str:
        """Note where a stretch of the text comes from, joined to the one before where it goes on."""
        plain = end - start == len(text)
        if text and source >= 0:
            last = self._stretches[-1] if self._stretches else None
            ends = self._starts[-1] + last[2] - last[1] if last else 0
            if last and last[0] == source and last[2] == start and last[3] and plain and ends == self._length:
                self._stretches[-1] = (source, last[1], end, True)
            else:
                self._starts.append(self._length)
                self._stretches.append((source, start, end, plain))
        self._length += len(text)
        return text

    def spans(self, start: int, end: int) -> list[tuple[str, int, int]]:
        """Return (name, first character, one after the last) of what stands between two places of the text.

        A line that stands for repeats gives all of them if its beginning lies there, and nothing otherwise.

        Raises:
            VistError: a place that was not yielded yet.
        """
        if not 0 <= start <= end <= self._length:
            raise VistError(f"The text has {self._length} characters so far; {start} to {end} is not in it.")
        found: list[tuple[int, int, int]] = []
        for index in range(max(0, bisect_right(self._starts, start) - 1), bisect_right(self._starts, end - 1)):
            begins, (source, first, last, plain) = self._starts[index], self._stretches[index]
            if plain:
                first, last = first + max(0, start - begins), min(last, first + end - begins)
            elif not start <= begins < end:
                continue
            if first >= last:
                continue
            if found and found[-1][0] == source and found[-1][2] == first:
                found[-1] = (source, found[-1][1], last)
            else:
                found.append((source, first, last))
        return [(self.names[source], first, last) for source, first, last in found]


def _split(pieces: Iterable[str]) -> Iterator[str]:
    """Lines with their ends from pieces of any size."""
    rest: list[str] = []
    for piece in pieces:
        lines = piece.splitlines(keepends=True) if "\n" in piece else [piece]
        for line in lines:
            rest.append(line)
            if line.endswith("\n"):
                yield "".join(rest)
                rest = []
    if rest:
        yield "".join(rest)


def _runs(lines: Iterable[str]) -> Iterator[tuple[str, int]]:
    """Each line with how often it follows itself; a run that is shorter than its note comes line by line."""
    last, count = None, 0
    for line in lines:
        if line == last:
            count += 1
            continue
        yield from _run(last, count)
        last, count = line, 1
    yield from _run(last, count)


def _run(line: str | None, count: int) -> Iterator[tuple[str, int]]:
    if line is None:
        return
    if (count - 1) * len(line) > len(_note(count - 1)):
        yield line, count
    else:
        for _ in range(count):
            yield line, 1


def _note(count: int) -> str:
    return f"[the line above {count} more time{'' if count == 1 else 's'}]\n"
