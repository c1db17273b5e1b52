"""Several who judge one comparison, and a reviewer who decides: for tests of quality and adjudication."""

from __future__ import annotations

from typing import Any

from feedback import adjudication
from feedback.models import (
    Comparison,
    Preference,
    Project,
    User,
)
from tests.factories import (
    make_comparison,
    make_preference,
)
from tests.feedback.exporting import lines


def judged_by(people: list[User], project: Project, *said: int, **fields: Any) -> Comparison:
    comparison = make_comparison(project=project, overlap=len(said), **fields)
    for person, strength in zip(people, said, strict=False):
        make_preference(comparison=comparison, annotator=person, strength=strength)
    return comparison


def decide(comparison: Comparison, reviewer: User, strength: int = 1, **said: Any) -> Preference:
    last = adjudication.adjudications(comparison).first()
    return adjudication.adjudicate(
        comparison, reviewer, {"strength": strength, **said}, since=last and last.pk
    )


def chosen(project: Project) -> list[tuple[str, float]]:
    return [(row["chosen"][0]["content"], row["margin"]) for row in lines(project)]
