"""The judgements that statistics of quality are about, reduced to what is counted.

Judgements in force of training comparisons, by people or by simulated annotators, never both together.
Imported ones, gold, reviews and adjudications are left out. All is on completions by canonical position.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from django.db.models import TextField
from django.db.models.functions import Cast

from feedback.models import Comparison, ComparisonKind, Preference, PreferenceQuerySet, Project

LATEST = 20_000
"""Judgements of a kind that are looked at, the latest ones: a page has to come at once."""

Scores = tuple[float, ...]
"""Of each candidate by position: the higher, the better."""


class Judgement(NamedTuple):
    """One annotator's judgement, reduced to what is counted."""

    comparison: int
    prompt: int
    annotator: int
    scores: Scores
    """Empty where there is nothing to order."""
    said: Any
    """What the kind's own scale is taken from: a strength, or the ratings of each candidate."""
    shown: Sequence[int]
    active_ms: int | None


ANSWERS = {
    ComparisonKind.PAIRWISE: "strength",
    ComparisonKind.RANKING: "ranking",
    ComparisonKind.RATING: "ratings",
}


def counted(project: Project, *, simulated: bool) -> PreferenceQuerySet:
    """The judgements that these statistics are about."""
    rows = Preference.objects.filter(
        comparison__project=project, comparison__purpose=Comparison.Purpose.TRAINING
    )
    return rows.current().filter(imported=False, simulated=simulated)


Rows = dict[ComparisonKind, list[Judgement]]


def rows_of(project: Project, *, simulated: bool) -> Rows:
    """The latest judgements of every kind that compares; three queries."""
    return {kind: judgements(project, kind, simulated=simulated) for kind in ANSWERS}


def latest(project: Project, kind: ComparisonKind, *, simulated: bool) -> PreferenceQuerySet:
    return counted(project, simulated=simulated).filter(kind=kind).order_by("-pk")[:LATEST]


def left_out(project: Project, found: Iterable[ComparisonKind], *, simulated: bool) -> bool:
    """Whether any of these kinds, of which as many were read as are looked at, has earlier judgements."""
    return any(
        counted(project, simulated=simulated).filter(kind=kind).order_by("-pk")[LATEST : LATEST + 1].exists()
        for kind in found
    )


def full(found: Rows) -> list[ComparisonKind]:
    """The kinds of which there may be more: a query is only worth asking for these."""
    return [kind for kind, rows in found.items() if len(rows) >= LATEST]


def judgements(project: Project, kind: ComparisonKind, *, simulated: bool) -> list[Judgement]:
    """In one query, without making objects of the rows; oldest first."""
    rows = latest(project, kind, simulated=simulated)
    said_as = Cast(ANSWERS[kind], TextField()), Cast("shown_order", TextField())
    names = ("comparison", "comparison__prompt", "annotator", *said_as, "active_ms")
    read = SCORES[kind]
    found = [
        Judgement(comparison, prompt, annotator, read(parsed(said)), parsed(said), parsed(shown), active_ms)
        for comparison, prompt, annotator, said, shown, active_ms in rows.values_list(*names)
    ]
    return found[::-1]


parsed = lru_cache(maxsize=4096)(json.loads)
"""Few orders and rankings differ: parsed once, they are shared and must not be changed."""


def _of_strength(strength: int) -> Scores:
    return (-strength, strength)


def _of_ranking(groups: Sequence[Sequence[int]]) -> Scores:
    place = {position: -rank for rank, group in enumerate(groups) for position in group}
    return tuple(place[position] for position in sorted(place))


def _of_ratings(ratings: Sequence[Mapping[str, int]]) -> Scores:
    """Means, rounded: thirds of criteria must not make ties differ. A completion rated alone has no order."""
    if len(ratings) < 2 or not all(ratings):
        return ()
    return tuple(round(sum(given.values()) / len(given), 6) for given in ratings)


SCORES: dict[ComparisonKind, Any] = {
    ComparisonKind.PAIRWISE: _of_strength,
    ComparisonKind.RANKING: _of_ranking,
    ComparisonKind.RATING: _of_ratings,
}


Together = dict[int, list[Judgement]]
"""Comparison -> the judgements of it."""


def together(found: Iterable[Judgement]) -> Together:
    by_comparison: Together = defaultdict(list)
    for judgement in found:
        by_comparison[judgement.comparison].append(judgement)
    return {comparison: several for comparison, several in by_comparison.items() if len(several) > 1}
