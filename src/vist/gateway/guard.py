"""The verbatim guard: which parts of a text must survive to the letter, whatever reads the pages.

Owns the policy and the decision. A model that reads pages misreads a hash without noticing, so what cannot be guessed
from its surroundings is kept as text beside the pages (`markers` ties it to its place). Knows nothing about pages.

Decisions
- Spans never overlap. Of two that do, the longer gives the kind and both together are kept: a half-kept string is a
  string lost. Of equals, the earlier in KINDS.
- `<verbatim>...</verbatim>` is obeyed always and first: nothing else reaches into it, tags nest, and a tag that is
  never closed reaches to the end of the text and gets a kind of its own, so that it can be reported. Found outside
  a pair, a closing tag is text.
- Names that code defines and seldom uses are kept: nothing else in the text would correct one that was misread.
- Quoted strings are kept on request only: they can be most of a text. So are times of day without a date: three small
  numbers that the lines around them confirm, and a third of a log if they are all kept.
- What the caller knows that pages cannot show is kept like the rest, whatever the policy says.
- A user's expressions run as they are. Those that match nothing at all, or nest one unbounded repeat in another, are
  refused: the latter can take forever on a text of a few lines.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from vist.errors import VistError
from vist.gateway import patterns
from vist.gateway.definitions import find_identifiers

VERBATIM = "verbatim"
UNCLOSED = "verbatim-unclosed"
PATTERN = "pattern"
DEFAULT_KINDS = (
    "uuid", "hash", "key", "url", "email", "date", "account", "address", "version", "path", "number",
)  # fmt: skip
SWITCHED_KINDS = ("identifier", "time", "quote")  # each with a switch of its own
FOREIGN = "undrawn"
KINDS = (VERBATIM, UNCLOSED, PATTERN, *DEFAULT_KINDS, *SWITCHED_KINDS, FOREIGN)

_TAG = re.compile(r"</?verbatim>", re.IGNORECASE)
_REPEAT = re.compile(r"[*+]|\{\d*,\}")


class Span(NamedTuple):
    """Characters `start` to `end` of a text, and why they are kept."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True)
