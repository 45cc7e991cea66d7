"""A language model that looks at the scores so far and proposes styles to try next.

Owns the question and the reading of the answer. Does not know how proposals are scored.

Decisions
- As in Glyph (arXiv 2510.17800) the model proposes, the search decides: proposals are genomes like others, brought to
  the nearest values of the space, and stand beside children of crossover and mutation.
- An answer that cannot be read, or a server that fails, proposes nothing and says why: a search must not end for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from vist.errors import VistError
from vist.tune.archive import Found
from vist.tune.genome import Genome, Space, from_dict
from vist.tune.readers import ask

_DECODER = json.JSONDecoder()
_SHOWN = 24  # scored genomes that the model sees


@dataclass(frozen=True)
class Proposals:
    """Genomes to try, and a sentence about what went wrong, if something did."""

    genomes: tuple[Genome, ...]
    remark: str = ""


class Proposer(Protocol):
    """Proposes genomes."""

    def propose(self, found: Sequence[Found], space: Space, count: int) -> Proposals:
        """Return at most `count` genomes in view of those that were scored, best first."""


@dataclass(frozen=True)
class Critic:
    """A model behind OpenAI's chat completions; `url` ends in `/v1`, `key` may be empty."""

    url: str
    model: str
    key: str = ""

    def propose(self, found: Sequence[Found], space: Space, count: int) -> Proposals:
        """Return at most `count` genomes; none with a remark if the model's answer is no use."""
        try:
            answer = ask(self.url, self.model, self.key, question(found, space, count))
            return Proposals(read_answer(answer, space)[:count])
        except VistError as error:
            return Proposals((), str(error))


def question(found: Sequence[Found], space: Space, count: int) -> str:
    """Return what the model is asked: the aims, the genes and their values, and the scores so far."""
    genes = json.dumps({name: list(values) for name, values in space.items()})
    scored = "\n".join(
        json.dumps(
            {**asdict(each.genome), "accuracy": round(each.score.accuracy, 4), "tokens": round(each.score.tokens)}
        )
        for each in found[:_SHOWN]
        if each.score.tokens < float("inf")
    )
    return (
        "Text is drawn on pages and read back from them. A page style has two aims: a high accuracy of reading (0 to "
        "1) and few tokens for 1,000 characters. Lengths are in points, dpi scales them to pixels, margin is on both "
        "sides, letter_spacing is added to the width of every letter and blank, greys go from 0 to 255.\n"
        f"Genes and their values: {genes}\nScored so far, best first:\n{scored}\n"
        f"First say in two sentences which genes help and which harm. Then propose {count} new styles that should lie "
        "beyond the best of these in one aim without losing the other. End with a JSON list of objects of these genes."
    )


def read_answer(answer: str, space: Space) -> tuple[Genome, ...]:
    """Return the genomes of the first list of objects in an answer.

    Raises VistError for an answer without a list of objects.
    """
    listed = None
    for place in (at for at, char in enumerate(answer) if char == "["):
        try:
            value, _ = _DECODER.raw_decode(answer, place)
        except (json.JSONDecodeError, RecursionError):
            continue
        if any(isinstance(each, dict) for each in value):
            listed = value
            break
    if listed is None:
        raise VistError("The critic's answer has no JSON list of styles; nothing was proposed.")
    genomes: list[Genome] = []
    for each in listed:
        if isinstance(each, dict):
            genes = {name: value for name, value in each.items() if name in space and not isinstance(value, bool)}
            if genes:
                genomes.append(from_dict(genes, space))
    return tuple(dict.fromkeys(genomes))
