"""How many tokens a text has when its tokenizer is not at hand: a sum over classes of characters.

Owns the classes, the coefficients and the sum. Knows nothing about models or providers.

Decisions
- Words cost by the word and by the letter, digits by groups of three (by the digit where the tokenizer does so),
  punctuation by the run, everything outside ASCII by the character and script. Linear in the text, a few ms for
  100 kB.
- How the coefficients were found. Least squares of the relative error, no coefficient below zero, against four
  tokenizers that public packages carry: o200k_base and cl100k_base (tiktoken), DeepSeek-V3's, and the one that
  Anthropic published in 2023. The ASCII classes were fitted on 240 windows of 12,000 characters of English books, code,
  documentation, mathematics and reference pages, the scripts then on the translations that Django ships in 42
  languages (sentences of a user interface), the ASCII part held fixed.
- How far off it is, on 120 other windows of English and code: half of them within 3 %, 19 of 20 within 12 % (6 % for
  the 2023 tokenizer), the worst 19 %, the sum within 2.5 %. On the Universal Declaration of Human Rights in 107
  languages: half within 17 to 23 %, 9 of 10 within 36 to 48 %, too low where words are long and plain ASCII (Zulu
  -55 %), too high for Russian (+36 %) and Vietnamese (+59 %). Count with the tokenizer where it matters.
- A script that no fit has seen counts 2 tokens a character: a byte-level tokenizer without merges for it falls back to
  three bytes, of which it usually has learned to join the first two.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping

_WORD = re.compile(r"[A-Za-z]+")
_DIGITS = re.compile(r"[0-9]+")
_PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]+")
_UNSEEN = 2.0

# First code point of each run of code points of one class, beyond ASCII.
_STARTS = (
    (0x0080, "latin"),
    (0x0370, "greek"),
    (0x0400, "cyrillic"),
    (0x0530, "armenian"),
    (0x0590, "hebrew"),
    (0x0600, "arabic"),
    (0x0780, "unseen"),
    (0x0900, "indic"),
    (0x0E00, "thai"),
    (0x0E80, "unseen"),
    (0x1000, "myanmar"),
    (0x10A0, "georgian"),
    (0x1100, "hangul"),
    (0x1200, "unseen"),
    (0x1780, "khmer"),
    (0x1800, "unseen"),
    (0x1E00, "vietnamese"),
    (0x1F00, "greek"),
    (0x2000, "dashes"),
    (0x2070, "symbols"),
    (0x2E80, "han"),
    (0x3040, "kana"),
    (0x3100, "han"),
    (0xA000, "unseen"),
    (0xAC00, "hangul"),
    (0xD7B0, "unseen"),
    (0xF900, "han"),
    (0xFB00, "arabic"),
    (0xFF00, "han"),
    (0xFFF0, "unseen"),
    (0x1F000, "symbols"),
    (0x20000, "han"),
    (0x32000, "unseen"),
)
_POINTS = [start for start, _ in _STARTS]

# Tokens of a unit of each class. `threes` is a group of up to three digits, `digits` a single one.
COEFFICIENTS: Mapping[str, Mapping[str, float]] = {
    "o200k_base": {
        "words": 0.88,
        "letters": 0.03,
        "threes": 1.34,
        "digits": 0,
        "punctuation": 1.13,
        "newlines": 0.35,
        "latin": 0.82,
        "vietnamese": 0,
        "greek": 0.41,
        "cyrillic": 0.35,
        "armenian": 0.42,
        "hebrew": 0.45,
        "arabic": 0.35,
        "indic": 0.45,
        "thai": 0.41,
        "myanmar": 0.54,
        "georgian": 0.39,
        "khmer": 0.6,
        "hangul": 0.68,
        "kana": 0.61,
        "han": 0.79,
        "dashes": 1.16,
        "symbols": 2.07,
    },
    "cl100k_base": {
        "words": 0.93,
        "letters": 0.02,
        "threes": 1.42,
        "digits": 0,
        "punctuation": 1.09,
        "newlines": 0.36,
        "latin": 1.91,
        "vietnamese": 0,
        "greek": 1.05,
        "cyrillic": 0.56,
        "armenian": 2.12,
        "hebrew": 1.15,
        "arabic": 0.84,
        "indic": 1.58,
        "thai": 0.94,
        "myanmar": 1.95,
        "georgian": 2.08,
        "khmer": 1.63,
        "hangul": 1.08,
        "kana": 0.91,
        "han": 1.1,
        "dashes": 1.11,
        "symbols": 1.8,
    },
    "deepseek-v3": {
        "words": 0.7,
        "letters": 0.07,
        "threes": 1.15,
        "digits": 0,
        "punctuation": 1.05,
        "newlines": 0.81,
        "latin": 1.77,
        "vietnamese": 0,
        "greek": 0.53,
        "cyrillic": 0.4,
        "armenian": 0.68,
        "hebrew": 0.55,
        "arabic": 0.43,
        "indic": 0.66,
        "thai": 0.37,
        "myanmar": 0.76,
        "georgian": 0.8,
        "khmer": 1.14,
        "hangul": 0.81,
        "kana": 0.61,
        "han": 0.62,
        "dashes": 1.11,
        "symbols": 1.94,
    },
    "claude-2023": {
        "words": 0.85,
        "letters": 0.05,
        "threes": 0.39,
        "digits": 0.44,
        "punctuation": 1.18,
        "newlines": 0.66,
        "latin": 2.96,
        "vietnamese": 0.55,
        "greek": 1.3,
        "cyrillic": 0.63,
        "armenian": 2.13,
        "hebrew": 1.05,
        "arabic": 1.13,
        "indic": 1.95,
        "thai": 1.82,
        "myanmar": 0.91,
        "georgian": 1.38,
        "khmer": 2.89,
        "hangul": 1.31,
        "kana": 0.96,
        "han": 1.03,
        "dashes": 1.98,
        "symbols": 1.42,
    },
}


def estimate_tokens(text: str, table: str) -> int:
    """Return the estimated tokens of a text by the coefficients of `table`, a key of COEFFICIENTS; 0 for no text."""
    return price_classes(count_classes(text), table)


def price_classes(classes: Counter[str], table: str) -> int:
    """Return the estimated tokens of what `count_classes` counted, of one text or of several added up."""
    price = COEFFICIENTS[table]
    return math.ceil(sum(count * price.get(name, _UNSEEN) for name, count in classes.items()))


def count_classes(text: str) -> Counter[str]:
    """Return how often each class occurs: runs for words and punctuation, characters beyond ASCII by script."""
    words, digits = _WORD.findall(text), _DIGITS.findall(text)
    classes = Counter(
        words=len(words),
        letters=sum(map(len, words)),
        threes=sum((len(run) + 2) // 3 for run in digits),
        digits=sum(map(len, digits)),
        punctuation=len(_PUNCTUATION.findall(text)),
        newlines=text.count("\n"),
    )
    if not text.isascii():
        for character, count in Counter(text).items():
            if character > "\x7f":
                classes[_STARTS[bisect_right(_POINTS, ord(character)) - 1][1]] += count
    return classes