class GuardPolicy:
    """What the guard looks for.

    Attributes:
        kinds: what is kept by default, of DEFAULT_KINDS; marked spans are kept in any case.
        min_digits: digits from which a number is kept.
        identifiers: keep the names that code defines and seldom uses; on unless switched off.
        identifier_uses: occurrences up to which a defined name counts as seldom used, its definition included.
        quotes: keep quoted strings.
        times: keep times of day with seconds, such as 23:59:07; with a date they are kept anyway.
        patterns: regular expressions of the user; what they match is kept.

    Raises:
        VistError: a value of the wrong kind, or an expression that cannot be used.
    """

    kinds: tuple[str, ...] = DEFAULT_KINDS
    min_digits: int = 5
    identifiers: bool = True
    identifier_uses: int = 2
    quotes: bool = False
    times: bool = False
    patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, value in (("kinds", self.kinds), ("patterns", self.patterns)):
            if isinstance(value, str) or not all(isinstance(item, str) for item in value):
                raise VistError(f"GuardPolicy.{field} is {value!r}; give a tuple of strings.")
            object.__setattr__(self, field, tuple(value))
        unknown = [kind for kind in self.kinds if kind not in DEFAULT_KINDS]
        if unknown:
            raise VistError(f"GuardPolicy.kinds has {unknown[0]!r}; choose among {', '.join(DEFAULT_KINDS)}.")
        for field, number in (("min_digits", self.min_digits), ("identifier_uses", self.identifier_uses)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise VistError(f"GuardPolicy.{field} is {number!r}; give a whole number of at least 1.")
        for pattern in self.patterns:
            _compile(pattern)


def find_verbatim(text: str, policy: GuardPolicy | None = None, undrawn: Iterable[Span] = ()) -> list[Span]:
    """Return the parts of a text that must stay text: sorted, without overlaps, in time linear in the text.

    Args:
        text: any text.
        policy: what to look for; GuardPolicy() by default.
        undrawn: what pages cannot show; it is kept in any case.
    """
    policy = policy or GuardPolicy()
    marked = list(_marked(text))
    found = [Span(start, end, kind) for kind, ends in _found(text, policy) for start, end in ends if start < end]
    return _joined([*marked, *_outside([*found, *undrawn], marked)])


def _found(text: str, policy: GuardPolicy) -> Iterator[tuple[str, patterns.Ends]]:
    """What the finders that a policy asks for take, by kind."""
    for pattern in policy.patterns:
        yield PATTERN, (match.span() for match in _compile(pattern).finditer(text))
    tokens = patterns.find_tokens(text)
    for kind in policy.kinds:
        if kind in _BY_TEXT:
            yield kind, _BY_TEXT[kind](text)
    if "hash" in policy.kinds:
        yield "hash", patterns.find_hashes(tokens)
    if "key" in policy.kinds:
        yield "key", patterns.find_keys(text, tokens)
    if "address" in policy.kinds:
        yield "address", patterns.find_addresses(text, tokens)
    if "number" in policy.kinds:
        yield "number", patterns.find_numbers(text, tokens, policy.min_digits)
    if policy.times:
        yield "time", patterns.find_times(text)
    if policy.identifiers:
        yield "identifier", find_identifiers(text, policy.identifier_uses)
    if policy.quotes:
        yield "quote", patterns.find_quotes(text)


_BY_TEXT: dict[str, Callable[[str], patterns.Ends]] = {
    "uuid": patterns.find_uuids,
    "url": patterns.find_urls,
    "email": patterns.find_emails,
    "date": patterns.find_dates,
    "account": patterns.find_accounts,
    "version": patterns.find_versions,
    "path": patterns.find_paths,
}


def _marked(text: str) -> Iterator[Span]:
    """What stands between the user's tags, with the outermost tags."""
    depth = start = 0
    for tag in _TAG.finditer(text):
        if tag[0][1] != "/":
            start = start if depth else tag.start()
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                yield Span(start, tag.end(), VERBATIM)
    if depth:
        yield Span(start, len(text), UNCLOSED)


def _outside(spans: Iterable[Span], holes: list[Span]) -> Iterator[Span]:
    """The parts of spans that lie outside the holes, which are sorted and apart."""
    starts = [hole.start for hole in holes]
    for start, end, kind in spans:
        at = max(0, bisect_right(starts, start) - 1)
        while start < end and at < len(holes) and holes[at].start < end:
            if start < holes[at].start:
                yield Span(start, holes[at].start, kind)
            start = max(start, holes[at].end)
            at += 1
        if start < end:
            yield Span(start, end, kind)


def _joined(spans: Iterable[Span]) -> list[Span]:
    """Sorted spans with every overlap made one, named after its longest part."""
    joined: list[Span] = []
    longest = 0
    for span in sorted(spans, key=lambda span: (span.start, -span.end, KINDS.index(span.kind))):
        length = span.end - span.start
        if not joined or span.start >= joined[-1].end:
            joined.append(span)
            longest = length
            continue
        last = joined[-1]
        kind = span.kind if length > longest else last.kind
        longest = max(longest, length)
        joined[-1] = Span(last.start, max(last.end, span.end), kind)
    return joined


@lru_cache(maxsize=256)
def _compile(pattern: str) -> re.Pattern[str]:
    """A user's expression, refused with the reason when it cannot be used."""
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise VistError(f"The pattern {pattern!r} is not a regular expression ({error}); correct it.") from None
    if compiled.match("") or compiled.search(" "):
        raise VistError(f"The pattern {pattern!r} matches nothing or a blank; make it match what is to be kept.")
    if _nests_repeats(pattern):
        raise VistError(
            f"The pattern {pattern!r} repeats a repeat without bound and can take forever; bound one, as in {{1,80}}."
        )
    return compiled


def _nests_repeats(pattern: str) -> bool:
    """Whether a group that holds an unbounded repeat is itself repeated without bound."""
    held = [False]  # for each open group, whether it holds an unbounded repeat
    bare = re.sub(r"\\.", "x", pattern, flags=re.DOTALL)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "x", bare)
    at = 0
    closed = False  # whether the item before this place is a group that holds a repeat
    while at < len(bare):
        repeat = _REPEAT.match(bare, at)
        if repeat:
            if closed and bare[repeat.end() : repeat.end() + 1] != "+":  # a possessive repeat gives nothing back
                return True
            held[-1] = held[-1] or bare[repeat.end() : repeat.end() + 1] != "+"
            at = repeat.end() + (bare[repeat.end() : repeat.end() + 1] in ("+", "?") and 1)
            closed = False
            continue
        closed = False
        if bare[at] == "(":
            held.append(False)
        elif bare[at] == ")" and len(held) > 1:
            closed = held.pop()
            held[-1] = held[-1] or closed
        at += 1
    return False
