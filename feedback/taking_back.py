"""Undo: a judgement or skip is taken back and its comparison shown again. Rules and locks are the queue's."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta

from django.db import transaction
from django.db.models import F, Q
from django.db.models.query import QuerySet
from django.utils import timezone

from feedback.models import Assignment, Comparison, ComparisonKind, Preference, Project, User
from feedback.queue import (
    EXPIRED,
    JUDGED,
    SKIPPED,
    assignments_that,
    hold,
    live,
    locked,
    reopen,
    with_free_slots,
)
from feedback.submitting import settle
from rlhf_app.prepared import Prepared, moment, number, update

BROUGHT_IN = Q(shown_order=[]) & ~Q(comparison__kind=ComparisonKind.DEMONSTRATION)
"""Assignments of imported judgements: their importer never saw the texts and cannot take anything back."""
UNDO_WITHIN = timedelta(hours=24)
"""Older judgements stay: others have built on them."""


def last_closed(project: Project, annotator: User, *, now: datetime | None = None) -> Assignment | None:
    """What an undo would take back: the annotator's latest judgement or skip of the last day."""
    since = (now or timezone.now()) - UNDO_WITHIN
    found: Assignment | None = LAST_CLOSED.first(project=project.pk, annotator=annotator.pk, since=since)
    if found is not None:
        found.comparison.project = project
    return found


def closed_since() -> QuerySet[Assignment]:
    rows = Assignment.objects.filter(
        annotator=number("annotator"),
        state__in=(JUDGED, SKIPPED),
        closed_at__gt=moment("since"),
        comparison__project=number("project"),
    )
    rows = rows.exclude(comparison__state=Comparison.State.WITHDRAWN).exclude(BROUGHT_IN)
    return rows.select_related("comparison").order_by("-closed_at", "-pk")[:1]


def undo(
    project: Project,
    annotator: User,
    *,
    assignment: Assignment | None = None,
    now: datetime | None = None,
) -> Assignment | None:
    """Take back the latest judgement or skip, or the one of `assignment`, and show its comparison again.

    A judgement stays on record under a withdrawal row. None when there is nothing to take back: too old,
    taken back already, or a skipped comparison that somebody else has taken on. A late judgement may have
    been beyond the overlap: then what comes back is not leased, but as if its lease had run out.
    """
    with transaction.atomic():
        hold(annotator)
        chosen = assignment or last_closed(project, annotator, now=now)
        if chosen is None:
            return None
        chosen = locked(chosen, annotator)
        now = now or timezone.now()
        if chosen.closed_at is None or chosen.closed_at <= now - UNDO_WITHIN:
            return None
        if chosen.comparison.state == Comparison.State.WITHDRAWN or chosen.state not in (JUDGED, SKIPPED):
            return None
        if Assignment.objects.filter(BROUGHT_IN, pk=chosen.pk).exists():
            return None
        if chosen.state == SKIPPED:
            free = with_free_slots(now).filter(pk=chosen.comparison_id).exists()
            return reopen(chosen, now) if free else None
        taken_back = withdraw(chosen)
        reopen(chosen, now)
        settle(chosen.comparison)
        if taken_back.late and over_full(chosen.comparison, now):
            lay_aside(chosen, now)
        return chosen


def over_full(comparison: Comparison, now: datetime) -> bool:
    """Whether judgements and live leases exceed the overlap."""
    rows = Comparison.objects.alias(taken=assignments_that(Q(state=JUDGED) | live(now)))
    return rows.filter(pk=comparison.pk, taken__gt=F("overlap")).exists()


def lay_aside(assignment: Assignment, now: datetime) -> None:
    """No lease: its slot is another's. The form can still be sent, late, and a free slot revives it."""
    assignment.state = EXPIRED
    assignment.lease_expires_at = assignment.closed_at = now
    update(assignment, "state", "lease_expires_at", "closed_at")


def withdraw(assignment: Assignment) -> Preference:
    """Add the row that says: this judgement counts no more. Returns the judgement."""
    last = assignment.preferences.order_by("-pk")[0]
    Preference.objects.create(
        assignment=assignment,
        comparison=assignment.comparison,
        annotator=last.annotator,
        shown_order=last.shown_order,
        idempotency_key=f"undo-{uuid.uuid4()}",
        supersedes=last,
        withdrawn=True,
        kind=last.kind,
        simulated=last.simulated,
    )
    return last


LAST_CLOSED = Prepared(closed_since)
