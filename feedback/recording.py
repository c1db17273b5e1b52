"""From what a person saw to what is recorded: places become positions, typed text becomes a Completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from feedback.models import Assignment, Candidate, ComparisonKind, Completion, sha256_text


class Said(NamedTuple):
    """A judgement as shown: places count from 0, left to right or top to bottom."""

    strength: int | None = None
    """-3 (the left one much better) .. 3 (the right one much better)."""
    ranking: Sequence[Sequence[int]] = ()
    """Groups of places, best first."""
    ratings: Sequence[Mapping[str, int]] = ()
    """Of each place its ratings by criterion."""
    written: str = ""
    corrects: int | None = None
    """The place of the completion that `written` mends; None when it is written anew."""


def recorded(assignment: Assignment, said: Said) -> dict[str, Any]:
    """The columns of the judgement's row; creates the Completion that was typed, in the same transaction."""
    order = assignment.shown_order
    kind = assignment.comparison.kind
    columns: dict[str, Any] = {"kind": kind, "strength": None}
    if kind == ComparisonKind.PAIRWISE and said.strength is not None:
        columns["strength"] = said.strength if order == [0, 1] else -said.strength
    elif kind == ComparisonKind.RANKING:
        columns["ranking"] = [sorted(order[place] for place in group) for group in said.ranking]
    elif kind == ComparisonKind.RATING:
        by_position = {order[place]: dict(given) for place, given in enumerate(said.ratings)}
        columns["ratings"] = [by_position[position] for position in sorted(by_position)]
    if said.written:
        columns |= written_text(assignment, said)
    return columns


def written_text(assignment: Assignment, said: Said) -> dict[str, Completion | None]:
    """Two people who write the same text share one Completion; each judgement knows what it corrected."""
    original = None
    if said.corrects is not None:
        rows = Candidate.objects.filter(comparison=assignment.comparison_id).select_related("completion")
        original = rows.get(position=assignment.shown_order[said.corrects]).completion
    text, _new = Completion.objects.get_or_create(
        prompt_id=assignment.comparison.prompt_id,
        text_hash=sha256_text(said.written),
        source=Completion.Source.CORRECTED if original else Completion.Source.WRITTEN,
        model_version=None,
        defaults={"text": said.written, "corrected_from": original},
    )
    return {"written": text, "corrects": original}


def as_shown(assignment_order: Sequence[int], answer: Mapping[str, Any]) -> Said:
    """The other way round: the order part of a recorded answer as its annotator saw it."""
    place = {position: place for place, position in enumerate(assignment_order)}
    strength = answer.get("strength")
    if strength is not None and list(assignment_order) != [0, 1]:
        strength = -strength
    ranking = [sorted(place[position] for position in group) for group in answer.get("ranking", [])]
    ratings = answer.get("ratings", [])
    return Said(strength, ranking, [ratings[position] for position in assignment_order] if ratings else [])
