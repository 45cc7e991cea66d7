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
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

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
    """How often each code point was lost, by kind.

    `missing`: no font has a glyph; `replaced`: control characters and lone surrogates; `dropped`: invisible
    characters; `unshaped`: drawn without the shaping their script needs; `folded`: newlines and tabs as blanks.
    """

    missing: Counter[int] = field(default_factory=Counter)
    replaced: Counter[int] = field(default_factory=Counter)
    dropped: Counter[int] = field(default_factory=Counter)
    unshaped: Counter[int] = field(default_factory=Counter)
    folded: Counter[int] = field(default_factory=Counter)

    def count(self, *kinds: str) -> int:
        """Return the number of characters lost in the given kinds, in all that lose content when none is given."""
        return sum(getattr(self, kind).total() for kind in kinds or KINDS[:-1])

    def __bool__(self) -> bool:
        return self.count() > 0

    @staticmethod
    def total(reports: Iterable[LossReport]) -> LossReport:
        """Return the sum of reports."""
        total = LossReport()
        for report in reports:
            for kind in KINDS:
                getattr(total, kind).update(getattr(report, kind))
        return total

    def sentence(self) -> str:
        """Tell what was lost: counts by kind and the first code points of each."""
        parts = [_phrase(kind, getattr(self, kind)) for kind in KINDS if getattr(self, kind)]
        return ("Lost: " + "; ".join(parts) + ".") if parts else "Nothing was lost."

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Return {kind: {"U+XXXX": count}} with the kinds that occurred."""
        return {
            kind: {f"U+{code:04X}": count for code, count in sorted(getattr(self, kind).items())}
            for kind in KINDS
            if getattr(self, kind)
        }

    def check(self) -> None:
        """Raise RenderLossError when content was lost."""
        if self:
            raise RenderLossError(
                f"The text cannot be drawn without loss. {self.sentence()} "
                'Clean the text, install fonts that cover it, or allow loss with on_loss="report".'
            )


def _phrase(kind: str, counts: Counter[int]) -> str:
    named = [_name(code) for code, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_NAMED]]
    more = ", ..." if len(counts) > _NAMED else ""
    total = counts.total()
    return f"{total} {'character' if total == 1 else 'characters'} {_MEANING[kind]}: {', '.join(named)}{more}"


def _name(code: int) -> str:
    name = unicodedata.name(chr(code), "") if not 0xD800 <= code < 0xE000 else "SURROGATE"
    return f"U+{code:04X} {name}".rstrip()


def count_losses(
    codes: np.ndarray, where: np.ndarray, kind_of: dict[int, str], page: np.ndarray, pages: int
) -> list[LossReport]:
    """Return a report for each page from the positions `where` of lost characters and their page numbers `page`.

    `codes` are the code points at those positions and `kind_of` names each one's kind.
    """
    reports = [LossReport() for _ in range(pages)]
    assert len(codes) == len(where) == len(page)
    for code, number in zip(codes.tolist(), page.tolist(), strict=True):
        getattr(reports[number], kind_of[code])[code] += 1
    return reports
