"""How the genomes of the next generation come about: selection, crossover, mutation, survival.

Owns one generation's step. Does not know readers, files or the critic: proposals come in as genomes.

Decisions
- Parents are chosen by tournaments of two: the lower rank wins, then the larger crowding distance (NSGA-II).
- Survivors are the best of parents and children together, so that nothing good is lost by chance.
- Of genomes with one score the first stands in for all, the others come last: some genes change nothing for a reader,
  and their variants would fill the population with copies of one style.
- A child that was scored before is mutated again, a few times; a narrow space may hold nothing new.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from vist.tune.archive import Found, crowding, ranks
from vist.tune.genome import Genome, Space, cross, draw, mutate
from vist.tune.objective import Score

_TRIES = 20


def first_generation(size: int, rng: random.Random, space: Space, given: Iterable[Genome] = ()) -> list[Genome]:
    """Return `size` different genomes: those given, and others by chance; fewer where the space has no more."""
    genomes = list(dict.fromkeys(given))[:size]
    for _ in range(_TRIES * size):
        if len(genomes) == size:
            break
        genome = draw(rng, space)
        if genome not in genomes:
            genomes.append(genome)
    return genomes


def order(found: Sequence[Found]) -> list[Found]:
    """Return genomes from the best to the worst: by rank, then by crowding distance in their rank, clones last."""
    first: dict[Score, Found] = {}
    for each in found:
        first.setdefault(each.score, each)
    clones = [each for each in found if first[each.score] is not each]
    return _ordered(list(first.values())) + (order(clones) if clones else [])


def _ordered(found: Sequence[Found]) -> list[Found]:
    rank = ranks([each.score for each in found])
    ordered: list[Found] = []
    for level in range(max(rank, default=-1) + 1):
        front = [each for each, at in zip(found, rank, strict=True) if at == level]
        distance = crowding([each.score for each in front])
        places = sorted(range(len(front)), key=lambda place: -distance[place])
        ordered += [front[place] for place in places]
    return ordered


def survive(found: Sequence[Found], size: int) -> list[Found]:
    """Return the best `size` of parents and children."""
    unique = list({each.genome: each for each in reversed(found)}.values())[::-1]
    return order(unique)[:size]


def next_generation(
    parents: Sequence[Found],
    size: int,
    rng: random.Random,
    space: Space,
    rate: float,
    known: Collection[Genome],
    proposed: Iterable[Genome] = (),
) -> list[Genome]:
    """Return `size` new genomes, the proposed ones first.

    Args:
        parents: the population, best first, as `survive` returns it.
        size: how many to make.
        rng: chance.
        space: the values of the genes.
        rate: share of the genes that mutate.
        known: genomes that were scored before.
        proposed: genomes from elsewhere.
    """
    children = [genome for genome in dict.fromkeys(proposed) if genome not in known][:size]
    for _ in range(_TRIES * size):
        if len(children) == size or not parents:
            break
        child = cross(_tournament(parents, rng), _tournament(parents, rng), rng, space)
        child = mutate(child, rng, space, rate)
        if child not in known and child not in children:
            children.append(child)
    return children


def _tournament(parents: Sequence[Found], rng: random.Random) -> Genome:
    """The better of two by chance: parents stand in their order."""
    return parents[min(rng.randrange(len(parents)), rng.randrange(len(parents)))].genome
