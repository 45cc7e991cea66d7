"""What was lost on the way from characters to pixels, counted by kind.

Owns `LossReport` and the sentence that tells a person about it. Knows nothing about pixels.

Decisions
- Four kinds are losses of content and make `on_loss="raise"` raise: `missing`, `replaced`, `dropped`, `unshaped`.
  `folded` is what the style asked for (a newline or tab drawn as a blank) and is only counted.
- Counts are per code point, so that a report names what to install or to clean.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from vist.errors import RenderLossError

KINDS = ("missing", "replaced", "dropped", "unshaped", "folded")
_MEANING = {
    "missing": "that no font has (drawn as U+FFFD)",
    "replaced": "that cannot be drawn (control characters or surrogates, drawn as U+FFFD)",
    "dropped": "that are invisible (left out)",
    "unshaped": "that need shaping, which this Pillow lacks (drawn letter by letter)",
    "folded": "drawn as a blank (newlines or tabs)",
}
_NAMED = 5  # code points that a sentence names


@dataclass(frozen=True)
class LossReport:
    """How often each code point was lost: `counts` maps (kind, code point) to a number of characters."""

    counts: Mapping[tuple[str, int], int] = field(default_factory=dict)

    def of(self, kind: str) -> dict[int, int]:
        """Return {code point: count} of one kind, most frequent first."""
        found = [(code, count) for (name, code), count in self.counts.items() if name == kind]
        return dict(sorted(found, key=lambda item: (-item[1], item[0])))

    @property
    def missing(self) -> dict[int, int]:
        """Code points that no font has a glyph for; drawn as U+FFFD."""
        return self.of("missing")

    @property
    def replaced(self) -> dict[int, int]:
        """Control characters and lone surrogates; drawn as U+FFFD."""
        return self.of("replaced")

    @property
    def dropped(self) -> dict[int, int]:
        """Invisible characters; they take no room on the page."""
        return self.of("dropped")

    @property
    def unshaped(self) -> dict[int, int]:
        """Characters drawn without the shaping or the order that their script needs."""
        return self.of("unshaped")

    @property
    def folded(self) -> dict[int, int]:
        """Newlines and tabs that the style draws as a blank."""
        return self.of("folded")

    def count(self, *kinds: str) -> int:
        """Return the number of characters lost in the given kinds, in all that lose content when none is given."""
        wanted = kinds or KINDS[:-1]
        return sum(count for (kind, _), count in self.counts.items() if kind in wanted)

    def __bool__(self) -> bool:
        return self.count() > 0

    @staticmethod
    def total(reports: Iterable[LossReport]) -> LossReport:
        """Return the sum of reports."""
        total: Counter[tuple[str, int]] = Counter()
        for report in reports:
            total.update(report.counts)
        return LossReport(total)

    def sentence(self) -> str:
        """Tell what was lost: counts by kind and the first code points of each."""
        parts = [_phrase(kind, self.of(kind)) for kind in KINDS if self.of(kind)]
        return ("Lost: " + "; ".join(parts) + ".") if parts else "Nothing was lost."

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Return {kind: {"U+XXXX": count}} with the kinds that occurred."""
        return {
            kind: {f"U+{code:04X}": count for code, count in self.of(kind).items()} for kind in KINDS if self.of(kind)
        }

    def check(self) -> None:
        """Raise RenderLossError when content was lost."""
        if self:
            raise RenderLossError(
                f"The text cannot be drawn without loss. {self.sentence()} "
                'Clean the text, install fonts that cover it, or allow loss with on_loss="report".'
            )


def _phrase(kind: str, counts: dict[int, int]) -> str:
    named = [_name(code) for code in list(counts)[:_NAMED]]
    more = ", ..." if len(counts) > _NAMED else ""
    total = sum(counts.values())
    return f"{total} {'character' if total == 1 else 'characters'} {_MEANING[kind]}: {', '.join(named)}{more}"


def _name(code: int) -> str:
    name = unicodedata.name(chr(code), "") if not 0xD800 <= code < 0xE000 else "SURROGATE"
    return f"U+{code:04X} {name}".rstrip()
