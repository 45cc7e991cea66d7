"""What became of every part of a conversation, and why.

Owns the report's values and its totals. Knows nothing about how a decision is made.

Decisions
- A part that became pages carries its `Guarded` text: `restore(part.guarded)` is the original, to the character, and
  what the pages show is `part.guarded.text`. Nothing is lost that the report cannot give back.
- Totals are of texts and of our pages. Images that were in the messages, and the few tokens by which an API frames a
  message, cost the same before and after and are not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from vist.gateway.markers import Guarded

IMAGED, KEPT = "imaged", "kept"


@dataclass(frozen=True)
class Part:
    """A part of a message and what became of it.

    Attributes:
        message: index of the message that was given.
        block: index of the block in its content; None where the content is a string or it is about the message.
        inner: index of the block inside a tool result's content; None for any other.
        role: the message's role.
        kind: `text`, `document`, `tool_result`, `tool_call`, `image` or `other`.
        decision: `imaged` or `kept`.
        reason: a sentence.
        before: tokens of the text, 0 for what is none.
        after: tokens of what stands in its place.
        exact: whether the texts were counted with the model's tokenizer, not estimated.
        pages_in: index of the returned message that holds the pages; None when kept.
        sizes: (width, height) of each page in px.
        guarded: the text on the pages and the kept strings; None when kept.
        images: the pages as PNG files.
    """

    message: int
    block: int | None
    inner: int | None
    role: str
    kind: str
    decision: str
    reason: str
    before: int = 0
    after: int = 0
    exact: bool = False
    pages_in: int | None = None
    sizes: tuple[tuple[int, int], ...] = ()
    guarded: Guarded | None = None
    images: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def pages(self) -> int:
        """How many pages it became."""
        return len(self.sizes)

    @property
    def kept_strings(self) -> tuple[str, ...]:
        """The strings that stand as text beside the pages."""
        return tuple(kept.text for kept in self.guarded.kept) if self.guarded else ()


@dataclass(frozen=True)
class Report:
    """All parts in order; `profile` is the row by which was counted, None for a model without one."""

    parts: tuple[Part, ...]
    profile: str | None

    @property
    def before(self) -> int:
        """Tokens of all texts as they were given."""
        return sum(part.before for part in self.parts)

    @property
    def after(self) -> int:
        """Tokens of all texts and pages as they are returned."""
        return sum(part.after for part in self.parts)

    @property
    def pages(self) -> int:
        """Pages drawn."""
        return sum(part.pages for part in self.parts)

    @property
    def imaged(self) -> tuple[Part, ...]:
        """The parts that became pages."""
        return tuple(part for part in self.parts if part.decision == IMAGED)

    @property
    def saving(self) -> float:
        """Share of the tokens that is saved, 0 to 1."""
        return 1 - self.after / self.before if self.before else 0.0

    @property
    def exact(self) -> bool:
        """Whether no text was estimated."""
        return all(part.exact for part in self.parts if part.before)

    def sentence(self) -> str:
        """Tell the totals to a person."""
        how, pages = "" if self.exact else " (estimated)", "1 page" if self.pages == 1 else f"{self.pages} pages"
        return (
            f"{len(self.imaged)} of {len(self.parts)} parts became {pages}: {self.before:,} tokens before, "
            f"{self.after:,} after, {self.saving:.0%} saved{how}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold, without the texts."""
        return {
            "profile": self.profile,
            "before": self.before,
            "after": self.after,
            "pages": self.pages,
            "exact": self.exact,
            "parts": [_plain(part) for part in self.parts],
        }


@dataclass(frozen=True)
class Compressed:
    """What `compress_messages` returns.

    Attributes:
        messages: the messages to send.
        report: what became of every part.
        settled: how many of the first messages stay the same, byte for byte, while the conversation grows: a
            breakpoint of a prompt cache belongs at the end of them.
    """

    messages: list[Any] = field(repr=False)
    report: Report
    settled: int


def _plain(part: Part) -> dict[str, Any]:
    names: Iterable[str] = (
        "message", "block", "inner", "role", "kind", "decision", "reason", "before", "after", "exact", "pages_in",
        "pages",
    )  # fmt: skip
    return {name: getattr(part, name) for name in names} | {"kept": len(part.kept_strings)}
