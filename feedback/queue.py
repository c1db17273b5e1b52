"""Who judges what next: claim, renew, release. What comes in: `submitting.py`; undone: `taking_back.py`.

The rules, all kept in the database:

- Live leases plus judgements of a comparison never exceed its overlap. Only a late submit may go beyond it,
  or come after the comparison was withdrawn: finished work is kept, marked `late`, and not thrown away.
- Nobody judges a comparison twice: one person has one assignment in it, whose shown order is drawn once.
- A lease that ran out is taken back by whoever claims next; no sweeper is needed.
- A person holds one lease, or while plenty is free a second one on what comes next.
- Gold comparisons are no work to be done: they are mixed in at the project's rate while there is other work,
  each person meets each of them once, but none that they judged at work, and nothing that a person gets to
  see tells them apart.

Every verb is one transaction. On SQLite it is IMMEDIATE, so verbs run one after the other; elsewhere rows are
locked in the order user, comparison, assignment. `now` is read after the lock is held: a clock read while
waiting for a lock could revive a lease that somebody else has taken over meanwhile.
"""

from __future__ import annotations

import secrets
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Exists, F, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.db.models.query import QuerySet
from django.utils import timezone

from feedback.gold_served import gold_for, gold_is_due
from feedback.models import Assignment, Comparison, ComparisonKind, ComparisonQuerySet, Project, User
from rlhf_app.prepared import Given, Prepared, insert, moment, number, update

LEASED, JUDGED = Assignment.State.LEASED, Assignment.State.JUDGED
SKIPPED, EXPIRED = Assignment.State.SKIPPED, Assignment.State.EXPIRED
SHOWN = ("project_id", "kind", "overlap", "state", "prompt__messages")
PLENTY = 20
"""So many free comparisons must be left for somebody to hold a second one."""
GOLD_OVERLAP = 10_000
"""Everybody judges a gold comparison: it is never done."""


# --- what is free -----------------------------------------------------------------------------------


def live(now: datetime | Given) -> Q:
    """Assignments whose lease still runs."""
    return Q(state=LEASED, lease_expires_at__gt=now)


def assignments_that(condition: Q) -> Coalesce:
    """How many of a comparison's assignments meet the condition."""
    found = Assignment.objects.filter(condition, comparison=OuterRef("pk"))
    count = found.order_by().values("comparison").annotate(count=Count("pk")).values("count")
    return Coalesce(Subquery(count), 0)


def with_free_slots(now: datetime | Given) -> ComparisonQuerySet:
    """Open comparisons with fewer judgements and live leases than their overlap."""
    taken = assignments_that(Q(state=JUDGED) | live(now))
    return Comparison.objects.open().alias(taken=taken).filter(taken__lt=F("overlap"))


def closed_by(annotator: User | Given) -> Exists:
    """Whether the annotator has judged or skipped the comparison."""
    rows = Assignment.objects.filter(comparison=OuterRef("pk"), annotator=annotator)
    return Exists(rows.filter(state__in=(JUDGED, SKIPPED)))


def free_for(project: Project | Given, annotator: User | Given, now: datetime | Given) -> ComparisonQuerySet:
    """What the annotator could be given, gold too."""
    return with_free_slots(now).filter(~closed_by(annotator), project=project)


def queue_for(project: Project | Given, annotator: User | Given, now: datetime | Given) -> ComparisonQuerySet:
    """What the annotator may claim, in order: a walk of the index `comparison_queue` to the first fit."""
    rows = free_for(project, annotator, now).exclude(purpose=Comparison.Purpose.GOLD)
    return rows.order_by("-priority", "missing", "shuffle")


def next_one(*, skip_locked: bool) -> Prepared:
    """The comparison that comes next for somebody, locked, with what its page shows of it."""

    def rows() -> ComparisonQuerySet:
        queue = queue_for(number("project"), number("annotator"), moment("now"))
        queue = queue.exclude(pk=number("but")).select_related("prompt").only(*SHOWN)
        return queue.select_for_update(skip_locked=skip_locked and locks_rows(), of=("self",))[:1]

    return Prepared(rows)


# --- claim and renew --------------------------------------------------------------------------------


def locks_rows() -> bool:
    """False on SQLite, where an IMMEDIATE transaction has locked everything already."""
    return connection.features.has_select_for_update


