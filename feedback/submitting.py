"""A judgement or a skip comes in: recorded once, whatever is sent again. Rules and locks are the queue's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Case, F, Q, Value, When
from django.db.models.functions import Greatest
from django.utils import timezone

from feedback.models import Assignment, Comparison, Guideline, Preference, Project, User
from feedback.queue import EXPIRED, JUDGED, LEASED, SKIPPED, assignments_that, claimed, locked
from feedback.recording import Said, recorded
from rlhf_app.prepared import Prepared, PreparedUpdate, insert, number, text, update


class KeyReused(Exception):
    """An idempotency key came back with another answer than the one recorded under it."""


def submit(
    assignment: Assignment,
    annotator: User,
    *,
    fencing_token: int,
    key: str,
    body_hash: str,
    strength: int | None = None,
    ranking: Sequence[Sequence[int]] = (),
    ratings: Sequence[Mapping[str, int]] = (),
    written: str = "",
    corrects: int | None = None,
    acceptability: str = "",
    active_ms: int | None = None,
    flags: Sequence[str] = (),
    comment: str = "",
    now: datetime | None = None,
) -> Preference:
    """Record a judgement, once.

    What was said is given as it was shown, see `recording.Said`. The same key and body again return the
    recorded row; so does another form for a comparison already judged. Raises KeyReused when the key comes
    with another body.
    """
    said = Said(strength, ranking, ratings, written, corrects)
    besides = {"acceptability": acceptability, "flags": list(flags), "comment": comment}
    with transaction.atomic():
        guideline = guideline_of(assignment.comparison.project)
        sent = Sent(fencing_token, key, body_hash, active_ms, guideline)
        return record(assignment, annotator, said, besides, sent, now=now).preference


class Recorded(NamedTuple):
    """A judgement on record."""

    preference: Preference
    now: datetime
    """The time that counts, read under the locks."""
    fresh: bool
    """Recorded just now, not before."""


class Sent(NamedTuple):
    """What comes with a judgement."""

    fencing_token: int
    key: str
    body_hash: str
    active_ms: int | None
    guideline: Guideline | None


def record(
    assignment: Assignment,
    annotator: User,
    said: Said,
    besides: dict[str, Any],
    sent: Sent,
    *,
    now: datetime | None = None,
) -> Recorded:
    """`submit` inside a transaction."""
    assignment = locked(assignment, annotator)
    now = now or timezone.now()
    earlier: list[Preference] = EARLIER.all(assignment=assignment.pk, key=sent.key)
    for known in earlier:
        if known.idempotency_key == sent.key:
            if (known.assignment_id, known.body_hash) != (assignment.pk, sent.body_hash):
                raise KeyReused(sent.key)
            known.assignment, known.comparison = assignment, assignment.comparison
            return Recorded(known, now, fresh=False)
    last = earlier[0] if earlier else None
    if assignment.state == JUDGED and last is not None:
        last.assignment, last.comparison = assignment, assignment.comparison
        return Recorded(last, now, fresh=False)
    in_time = assignment.state == LEASED and assignment.lease_expires_at > now
    withdrawn = assignment.comparison.state == Comparison.State.WITHDRAWN
    preference = insert(
        Preference(
            assignment=assignment,
            comparison=assignment.comparison,
            annotator=annotator,
            **recorded(assignment, said),
            **besides,
            shown_order=assignment.shown_order,
            guideline=sent.guideline,
            active_ms=sent.active_ms,
            idempotency_key=sent.key,
            body_hash=sent.body_hash,
            supersedes=last,
            late=not in_time or withdrawn or assignment.fencing_token != sent.fencing_token,
            simulated=annotator.simulated,
        )
    )
    close(assignment, JUDGED, now)
    settle(assignment.comparison)
    return Recorded(preference, now, fresh=True)


def submit_and_claim(
    assignment: Assignment, annotator: User, said: Said, besides: dict[str, Any], sent: Sent
) -> tuple[Recorded, Assignment | None]:
    """Record a judgement and lease what comes next, so that the person waits for the disk once."""
    with transaction.atomic():
        done = record(assignment, annotator, said, besides, sent)
        return done, claimed(assignment.comparison.project, annotator, done.now, patient=False)


def guideline_of(project: Project) -> Guideline | None:
    """The guideline in force, without its text."""
    found: Guideline | None = GUIDELINE.first(project=project.pk)
    return found


def close(assignment: Assignment, state: Assignment.State, now: datetime, *, skip_reason: str = "") -> None:
    assignment.state = state
    assignment.closed_at = now
    assignment.skip_reason = skip_reason
    assignment.draft = {}
    update(assignment, "state", "closed_at", "skip_reason", "draft")


def settle(comparison: Comparison) -> None:
    """How many judgements are missing, and whether they are enough: after each one and each undo."""
    SETTLE.run(comparison=comparison.pk)


def keep_draft(assignment: Assignment, annotator: User, *, fencing_token: int, draft: dict[str, Any]) -> bool:
    """Remember what was typed so far; False once the comparison is judged, skipped, or leased anew."""
    rows = Assignment.objects.filter(pk=assignment.pk, annotator=annotator, fencing_token=fencing_token)
    return rows.filter(state__in=(LEASED, EXPIRED)).update(draft=draft) == 1


def skip(
    assignment: Assignment, annotator: User, *, fencing_token: int, reason: str, now: datetime | None = None
) -> Assignment:
    """Pass the comparison on to somebody else. A form older than the present lease changes nothing."""
    with transaction.atomic():
        assignment = locked(assignment, annotator)
        now = now or timezone.now()
        if assignment.state in (LEASED, EXPIRED) and assignment.fencing_token == fencing_token:
            close(assignment, SKIPPED, now, skip_reason=reason)
        return assignment


# --- queries of every judgement ---------------------------------------------------------------------

GUIDELINE = Prepared(
    lambda: Guideline.objects.filter(project=number("project")).defer("text").order_by("-version")[:1]
)
EARLIER = Prepared(
    lambda: Preference.objects.filter(
        Q(assignment=number("assignment")) | Q(idempotency_key=text("key"))
    ).order_by("-pk")
)
"""Judgements under this assignment, newest first, and whatever was recorded under this key."""
JUDGEMENTS = assignments_that(Q(state=JUDGED))
SETTLE = PreparedUpdate(
    lambda: Comparison.objects.filter(pk=number("comparison")),
    missing=Greatest(F("overlap") - JUDGEMENTS, Value(0)),
    state=Case(
        When(state=Comparison.State.WITHDRAWN, then=F("state")),  # for good
        When(overlap__lte=JUDGEMENTS, then=Value(Comparison.State.DONE)),
        default=Value(Comparison.State.OPEN),
    ),
)
