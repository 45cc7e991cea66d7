"""Sharing a total over pages: exact, within bounds, in proportion; and what a caller may ask for."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vist.compress.budget import page_counts, share_out
from vist.errors import VistError

pages = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 900)), min_size=1, max_size=12)


def shared(total, weights, limits):
    return share_out(torch.tensor([total]), torch.tensor([weights], dtype=torch.float32), torch.tensor([limits]))[0]


@given(pages, st.integers(0, 400))
def test_the_budget_is_spent_exactly_within_the_bounds(drawn, total):
    limits, weights = zip(*drawn, strict=True)
    counts = shared(total, weights, limits)
    inked = sum(limit > 0 for limit in limits)
    assert counts.sum() == min(max(total, inked), sum(limits))
    assert all((limit > 0) <= count <= limit for count, limit in zip(counts.tolist(), limits, strict=True))


@given(pages, st.integers(0, 400))
def test_who_weighs_more_never_gets_less(drawn, total):
    limits, weights = zip(*drawn, strict=True)
    counts = shared(total, weights, limits).tolist()
    for first in range(len(counts)):
        for second in range(len(counts)):
            if limits[first] == limits[second] and weights[first] > weights[second]:
                assert counts[first] >= counts[second]


@given(st.lists(st.integers(50, 99), min_size=1, max_size=9), st.integers(60, 300))
def test_free_shares_are_the_largest_remainders(weights, total):
    """Where no bound matters: Hamilton's method in exact fractions, up to who wins between equal remainders."""
    counts = shared(total, weights, [10_000] * len(weights)).tolist()
    quotas = [Fraction(total * weight, sum(weights)) for weight in weights]
    floors = [int(quota) for quota in quotas]
    left = total - sum(floors)
    remainders = sorted((quota - floor for quota, floor in zip(quotas, floors, strict=True)), reverse=True)
    for quota, floor, count in zip(quotas, floors, counts, strict=True):
        wins = left > 0 and quota - floor > (remainders[left] if left < len(remainders) else -1)
        loses = left == 0 or quota - floor < remainders[left - 1]
        assert count == floor + 1 if wins else count == floor if loses else count in (floor, floor + 1)


def test_a_full_page_hands_its_share_on():
    assert shared(30, [98, 1, 1], [10, 20, 20]).tolist() == [10, 10, 10]
    assert shared(25, [1, 0, 0], [10, 20, 20]).tolist() == [10, 8, 7]


def test_pages_without_any_information_share_alike():
    assert shared(9, [0, -3, 0], [8, 8, 8]).tolist() == [3, 3, 3]


def test_samples_do_not_see_each_other():
    weights, limits = torch.tensor([[5.0, 1, 0], [1, 1, 1]]), torch.tensor([[20, 20, 0], [4, 4, 4]])
    together = share_out(torch.tensor([12, 6]), weights, limits)
    assert together.tolist() == [[10, 2, 0], [2, 2, 2]]


LIMITS = torch.tensor([[4, 3, 0], [2, 0, 0]])


def test_one_number_is_for_every_page():
    assert page_counts(2, None, LIMITS).tolist() == [[2, 2, 0], [2, 0, 0]]
    assert page_counts(torch.tensor(1), None, LIMITS).tolist() == [[1, 1, 0], [1, 0, 0]]


def test_what_takes_nothing_away_is_no_setting_at_all():
    assert page_counts(None, None, LIMITS) is None
    assert page_counts(4, None, LIMITS) is None
    assert page_counts(LIMITS, None, LIMITS) is None
    assert page_counts(torch.tensor([7, 2]), torch.ones(2, 3), LIMITS) is None


def test_totals_are_shared_and_counts_are_taken_as_they_are():
    assert page_counts(torch.tensor([4, 1]), torch.ones(2, 3), LIMITS).tolist() == [[2, 2, 0], [1, 0, 0]]
    assert page_counts(torch.tensor([[3, 9, 1], [1, 1, 1]]), None, LIMITS).tolist() == [[3, 3, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("asked", "weights", "said"),
    [
        (0, None, "at least 1, got 0"),
        (torch.tensor([[0, 1, 1], [1, 1, 1]]), None, "at least 1"),
        (2.5, None, "whole numbers"),
        (torch.tensor([3, 3]), None, "page_weights"),
        (torch.tensor([3, 3, 3]), torch.ones(2, 3), "does not fit"),
        (torch.ones(2, 2, dtype=torch.long), None, "do not fit"),
        (torch.tensor([3, 3]), torch.full((2, 3), torch.nan), "finite"),
    ],
)
def test_what_makes_no_sense_is_refused(asked, weights, said):
    with pytest.raises(VistError, match=said):
        page_counts(asked, weights, LIMITS)
