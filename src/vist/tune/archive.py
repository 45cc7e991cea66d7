"""Which scores none beats: dominance, ranks, crowding and the Pareto archive of a search.

Owns these orders. Does not know what a genome is: it keeps whatever stands beside a score.

Decisions
- More accuracy and fewer tokens are better; a score is dominated if another is no worse in both and better in one.
- Ranks and crowding are those of NSGA-II (Deb et al., 2002): first come those that none dominates, then those that only
  the first dominate, and within a rank those that stand furthest from their neighbours.
- Of equal scores the first found stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from vist.tune.genome import Genome
from vist.tune.objective import Score


@dataclass(frozen=True)
class Found:
    """A genome, its score, and the generation in which it was first scored."""

    genome: Genome
    score: Score
    generation: int = 0


def dominates(first: Score, second: Score) -> bool:
    """Tell whether a score is no worse than another in both aims and better in one."""
    no_worse = first.accuracy >= second.accuracy and first.tokens <= second.tokens
    return no_worse and (first.accuracy > second.accuracy or first.tokens < second.tokens)


def ranks(scores: Sequence[Score]) -> list[int]:
    """Return the rank of each score: 0 for those that none dominates, 1 for those only rank 0 does, and so on."""
    beaten_by = [{i for i, other in enumerate(scores) if dominates(other, score)} for score in scores]
    rank = [-1] * len(scores)
    left, level = set(range(len(scores))), 0
    while left:
        front = {place for place in left if not beaten_by[place] & left}
        for place in front:
            rank[place] = level
        left, level = left - front, level + 1
    return rank


def crowding(scores: Sequence[Score]) -> list[float]:
    """Return how far each score stands from its neighbours in both aims, infinite for the outermost."""
    distance = [0.0] * len(scores)
    for aim in ("accuracy", "tokens"):
        values = [getattr(score, aim) for score in scores]
        order = sorted(range(len(scores)), key=values.__getitem__)
        finite = [value for value in values if value < math.inf]
        span = (max(finite) - min(finite)) if finite else 0.0
        if order:
            distance[order[0]] = distance[order[-1]] = math.inf
        for before, place, after in zip(order, order[1:], order[2:], strict=False):
            gap = values[after] - values[before]
            distance[place] += gap / span if span and gap < math.inf else 0.0
    return distance


@dataclass
class Archive:
    """All genomes that no other found one dominates, cheapest first."""

    front: list[Found] = field(default_factory=list)

    def add(self, found: Iterable[Found]) -> int:
        """Take in what belongs there and drop what it dominates; return how many came in and stayed."""
        before = {each.genome for each in self.front}
        for each in found:
            score = each.score
            if score.tokens == math.inf or score.accuracy <= 0:
                continue
            if any(other.score == score or dominates(other.score, score) for other in self.front):
                continue
            self.front = [other for other in self.front if not dominates(score, other.score)] + [each]
        self.front.sort(key=lambda each: (each.score.tokens, each.genome.key))
        return sum(each.genome not in before for each in self.front)

    def cheapest(self, accuracy: float) -> Found | None:
        """Return the cheapest that is read with at least this accuracy; None if there is none."""
        return next((each for each in self.front if each.score.accuracy >= accuracy), None)
