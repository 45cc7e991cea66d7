"""Text examples: which text a model is shown, and which part of it is distant.

Owns: the mix of plain windows, recall and quotation, as text. Used for the language model (everything as text) and for
the visual context (the distant part as pages). Must not know about tokenizers, pages or models.

Decisions
- An example is (distant, proximal). Read one after the other they are one plausible text, so the same example serves
  as a text-only sequence and as pages plus prompt, and the two can be compared.
- Recall: facts are planted in the distant text and asked for, all of them and in random order, in the proximal text.
- Quotation: the proximal text repeats passages of the distant text. Every token of it but the first few is
  predictable from the distant text, which is the densest signal there is for reading it back.
- A plain continuation copies too, a word at a time: a name or a long word that the distant text had is likelier to come
  again, and where it stood there is worth a look. `repeated_words` counts those words as copies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vist.train.corpus import PackedCorpus
from vist.train.facts import make_facts, plant

PARAGRAPH = "\n\n"
CUE = 14  # characters of a quotation or statement that must be seen before it is clear what is being repeated
NOTABLE = re.compile(r"\b(?:[^\W\d_a-z]\w{3,}|\w{7,})\b")  # with a capital and at least 4 letters, or with 7


@dataclass(frozen=True)
class Example:
    """One training text: `distant` becomes pages (or plain text), `proximal` stays text. `kind` names its objective.

    `copies` says which parts of the proximal text can be read off the distant text: (place in the proximal text, place
    in the distant text, length), in characters.
    """

    kind: str
    distant: str
    proximal: str
    copies: tuple[tuple[int, int, int], ...] = ()

    def origins(self, places: np.ndarray) -> np.ndarray:
        """Where in `distant` the characters at these places of `proximal` are copied from; -1 where they are not."""
        found = np.full(len(places), -1)
        for place, origin, length in self.copies:
            inside = (places >= place) & (places < place + length)
            found[inside] = places[inside] - place + origin
        return found


@dataclass(frozen=True)
class ExampleMix:
    """How often each kind of example is drawn, and from which domains.

    Attributes:
        kinds: weight of "continue", "recall" and "quote".
        domains: weight of each corpus domain.
        facts_per_kilobyte: planted facts per 1,000 characters of distant text, at most; at least one is planted.
        quote_characters: shortest and longest quotation.
        repeated_words: whether continuations count words that stand in both texts as copies.
    """

    kinds: Mapping[str, float]
    domains: Mapping[str, float]
    facts_per_kilobyte: float = 3.0
    quote_characters: tuple[int, int] = (60, 400)
    repeated_words: bool = False


def draw_example(
    corpus: PackedCorpus, mix: ExampleMix, rng: np.random.Generator, distant: int, proximal: int
) -> Example:
    """One example with about `distant` and `proximal` characters; a pure function of the generator's state."""
    kinds = list(mix.kinds)
    weights = np.array([mix.kinds[kind] for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    text = corpus.window(rng, mix.domains, distant + (proximal if kind == "continue" else 0))
    if kind == "continue":
        cut = last_blank(text, len(text) * distant // (distant + proximal))
        copies = repeated_words(text[:cut], text[cut:]) if mix.repeated_words else ()
        return Example(kind, text[:cut], text[cut:], copies)
    if kind == "recall":
        return _recall(text, mix, rng, proximal)
    return _quotation(text, mix, rng, proximal)


def last_blank(text: str, place: int) -> int:
    """The last blank before `place`; `place` itself in a text that is written without blanks."""
    found = text.rfind(" ", 0, place)
    return place if found < 0 else found


def repeated_words(distant: str, proximal: str) -> tuple[tuple[int, int, int], ...]:
    """`Example.copies` of a continuation: each of its notable words with the last place that had it before."""
    last = {match.group(): match.start() for match in NOTABLE.finditer(distant)}
    found = ((match.start(), last.get(match.group()), len(match.group())) for match in NOTABLE.finditer(proximal))
    return tuple((place, origin, length) for place, origin, length in found if origin is not None)


def _recall(text: str, mix: ExampleMix, rng: np.random.Generator, proximal: int) -> Example:
    most = max(1, round(mix.facts_per_kilobyte * len(text) / 1000))
    facts = make_facts(rng, "train", int(rng.integers(1, most + 1)))
    planted = plant(text, facts, rng)
    asked: list[tuple[int, str]] = []
    while sum(len(statement) + len(PARAGRAPH) for _, statement in asked) < proximal:
        for number in rng.permutation(len(facts)):
            asked.append((planted.index(facts[number].statement), facts[number].statement))
        if len(facts) < 3:  # asking again and again for the same thing teaches copying from the answer above
            break
    return _repeating("recall", planted, asked)


def _quotation(text: str, mix: ExampleMix, rng: np.random.Generator, proximal: int) -> Example:
    quotes: list[tuple[int, str]] = []
    low, high = mix.quote_characters
    while sum(len(quote) + len(PARAGRAPH) for _, quote in quotes) < proximal:
        start = text.find(" ", int(rng.integers(0, max(1, len(text) - low)))) + 1
        quotes.append((start, text[start : start + int(rng.integers(low, high + 1))]))
    return _repeating("quote", text, quotes)


def _repeating(kind: str, distant: str, pieces: list[tuple[int, str]]) -> Example:
    """An example whose proximal text is these (place, text) pieces of the distant one, each after a blank line."""
    proximal, copies = "", []
    for place, piece in pieces:
        proximal += PARAGRAPH
        if len(piece) > CUE:
            copies.append((len(proximal) + CUE, place + CUE, len(piece) - CUE))
        proximal += piece
    return Example(kind, distant, proximal, tuple(copies))
