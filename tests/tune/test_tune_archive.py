"""Dominance, ranks, crowding and the archive, against slow definitions."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from vist.tune.archive import Archive, Found, crowding, dominates, ranks
from vist.tune.genome import Genome
from vist.tune.objective import Score

scores = st.lists(st.builds(Score, st.sampled_from([0.1, 0.5, 0.9, 1.0]), st.sampled_from([10.0, 20.0, 40.0, 80.0])))


def found(score: Score, number: int) -> Found:
    return Found(Genome(width=number), score)


@given(scores)
def test_ranks_are_those_of_peeling_off_fronts(given_scores: list[Score]) -> None:
    left, level = dict(enumerate(given_scores)), 0
    got = ranks(given_scores)
    while left:
        front = [i for i, a in left.items() if not any(dominates(b, a) for b in left.values())]
        assert {got[place] for place in front} == {level}
        left, level = {i: a for i, a in left.items() if i not in front}, level + 1


@given(scores)
def test_the_archive_keeps_exactly_what_none_dominates_in_any_order_of_arrival(given_scores: list[Score]) -> None:
    whole, steps = Archive(), Archive()
    all_found = [found(score, number) for number, score in enumerate(given_scores)]
    whole.add(all_found)
    for each in reversed(all_found):
        steps.add([each])
    best = {score for score in given_scores if not any(dominates(other, score) for other in given_scores)}
    for archive in (whole, steps):
        kept = [each.score for each in archive.front]
        assert set(kept) == best and len(kept) == len(best)
        assert kept == sorted(kept, key=lambda score: score.tokens)


def test_equal_scores_do_not_dominate_and_the_first_stays() -> None:
    same = Score(0.9, 10.0)
    assert not dominates(same, same)
    archive = Archive()
    assert archive.add([found(same, 1)]) == 1 and archive.add([found(same, 2)]) == 0
    assert archive.front[0].genome.width == 1


def test_what_cannot_be_used_is_not_kept() -> None:
    archive = Archive()
    assert archive.add([found(Score(1.0, math.inf), 1), found(Score(0.0, 5.0), 2)]) == 0 and archive.front == []
    archive.add([found(Score(0.9, 10), 1), found(Score(0.99, 30), 2), found(Score(1.0, 90), 3)])
    cheapest = archive.cheapest(0.95)
    assert cheapest is not None and cheapest.score.tokens == 30 and archive.cheapest(1.1) is None


def test_crowding_prefers_the_ends_and_the_lonely() -> None:
    line = [Score(0.0, 0.0), Score(0.1, 1.0), Score(0.2, 2.0), Score(0.9, 9.0), Score(1.0, 10.0)]
    distance = crowding(line)
    assert distance[0] == distance[-1] == math.inf
    assert distance[2] > distance[1] and distance[3] > distance[1]
    for before, after in itertools.pairwise(sorted(distance[1:4])):
        assert before <= after < math.inf
    assert crowding([]) == []
