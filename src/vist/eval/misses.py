"""How a question about a planted needle fails.

Owns the classes of failure and their order. Does not know models or texts.

Decisions
- Refused: nothing visible, or words that say it is not known. Other: the answer to another needle of the shown context
  comes first. Characters: what comes is the right answer with at most half of its characters wrong. Made up: the rest.
- In this order: another needle's answer can look like the right one with wrong characters, and counts as the former.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import StrEnum

from vist.eval.edits import edit_distance

_REFUSAL = re.compile(
    r"^\W*(?:not (?:known|mentioned|stated|given|found)|unknown|no answer|none|nothing"
    r"|i (?:do not|don't|cannot|can't))\b",
    re.IGNORECASE,
)


class Miss(StrEnum):
    """What a wrong answer is."""

    REFUSED = "refused"
    OTHER = "other"
    CHARACTERS = "characters"
    MADE_UP = "made up"


def classify(continuation: str, answer: str, others: Iterable[str]) -> Miss:
    """The class of a continuation that is not the answer; `others` are the other needles' answers of the context."""
    said = continuation.strip()
    if not said or _REFUSAL.match(said):
        return Miss.REFUSED
    if any(begins_with(said, other) for other in others if other != answer):
        return Miss.OTHER
    nearest = min(edit_distance(answer, said[: len(answer) + more]) for more in (-1, 0, 1))
    return Miss.CHARACTERS if nearest <= len(answer) / 2 else Miss.MADE_UP


def begins_with(said: str, answer: str) -> bool:
    """Whether an answer comes first, with no letter or digit after it."""
    return said.startswith(answer) and not said[len(answer) : len(answer) + 1].isalnum()
