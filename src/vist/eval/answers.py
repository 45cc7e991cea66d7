"""Scoring short answers: exact match and F1 after SQuAD's normalisation.

Owns the normalisation and the two scores. Does not know questions or models.

Decisions
- Normalised means, in this order: lower case, ASCII punctuation removed (not replaced by a blank), the words a, an and
  the replaced by a blank, runs of blanks made one. Other punctuation and accents stay: the rules are SQuAD's.
- An answer scores its best over all accepted ones.
- F1 is over the multiset of words; two answers that are both empty after normalisation agree.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """An answer in the form in which it is compared."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Sequence[str]) -> float:
    """1 where the answer is one of the accepted, normalised; else 0."""
    return float(any(normalize(answer) == normalize(right) for right in accepted))


def word_f1(answer: str, accepted: Sequence[str]) -> float:
    """The best harmonic mean of precision and recall of words over the accepted answers."""
    return max((_f1(normalize(answer).split(), normalize(right).split()) for right in accepted), default=0.0)


def _f1(said: list[str], right: list[str]) -> float:
    if not said or not right:
        return float(said == right)
    common = sum((Counter(said) & Counter(right)).values())
    return 2 * common / (len(said) + len(right))
