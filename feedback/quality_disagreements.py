"""The comparisons whose people disagree, the widest apart first: what a reviewer decides."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from feedback.agreement import directions
from feedback.models import ComparisonKind
from feedback.quality_rows import Judgement, Rows, together


class Disagreement(NamedTuple):
    """A comparison whose people do not agree: 0 where they say the same, 1 as far apart as can be."""

    comparison: int
    spread: float


def disagreements(found: Rows) -> list[Disagreement]:
    """The comparisons with any disagreement, the widest first, then the newest."""
    apart = [
        Disagreement(comparison, spread(kind, group))
        for kind, rows in found.items()
        for comparison, group in together(rows).items()
    ]
    return sorted((row for row in apart if row.spread), key=lambda row: (-row.spread, -row.comparison))


def spread(kind: ComparisonKind, group: Sequence[Judgement]) -> float:
    """The mean distance of every two judgements, on the kind's own scale."""
    apart = [_apart(kind, one, other) for one, other in combinations(group, 2)]
    return round(sum(apart) / len(apart), 6)


def _apart(kind: ComparisonKind, one: Judgement, other: Judgement) -> float:
    if kind == ComparisonKind.PAIRWISE:
        return float(abs(one.said - other.said) / 6)
    if kind == ComparisonKind.RANKING:
        signs = list(zip(directions(one.scores), directions(other.scores), strict=True))
        return sum(abs(first - second) for first, second in signs) / (2 * len(signs)) if signs else 0.0
    steps = [
        abs(rating - theirs[criterion])
        for ours, theirs in zip(one.said, other.said, strict=True)
        for criterion, rating in ours.items()
        if criterion in theirs
    ]
    return sum(steps) / (4 * len(steps)) if steps else 0.0
