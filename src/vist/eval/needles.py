"""Needles: things to be planted in a text and asked for, by what they are and by what finding them takes.

Owns the kinds, their statements, cues and answers. Does not know where they are planted or what counts as exact.

Decisions
- What is exact: numbers, names, hexadecimal ids, paths, code identifiers, dates and quotations, each after "The ... of
  <person> is": the form is the same, only what has to survive differs.
- What finding takes, after VTCBench (arXiv 2512.15649): a word by a word, a number by a word, a number by a UUID,
  several needles in the order of the text, a sum over needles, a question that shares no content word with its needle
  (the link is common knowledge), and what somebody said earlier in a conversation.
- Every answer is drawn anew, and persons come from the names no training text has.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vist.train.facts import Fact, make_fact

_WORDS = (
    "amber anchor apple basket beacon bridge candle carpet castle cedar clover copper coral cotton crystal "
    "dragon eagle ember falcon feather fiddle forest garden ginger hammer harbour hazel island ivory jacket "
    "kettle ladder lantern lemon linen lizard marble meadow mirror needle oyster paper pepper pigeon pillow "
    "planet pocket quarry rabbit ribbon river saddle sailor salmon shadow silver spider stable summer tailor "
    "temple thunder tiger timber turnip velvet violet walnut willow winter"
).split()
_MONTHS = "January February March April May June July August September October November December".split()
_VERBS = "parse read write load merge split find check count build open close sort fetch".split()
_NOUNS = "header record token buffer entry table index row cache frame field stream block node".split()
_FOLDERS = "srv data var lib home opt share logs mail jobs".split()
# What stands beside a house, and the city that everybody knows it is in.
_LANDMARKS = {
    "the Louvre": "Paris",
    "the Colosseum": "Rome",
    "the Kremlin": "Moscow",
    "the Acropolis": "Athens",
    "Tower Bridge": "London",
    "the Brandenburg Gate": "Berlin",
    "the Alhambra": "Granada",
    "the Rialto": "Venice",
    "the Sagrada Familia": "Barcelona",
    "the Hagia Sophia": "Istanbul",
    "the Statue of Liberty": "New York",
    "the Forbidden City": "Beijing",
}


@dataclass(frozen=True)
class Needle:
    """One thing to find: `statements` are planted in this order, `cue` asks, `answer` must come next."""

    kind: str
    statements: tuple[str, ...]
    cue: str
    answer: str

    @property
    def statement(self) -> str:
        """The first of the statements."""
        return self.statements[0]


def statements(needle: Needle | Fact) -> tuple[str, ...]:
    """What is planted for a needle, or for a fact of the training's form."""
    return needle.statements if isinstance(needle, Needle) else (needle.statement,)


def _person(rng: np.random.Generator) -> str:
    return make_fact(rng, "test", "name").answer


def _word(rng: np.random.Generator) -> str:
    return _WORDS[rng.integers(len(_WORDS))]


def _digits(rng: np.random.Generator, count: int = 4) -> str:
    return "".join(str(digit) for digit in rng.integers(0, 10, count))


def _hex(rng: np.random.Generator, count: int = 8) -> str:
    return "".join("0123456789abcdef"[place] for place in rng.integers(0, 16, count))


def _pick(rng: np.random.Generator, items: list[str]) -> str:
    return items[rng.integers(len(items))]


def _plain(kind: str, cue: str, answer: str) -> Needle:
    return Needle(kind, (f"{cue} {answer}.",), cue, answer)


def _hexadecimal(rng: np.random.Generator) -> Needle:
    return _plain("hex", f"The key of {_person(rng)} is", _hex(rng))


def _path(rng: np.random.Generator) -> Needle:
    folders = "/".join(_pick(rng, _FOLDERS) for _ in range(2))
    answer = f"/{folders}/{_word(rng)}-{_digits(rng, 2)}.{_pick(rng, ['log', 'txt', 'csv', 'json'])}"
    return _plain("path", f"The file of {_person(rng)} is", answer)


