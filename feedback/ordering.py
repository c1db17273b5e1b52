"""What a judgement says about the order of a comparison's candidates. Positions in, order out; no Django.

Every kind of judgement ends here as the same thing: which of two candidates is better, and by how much.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any, NamedTuple

WIDEST = 3.0
"""Margins end here, at "much better", whatever the scale they come from."""
RATING_SLACK = 1
"""A rating this far from a gold one still counts as right."""

Groups = Sequence[Sequence[int]]
Ratings = Sequence[Mapping[str, int]]


class Ordered(NamedTuple):
    """Two candidates by position. A tie has margin 0 and names the lower position first."""

    better: int
    worse: int
    margin: float

    @property
    def tie(self) -> bool:
        return self.margin == 0


def of_strength(strength: int) -> list[Ordered]:
    """-3 (candidate 0 is much better) .. 3 (candidate 1 is much better)."""
    better, worse = (1, 0) if strength > 0 else (0, 1)
    return [Ordered(better, worse, float(abs(strength)))]


def of_ranking(groups: Groups) -> list[Ordered]:
    """Groups of positions, best first; a group's members tie. The margin is how many groups lie between."""
    place = {position: rank for rank, group in enumerate(groups) for position in group}
    return _of_scores({position: -float(rank) for position, rank in place.items()})


def of_ratings(ratings: Ratings) -> list[Ordered]:
    """Of each candidate its rating by criterion; the margin is the difference of the means."""
    means = {position: sum(given.values()) / len(given) for position, given in enumerate(ratings) if given}
    return _of_scores(means)


def _of_scores(scores: Mapping[int, float]) -> list[Ordered]:
    """Every two candidates, the higher score first. Rounded: thirds of criteria must not make ties differ."""
    found = []
    for first, second in combinations(sorted(scores), 2):
        difference = round(scores[first] - scores[second], 6)
        better, worse = (first, second) if difference >= 0 else (second, first)
        found.append(Ordered(better, worse, min(WIDEST, abs(difference))))
    return found


def order_of(answer: Mapping[str, Any]) -> list[Ordered]:
    """The order in {"strength"}, {"ranking"} or {"ratings"}; nothing in anything else."""
    if answer.get("strength") is not None:
        return of_strength(answer["strength"])
    if answer.get("ranking"):
        return of_ranking(answer["ranking"])
    return of_ratings(answer.get("ratings") or [])


def agrees(gold: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether an answer says what the gold one says: which is better, not by how much.

    Ratings are compared one by one instead, since a single completion has no order: each may be off by one.
    """
    if gold.get("ratings"):
        return _ratings_agree(gold["ratings"], given.get("ratings") or [])
    return _directions(gold) == _directions(given)


def _directions(answer: Mapping[str, Any]) -> set[tuple[int, int, bool]]:
    return {(pair.better, pair.worse, pair.tie) for pair in order_of(answer)}


def _ratings_agree(gold: Ratings, given: Ratings) -> bool:
    if len(gold) != len(given):
        return False
    return all(
        name in ours and abs(ours[name] - wanted) <= RATING_SLACK
        for right, ours in zip(gold, given, strict=True)
        for name, wanted in right.items()
    )
