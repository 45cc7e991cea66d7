"""Text examples: which text a model is shown, and which part of it is distant.

Owns: the mix of plain windows, recall and quotation, as text. Used for the language model (everything as text) and for
the visual context (the distant part as pages). Must not know about tokenizers, pages or models.

Decisions
- An example is (distant, proximal). Read one after the other they are one plausible text, so the same example serves
  as a text-only sequence and as pages plus prompt, and the two can be compared.
- Recall: facts are planted in the distant text and asked for, all of them and in random order, in the proximal text.
- Quotation: the proximal text repeats passages of the distant text. Every token of it but the first few is
  predictable from the distant text, which is the densest signal there is for reading it back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from vist.train.corpus import PackedCorpus
from vist.train.facts import make_facts, plant

PARAGRAPH = "\n\n"


@dataclass(frozen=True)
class Example:
    """One training text: `distant` becomes pages (or plain text), `proximal` stays text. `kind` names its objective."""

    kind: str
    distant: str
    proximal: str


@dataclass(frozen=True)
class ExampleMix:
    """How often each kind of example is drawn, and from which domains.

    Attributes:
        kinds: weight of "continue", "recall" and "quote".
        domains: weight of each corpus domain.
        facts_per_kilobyte: planted facts per 1,000 characters of distant text, at most; at least one is planted.
        quote_characters: shortest and longest quotation.
    """

    kinds: Mapping[str, float]
    domains: Mapping[str, float]
    facts_per_kilobyte: float = 3.0
    quote_characters: tuple[int, int] = (60, 400)


def draw_example(
    corpus: PackedCorpus, mix: ExampleMix, rng: np.random.Generator, distant: int, proximal: int
) -> Example:
    """One example with about `distant` and `proximal` characters; a pure function of the generator's state."""
    kinds = list(mix.kinds)
    weights = np.array([mix.kinds[kind] for kind in kinds])
    kind = kinds[rng.choice(len(kinds), p=weights / weights.sum())]
    text = corpus.window(rng, mix.domains, distant + (proximal if kind == "continue" else 0))
    if kind == "continue":
        cut = max(0, text.rfind(" ", 0, len(text) * distant // (distant + proximal)))
        return Example(kind, text[:cut], text[cut:])
    if kind == "recall":
        return _recall(text, mix, rng, proximal)
    return Example(kind, text, _quotations(text, mix, rng, proximal))


def _recall(text: str, mix: ExampleMix, rng: np.random.Generator, proximal: int) -> Example:
    most = max(1, round(mix.facts_per_kilobyte * len(text) / 1000))
    facts = make_facts(rng, "train", int(rng.integers(1, most + 1)))
    planted = plant(text, facts, rng)
    answers, length = [], 0
    while length < proximal:
        for number in rng.permutation(len(facts)):
            answers.append(facts[number].statement)
            length += len(answers[-1]) + 2
        if len(facts) < 3:  # asking again and again for the same thing teaches copying from the answer above
            break
    return Example("recall", planted, PARAGRAPH + PARAGRAPH.join(answers))


def _quotations(text: str, mix: ExampleMix, rng: np.random.Generator, proximal: int) -> str:
    quotes, length = [], 0
    low, high = mix.quote_characters
    while length < proximal:
        start = int(rng.integers(0, max(1, len(text) - low)))
        start = text.find(" ", start) + 1
        quotes.append(text[start : start + int(rng.integers(low, high + 1))])
        length += len(quotes[-1]) + 2
    return PARAGRAPH + PARAGRAPH.join(quotes)
