"""A reviewer's decision of a comparison whose annotators disagree.

It is a judgement without an assignment: it takes nobody's place in the overlap, counts in no statistic about
annotators, and `Preference.pairs()` lets it decide instead of theirs. A change or a withdrawal is a new row.
"""

from __future__ import annotations

import uuid
from typing import Any

from django.db import IntegrityError, transaction
from django.db.models import Count, Exists, OuterRef, QuerySet

from feedback.asked import MOST_CANDIDATES
from feedback.models import (
    Assignment,
    AuditEntry,
    Comparison,
    ComparisonKind,
    ComparisonQuerySet,
    Preference,
    PreferenceQuerySet,
    Project,
    User,
    canonical_json,
    sha256_text,
)
from feedback.queue import closed_by
from feedback.recording import Said, recorded


class Overtaken(Exception):
    """Somebody else decided in the meantime; what they said stands until it is changed."""


def adjudicable(project: Project) -> ComparisonQuerySet:
    """What can be decided: training comparisons of an order. Gold has its answer; reviews are blind.

    Files bring rankings of more completions than a page shows: nobody judged those here.
    """
    found = Comparison.objects.filter(project=project, purpose=Comparison.Purpose.TRAINING)
    found = found.alias(texts=Count("candidates")).filter(texts__lte=MOST_CANDIDATES)
    return found.exclude(kind=ComparisonKind.DEMONSTRATION)


def not_to_be_seen(project: Project, reviewer: User) -> QuerySet[Comparison, int]:
    """Judged comparisons that this reviewer may yet be asked to judge: the others' answers stay hidden."""
    judged = Assignment.objects.filter(comparison=OuterRef("pk"), state=Assignment.State.JUDGED)
    still = Comparison.objects.open().filter(Exists(judged), ~closed_by(reviewer), project=project)
    return still.values_list("pk", flat=True)


def adjudications(comparison: Comparison) -> PreferenceQuerySet:
    """All that reviewers decided of it, taken back or not, the newest first."""
    return Preference.objects.filter(comparison=comparison, adjudication=True).order_by("-pk")


def in_force(comparison: Comparison) -> Preference | None:
    """The decision that stands."""
    last = adjudications(comparison).first()
    return None if last is None or last.withdrawn else last


def shown_to_reviewers(comparison: Comparison) -> Assignment:
    """Not saved: reviewers see the candidates in canonical order, by which the page names all judgements."""
    places = list(comparison.candidates.values_list("position", flat=True))
    return Assignment(comparison=comparison, shown_order=places)


def adjudicate(
    comparison: Comparison, reviewer: User, said: dict[str, Any], *, since: int | None
) -> Preference:
    """Record the decision; `since` is the last one that the reviewer saw. Raises Overtaken.

    said: strength, ranking or ratings by canonical place, and perhaps acceptability and comment.
    """
    said = dict(said)
    order = Said(**{name: said.pop(name) for name in ("strength", "ranking", "ratings") if name in said})
    return append(comparison, reviewer, since, recorded(shown_to_reviewers(comparison), order) | said)


def withdraw(comparison: Comparison, reviewer: User, *, since: int | None) -> Preference | None:
    """Let the annotators' judgements count again; None when nothing stands. Raises Overtaken."""
    standing = in_force(comparison)
    if standing is None:
        return None
    return append(comparison, reviewer, since, {"kind": comparison.kind, "withdrawn": True})


def append(comparison: Comparison, reviewer: User, since: int | None, columns: dict[str, Any]) -> Preference:
    """The next row of this comparison's decisions, with its audit entry.

    The database lets each row be superseded once and each comparison have one first decision: of two
    reviewers who decide at once, the second is told.
    """
    last = adjudications(comparison).first()
    if (last.pk if last else None) != since:
        raise Overtaken
    try:
        with transaction.atomic():
            row = Preference.objects.create(
                comparison=comparison,
                annotator=reviewer,
                adjudication=True,
                supersedes=last,
                shown_order=shown_to_reviewers(comparison).shown_order,
                guideline=comparison.project.guideline(),
                idempotency_key=f"adjudication-{uuid.uuid4()}",
                body_hash=sha256_text(canonical_json(columns)),
                simulated=reviewer.simulated,
                **columns,
            )
            action = "adjudication.withdrawn" if row.withdrawn else "comparison.adjudicated"
            AuditEntry.record(reviewer, action, comparison, judgement=row.pk, answer=row.answer())
    except IntegrityError as error:
        now = adjudications(comparison).first()
        if (now.pk if now else None) == since:
            raise  # nobody else decided: a row that may not be
        raise Overtaken from error
    return row
