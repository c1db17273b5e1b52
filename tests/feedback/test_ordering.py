"""What judgements say of the order of candidates, against small cases counted by hand."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback import ordering
from feedback.ordering import Ordered


@pytest.mark.parametrize(
    ("strength", "wanted"),
    [(3, (1, 0, 3.0)), (1, (1, 0, 1.0)), (0, (0, 1, 0.0)), (-1, (0, 1, 1.0)), (-3, (0, 1, 3.0))],
)
def test_a_strength_orders_two(strength: int, wanted: tuple[int, int, float]) -> None:
    assert ordering.of_strength(strength) == [wanted]


def test_a_ranking_orders_every_two_by_the_groups_between_them() -> None:
    found = ordering.of_ranking([[2], [0, 3], [1]])
    assert sorted(found) == [
        (0, 1, 1.0), (0, 3, 0.0), (2, 0, 1.0), (2, 1, 2.0), (2, 3, 1.0), (3, 1, 1.0),
    ]  # fmt: skip
    assert [pair for pair in found if pair.tie] == [(0, 3, 0.0)]


def test_a_margin_ends_at_much_better() -> None:
    found = ordering.of_ranking([[position] for position in range(8)])
    assert len(found) == 28
    assert max(pair.margin for pair in found) == 3.0
    assert Ordered(0, 7, 3.0) in found and Ordered(0, 2, 2.0) in found


def test_ratings_order_by_the_difference_of_their_means() -> None:
    ratings = [{"helpful": 2, "honest": 3}, {"helpful": 5, "honest": 5}, {"helpful": 3, "honest": 2}]
    assert ordering.of_ratings(ratings) == [(1, 0, 2.5), (0, 2, 0.0), (1, 2, 2.5)]
    assert ordering.of_ratings(ratings[:1]) == []


def test_thirds_of_criteria_tie_when_they_are_equal() -> None:
    """1+1+5 and 2+2+3 are both 7 thirds, which floats would tell apart in some orders."""
    for first, second in zip(permutations((1, 1, 5)), permutations((2, 2, 3)), strict=True):
        rated = [dict(zip("abc", values, strict=True)) for values in (first, second)]
        assert ordering.of_ratings(rated) == [(0, 1, 0.0)]


@given(st.permutations(range(5)), st.lists(st.booleans(), min_size=4, max_size=4))
def test_a_ranking_reads_back_from_its_pairs(order: list[int], cuts: list[bool]) -> None:
    groups: list[list[int]] = [[order[0]]]
    for position, cut in zip(order[1:], cuts, strict=True):
        if cut:
            groups.append([position])
        else:
            groups[-1].append(position)
    pairs = ordering.of_ranking(groups)
    assert len(pairs) == 10
    beaten = {position: sum(p.worse == position and not p.tie for p in pairs) for position in order}
    before = {
        position: sum(map(len, groups[:rank])) for rank, group in enumerate(groups) for position in group
    }
    assert beaten == before


@pytest.mark.parametrize(
    ("gold", "given", "right"),
    [
        ({"strength": 2}, {"strength": 1}, True),
        ({"strength": 2}, {"strength": -1}, False),
        ({"strength": 2}, {"strength": 0}, False),
        ({"strength": 0}, {"strength": 0}, True),
        ({"strength": 0}, {"strength": 1}, False),
        ({"ranking": [[1], [0, 2]]}, {"ranking": [[1], [2, 0]]}, True),
        ({"ranking": [[1], [0, 2]]}, {"ranking": [[1], [0], [2]]}, False),
        ({"ranking": [[1], [0, 2]]}, {}, False),
        ({"ratings": [{"helpful": 4}]}, {"ratings": [{"helpful": 5}]}, True),
        ({"ratings": [{"helpful": 4}]}, {"ratings": [{"helpful": 2}]}, False),
        ({"ratings": [{"helpful": 4}]}, {"ratings": [{"honest": 4}]}, False),
        ({"ratings": [{"helpful": 4}]}, {"ratings": []}, False),
    ],
)
def test_a_gold_answer_is_met_by_direction(gold: dict, given: dict, right: bool) -> None:  # type: ignore[type-arg]
    assert ordering.agrees(gold, given) is right