def hold(annotator: User) -> None:
    """One verb at a time per person, so that two tabs opened together share one lease."""
    if locks_rows():
        LOCKED_PERSON.all(pk=annotator.pk)


def lease_end(now: datetime) -> datetime:
    return now + timedelta(seconds=settings.LEASE_SECONDS)


def claim(project: Project, annotator: User, *, now: datetime | None = None) -> Assignment | None:
    """The annotator's live lease, renewed, or else one on the next comparison; None when nothing is free.

    Inside a transaction that holds locks already it does not wait for others' locks: two such could wait for
    each other. Whoever gets None there asks again outside.
    """
    patient = not connection.in_atomic_block
    with transaction.atomic(savepoint=False):
        hold(annotator)
        return claimed(project, annotator, now or timezone.now(), patient=patient)


def leases_of_mine() -> QuerySet[Assignment]:
    return Assignment.objects.filter(
        live(moment("now")), annotator=number("annotator"), comparison__project=number("project")
    )


def lease_of_mine() -> QuerySet[Assignment]:
    """After an undo there are two: the one just taken back is the later lease and comes first."""
    mine = leases_of_mine().exclude(pk=number("but")).exclude(comparison__state=Comparison.State.WITHDRAWN)
    return mine.select_related("comparison__prompt").order_by("-lease_expires_at", "-pk")[:1]


def enough(most: int = PLENTY) -> QuerySet[Comparison, Any]:
    """The keys of what is free for somebody, as far as it has to be counted."""
    free = queue_for(number("project"), number("annotator"), moment("now"))
    return free.exclude(pk=number("but")).values_list("pk")[:most]


def claimed(project: Project, annotator: User, now: datetime, *, patient: bool) -> Assignment | None:
    """`claim`, for an annotator who is held."""
    held: Assignment | None = MINE.first(project=project.pk, annotator=annotator.pk, now=now, but=0)
    if held is None:
        return take(project, annotator, now, patient=patient)
    held.comparison.project = project
    held.lease_expires_at = lease_end(now)
    update(held, "lease_expires_at")
    return held


def take(
    project: Project, annotator: User, now: datetime, *, patient: bool, but: int = 0
) -> Assignment | None:
    """A new lease, on gold when that is due, else on what comes next but `but`; the annotator is held."""
    if project.gold_rate and gold_is_due(project) and queue_for(project, annotator, now).exists():
        rows = gold_for(free_for(project, annotator, now), annotator).exclude(pk=but).select_related("prompt")
        gold = rows.select_for_update(skip_locked=locks_rows(), of=("self",)).first()
        if gold is not None:
            gold.project = project
            if (leased := lease(gold, annotator, now)) is not None:
                return leased
    # A locked comparison may be free a moment later, so before saying "nothing left" wait for the locks.
    for skip_locked in (True, False) if patient and locks_rows() else (True,):
        queue = NEXT if skip_locked else NEXT_PATIENT
        asked = {"project": project.pk, "annotator": annotator.pk, "now": now, "but": but}
        while (comparison := queue.first(**asked)) is not None:
            comparison.project = project
            # Its last slot may have gone between our reading and our lock: then ask again.
            if (leased := lease(comparison, annotator, now)) is not None:
                return leased
    return None


def claim_ahead(current: Assignment, annotator: User, *, now: datetime | None = None) -> Assignment | None:
    """A second lease, so that what comes next is there before `current` is judged; None if work is scarce.

    It ends before the lease on `current`, which so stays the one that `claim` returns. Whoever holds two
    keeps one from others: hence only while plenty is free, and never a third.
    """
    with transaction.atomic():
        hold(annotator)
        now = now or timezone.now()
        project = current.comparison.project
        asked = {"project": project.pk, "annotator": annotator.pk, "now": now}
        held: Assignment | None = HELD.first(pk=current.pk, **asked)
        if held is None:
            return None
        other: Assignment | None = MINE.first(but=held.pk, **asked)
        if other is not None:
            other.comparison.project = project
            return other if other.lease_expires_at < held.lease_expires_at else None
        if len(FREE.all(but=held.comparison_id, **asked)) < PLENTY:
            return None
        ahead = take(project, annotator, now, patient=False, but=held.comparison_id)
        if ahead is not None:
            ahead.lease_expires_at = held.lease_expires_at - timedelta(seconds=1)
            update(ahead, "lease_expires_at")
        return ahead


