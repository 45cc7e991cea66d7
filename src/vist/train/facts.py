"""Planted facts: made-up names and numbers put into real text, and the question that asks for them.

Owns: what a planted fact says, where it goes, how it is asked. Used by training (recall examples) and by `vist eval
recall` and `vist demo` (with names that training never saw). Must not know about tokenizers, pages or models.

Decisions
- A question is the statement itself, cut before the answer: a base language model can answer it by continuing.
- Answers cannot be guessed: four random digits, or a made-up surname, drawn anew for every sample.
- The names of training and of testing are disjoint (`SPLITS`), so recall cannot come from the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIRST_NAMES = (
    "Agnes Albert Alice Amos Anna Arthur Beatrice Caleb Clara Daniel Dora Edgar Edith Edmund Eliza Emma Ernest Esther "
    "Fanny Felix Flora Frank George Grace Hannah Harriet Harry Helen Henry Hugh Ida Isaac Jane Jasper Joan Joel John "
    "Julia Kate Laura Leo Lewis Lucy Luke Mabel Mark Martha Mary Miles Minnie Nancy Nora Oliver Oscar Paul Peter "
    "Philip Rachel Ralph Robert Rosa Ruth Samuel Sarah Simon Stella Susan Thomas Walter William"
).split()
SYLLABLES = (
    "Bar Bel Bran Cal Car Col Dal Dar Den Dor El Fal Far Gar Gil Hal Hol Kel Ken Lan Mar Mel Mor Nor Pel Ram Sal Sed "
    "Tal Tor Van Wal Wes Win"
).split()
ENDINGS = "bury by don ford gate ham ley low man mere more ner rick ridge ton vale ville ward wick wood".split()
PLACES = (
    "the north tower|the old mill|the east gate|the harbour|the long barn|the chapel|the library|the south wing|"
    "the cellar|the lighthouse|the garden house|the river lodge|the white farm|the upper hall|the school|the bank|"
    "the station|the museum|the bridge house|the inn"
).split("|")
ROLES = "keeper owner master steward doctor teacher gardener captain clerk warden".split()
SPLITS = {"train": 0, "test": 1}


@dataclass(frozen=True)
class Fact:
    """One planted fact.

    Attributes:
        kind: "number" or "name".
        cue: the statement up to the answer, without the blank before it.
        answer: what must come next.
    """

    kind: str
    cue: str
    answer: str

    @property
    def statement(self) -> str:
        """The sentence that is planted."""
        return f"{self.cue} {self.answer}."


def make_fact(rng: np.random.Generator, split: str, kind: str | None = None) -> Fact:
    """A random fact; `split` is "train" or "test" and decides which surnames and places may occur."""
    kind = kind or ("number" if rng.random() < 0.75 else "name")
    if kind == "number":
        digits = "".join(str(digit) for digit in rng.integers(0, 10, 4))
        owner = _person(rng, split) if rng.random() < 0.7 else _place(rng, split)
        return Fact("number", f"The code of {owner} is", digits)
    role = ROLES[rng.integers(len(ROLES))]
    return Fact("name", f"The {role} of {_place(rng, split)} is", _person(rng, split))


def _surname(rng: np.random.Generator, split: str) -> str:
    while True:
        first, last = int(rng.integers(len(SYLLABLES))), int(rng.integers(len(ENDINGS)))
        held_out = (first + last) % 5 == 0
        if held_out == (split == "test"):
            return SYLLABLES[first] + ENDINGS[last]


def _person(rng: np.random.Generator, split: str) -> str:
    return f"{FIRST_NAMES[rng.integers(len(FIRST_NAMES))]} {_surname(rng, split)}"


def _place(rng: np.random.Generator, split: str) -> str:
    return f"{PLACES[rng.integers(len(PLACES))]} at {_surname(rng, split)}"


def make_facts(rng: np.random.Generator, split: str, count: int, kind: str | None = None) -> list[Fact]:
    """`count` facts with different cues."""
    found: dict[str, Fact] = {}
    while len(found) < count:
        fact = make_fact(rng, split, kind)
        found.setdefault(fact.cue, fact)
    return list(found.values())


def plant(text: str, facts: list[Fact], rng: np.random.Generator) -> str:
    """`text` with each fact's statement put at a sentence border, one fact in each equal part of the text, in order.

    The positions are even over the depth of the text, so that recall can be read by depth. A part without a sentence
    border takes its fact at a blank.
    """
    pieces, part = [], max(1, len(text) // max(1, len(facts)))
    for number, fact in enumerate(facts):
        stop = len(text) if number == len(facts) - 1 else (number + 1) * part
        piece = text[number * part : stop]
        place = _border(piece, int(rng.integers(0, max(1, len(piece)))))
        pieces.append(f"{piece[:place]} {fact.statement} {piece[place:].lstrip(' ')}")
    return "".join(pieces) if facts else text


def _border(text: str, place: int) -> int:
    for mark in (". ", " "):
        found = text.find(mark, place)
        if found < 0:
            found = text.rfind(mark, 0, place)
        if found >= 0:
            return found + len(mark.rstrip())
    return place