def _identifier(rng: np.random.Generator) -> Needle:
    answer = f"{_pick(rng, _VERBS)}_{_pick(rng, _NOUNS)}_{_pick(rng, _NOUNS)}{rng.integers(2, 10)}"
    return _plain("identifier", f"The function of {_person(rng)} is", answer)


def _date(rng: np.random.Generator) -> Needle:
    answer = f"{rng.integers(1, 29)} {_pick(rng, _MONTHS)} {rng.integers(1700, 2000)}"
    return _plain("date", f"The birthday of {_person(rng)} is", answer)


def _quotation(rng: np.random.Generator) -> Needle:
    words = " ".join(_WORDS[place] for place in rng.choice(len(_WORDS), 6, replace=False))
    return _plain("quotation", f"The motto of {_person(rng)} is", f'"{words}"')


def _word_word(rng: np.random.Generator) -> Needle:
    key, answer = (_WORDS[place] for place in rng.choice(len(_WORDS), 2, replace=False))
    return _plain("word-word", f"The special word for {key} is", answer)


def _word_number(rng: np.random.Generator) -> Needle:
    return _plain("word-number", f"The special number for {_word(rng)} is", _digits(rng, 7))


def _uuid_number(rng: np.random.Generator) -> Needle:
    key = uuid.UUID(bytes=rng.bytes(16), version=4)
    return _plain("uuid-number", f"The special number for {key} is", _digits(rng, 7))


def _several(rng: np.random.Generator) -> Needle:
    person = _person(rng)
    words = [_WORDS[place] for place in rng.choice(len(_WORDS), 3, replace=False)]
    planted = tuple(f"One of the three words of {person} is {word}." for word in words)
    return Needle("several", planted, f"The three words of {person}, in their order, are", ", ".join(words))


def _aggregation(rng: np.random.Generator) -> Needle:
    person, thing = _person(rng), _word(rng)
    counts = rng.integers(2, 30, 3).tolist()
    verbs = ("bought", "found", "was given")
    planted = tuple(f"{person} {verb} {count} {thing}s." for verb, count in zip(verbs, counts, strict=True))
    return Needle("aggregation", planted, f"The number of {thing}s that {person} came by in all is", str(sum(counts)))


def _association(rng: np.random.Generator) -> Needle:
    person, landmark = _person(rng), _pick(rng, list(_LANDMARKS))
    cue = f"The one who has been to {_LANDMARKS[landmark]} is"
    return Needle("association", (f"{person} lives next to {landmark}.",), cue, person)


def _dialogue(rng: np.random.Generator) -> Needle:
    person, word = _person(rng), _word(rng)
    planted = (f"{person}: I have lost my old {word}.", f"Answer to {person}: I am sorry to hear it.")
    return Needle("dialogue", planted, f"What {person} lost, as told in the conversation, is the old", word)


_MAKERS: dict[str, Callable[[np.random.Generator], Needle]] = {
    "hex": _hexadecimal,
    "path": _path,
    "identifier": _identifier,
    "date": _date,
    "quotation": _quotation,
    "word-word": _word_word,
    "word-number": _word_number,
    "uuid-number": _uuid_number,
    "several": _several,
    "aggregation": _aggregation,
    "association": _association,
    "dialogue": _dialogue,
}
FACT_KINDS = ("number", "name")
NEEDLE_KINDS = (*FACT_KINDS, *_MAKERS)


def make_needles(rng: np.random.Generator, kind: str, count: int) -> list[Needle | Fact]:
    """`count` needles of a kind with different cues (association has a cue for each of its cities, and no more)."""
    found: dict[str, Needle | Fact] = {}
    tries = 0
    while len(found) < count and tries < 100 * count:
        made = make_fact(rng, "test", kind) if kind in FACT_KINDS else _MAKERS[kind](rng)
        found.setdefault(made.cue, made)
        tries += 1
    return list(found.values())