def lease(comparison: Comparison, annotator: User, now: datetime) -> Assignment | None:
    """Give the comparison, whose lock is held, to the annotator; None when it has no free slot."""
    again, taken = None, 0
    for assignment in ASSIGNMENTS.all(comparison=comparison.pk):
        runs = assignment.state == LEASED and assignment.lease_expires_at > now
        taken += runs or assignment.state == JUDGED
        if assignment.annotator_id == annotator.pk:
            again = assignment
        elif assignment.state == LEASED and not runs:
            assignment.state, assignment.closed_at = EXPIRED, assignment.lease_expires_at
            update(assignment, "state", "closed_at")  # the draft stays: its person may come back
    if taken >= comparison.overlap:
        return None
    if again is not None:
        again.comparison = comparison
        return reopen(again, now)
    return insert(
        Assignment(
            comparison=comparison,
            annotator=annotator,
            shown_order=draw_order(candidates_of(comparison)),
            lease_expires_at=lease_end(now),
        )
    )


def candidates_of(comparison: Comparison) -> int:
    fixed = {ComparisonKind.PAIRWISE: 2, ComparisonKind.DEMONSTRATION: 0}
    count = fixed.get(ComparisonKind(comparison.kind))
    return comparison.candidates.count() if count is None else count


def draw_order(count: int) -> list[int]:
    """Which candidate is shown where: a draw that neither annotators nor importers can foresee."""
    order = list(range(count))
    secrets.SystemRandom().shuffle(order)
    return order


def reopen(assignment: Assignment, now: datetime) -> Assignment:
    """A new lease of the same row. The shown order stays: a form still open elsewhere means what it shows."""
    assignment.state = LEASED
    assignment.fencing_token += 1
    assignment.lease_expires_at = lease_end(now)
    assignment.closed_at = None
    assignment.skip_reason = ""
    assignment.save()
    return assignment


def locked(assignment: Assignment, annotator: User) -> Assignment:
    """The row as it stands now, with person, comparison and row locked."""
    hold(annotator)
    if locks_rows():
        LOCKED_COMPARISON.all(pk=assignment.comparison_id)
    row: Assignment | None = LOCKED.first(pk=assignment.pk, annotator=annotator.pk)
    if row is None:
        raise Assignment.DoesNotExist
    row.comparison.project = assignment.comparison.project  # which never changes
    return row


def renew(
    assignment: Assignment, annotator: User, *, fencing_token: int, now: datetime | None = None
) -> Assignment | None:
    """Extend the lease. One that ran out is revived while its slot is free; None when it is lost."""
    with transaction.atomic():
        assignment = locked(assignment, annotator)
        now = now or timezone.now()
        if assignment.state not in (LEASED, EXPIRED) or assignment.fencing_token != fencing_token:
            return None
        runs = assignment.state == LEASED and assignment.lease_expires_at > now
        if not runs and not with_free_slots(now).filter(pk=assignment.comparison_id).exists():
            return None
        assignment.state = LEASED
        assignment.lease_expires_at = lease_end(now)
        assignment.closed_at = None
        assignment.save()
        return assignment


def release(project: Project, annotator: User) -> int:
    """Give all leases of a person who leaves back at once; how many there were."""
    with transaction.atomic():
        hold(annotator)
        now = timezone.now()
        held = Assignment.objects.filter(live(now), annotator=annotator, comparison__project=project)
        return held.update(state=EXPIRED, lease_expires_at=now, closed_at=now)


# --- queries of every judgement ---------------------------------------------------------------------

NEXT, NEXT_PATIENT = next_one(skip_locked=True), next_one(skip_locked=False)
MINE = Prepared(lease_of_mine)
HELD = Prepared(lambda: leases_of_mine().filter(pk=number("pk")))
FREE = Prepared(enough)
ASSIGNMENTS = Prepared(lambda: Assignment.objects.filter(comparison=number("comparison")))
LOCKED_PERSON = Prepared(
    lambda: User.objects.select_for_update(no_key=True).filter(pk=number("pk")).values_list("pk")
)
LOCKED_COMPARISON = Prepared(
    lambda: Comparison.objects.select_for_update().filter(pk=number("pk")).values_list("pk")
)
LOCKED = Prepared(
    lambda: (
        Assignment.objects.select_for_update(of=("self",))
        .select_related("comparison")
        .filter(pk=number("pk"), annotator=number("annotator"))
    )
)
