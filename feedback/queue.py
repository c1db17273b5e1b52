"""Who judges what next: claim, renew, submit, skip, undo.

The rules, all kept in the database:

- Live leases plus judgements of a comparison never exceed its overlap. Only a late submit may go beyond it,
  or come after the comparison was withdrawn: finished work is kept, marked `late`, and not thrown away.
- Nobody judges a comparison twice: one person has one assignment in it, whose shown order is drawn once.
- A lease that ran out is taken back by whoever claims next; no sweeper is needed.
- A person holds one lease, or while plenty is free a second one on what comes next.
- Gold comparisons are no work to be done: they are mixed in at the project's rate while there is other work,
  each person meets each of them once, and nothing that a person gets to see tells them apart.

Every verb is one transaction. On SQLite it is IMMEDIATE, so verbs run one after the other; elsewhere rows are
locked in the order user, comparison, assignment. `now` is read after the lock is held: a clock read while
waiting for a lock could revive a lease that somebody else has taken over meanwhile.
"""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Count, Exists, F, Min, OuterRef, Q, Subquery
from django.db.models.functions import Coalesce
from django.utils import timezone

from feedback.models import (
    Assignment,
    Comparison,
    ComparisonKind,
    ComparisonQuerySet,
    Preference,
    Project,
    User,
)
from feedback.recording import Said, recorded

LEASED, JUDGED = Assignment.State.LEASED, Assignment.State.JUDGED
SKIPPED, EXPIRED = Assignment.State.SKIPPED, Assignment.State.EXPIRED
BROUGHT_IN = Q(shown_order=[]) & ~Q(comparison__kind=ComparisonKind.DEMONSTRATION)
"""Assignments of imported judgements: their importer never saw the texts and cannot take anything back."""
UNDO_WITHIN = timedelta(hours=24)
"""Older judgements stay: others have built on them."""


PLENTY = 20
"""So many free comparisons must be left for somebody to hold a second one."""
GOLD_OVERLAP = 10_000
"""Everybody judges a gold comparison: it is never done."""


class KeyReused(Exception):
    """An idempotency key came back with another answer than the one recorded under it."""


# --- what is free -----------------------------------------------------------------------------------


def live(now: datetime) -> Q:
    """Assignments whose lease still runs."""
    return Q(state=LEASED, lease_expires_at__gt=now)


def with_free_slots(now: datetime) -> ComparisonQuerySet:
    """Open comparisons with fewer judgements and live leases than their overlap."""
    taken = Assignment.objects.filter(Q(state=JUDGED) | live(now), comparison=OuterRef("pk"))
    count = taken.order_by().values("comparison").annotate(count=Count("pk")).values("count")
    return Comparison.objects.open().alias(taken=Coalesce(Subquery(count), 0)).filter(taken__lt=F("overlap"))


def closed_by(annotator: User) -> Exists:
    """Whether the annotator has judged or skipped the comparison."""
    rows = Assignment.objects.filter(comparison=OuterRef("pk"), annotator=annotator)
    return Exists(rows.filter(state__in=(JUDGED, SKIPPED)))


def queue_for(project: Project, annotator: User, now: datetime) -> ComparisonQuerySet:
    """What the annotator may claim, in order: a walk of the index `comparison_queue` to the first fit."""
    rows = with_free_slots(now).filter(~closed_by(annotator), project=project)
    return rows.exclude(purpose=Comparison.Purpose.GOLD).order_by("-priority", "shuffle")


def gold_for(project: Project, annotator: User, now: datetime) -> ComparisonQuerySet:
    """The gold comparisons that this annotator has not met, in an order of their own."""
    rows = with_free_slots(now).filter(~closed_by(annotator), project=project)
    return rows.filter(purpose=Comparison.Purpose.GOLD).order_by("?")


def gold_is_due(project: Project) -> bool:
    """A coin that falls at the project's gold rate: nobody can tell when the next one comes."""
    return secrets.randbelow(1_000_000) < round(project.gold_rate * 1_000_000)


class Waiting(NamedTuple):
    """Why there is nothing to claim."""

    comparisons: int
    """Put up in the project and not withdrawn."""
    done: int
    mine: int
    """Open ones that this annotator has judged or skipped: they need somebody else."""
    with_others: int
    """Open ones that are in other people's hands right now."""
    back_at: datetime | None
    """When the first of these leases ends, unless it is renewed."""


def waiting(project: Project, annotator: User, *, now: datetime | None = None) -> Waiting:
    """The facts for the page that has nothing to show."""
    now = now or timezone.now()
    put_up = Comparison.objects.filter(project=project).exclude(state=Comparison.State.WITHDRAWN)
    put_up = put_up.exclude(purpose=Comparison.Purpose.GOLD)
    count = put_up.aggregate(all=Count("pk"), done=Count("pk", filter=Q(state=Comparison.State.DONE)))
    mine = put_up.open().filter(closed_by(annotator)).count()
    held = put_up.open().filter(~closed_by(annotator))
    back_at = Assignment.objects.filter(live(now), comparison__in=held).aggregate(at=Min("lease_expires_at"))
    return Waiting(count["all"], count["done"], mine, held.count(), back_at["at"])


# --- claim and renew --------------------------------------------------------------------------------


def locks_rows() -> bool:
    """False on SQLite, where an IMMEDIATE transaction has locked everything already."""
    return connection.features.has_select_for_update


def hold(annotator: User) -> None:
    """One verb at a time per person, so that two tabs opened together share one lease."""
    if locks_rows():
        list(User.objects.select_for_update(no_key=True).filter(pk=annotator.pk).values_list("pk"))


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
        now = now or timezone.now()
        mine = Assignment.objects.filter(live(now), annotator=annotator, comparison__project=project)
        mine = mine.exclude(comparison__state=Comparison.State.WITHDRAWN)
        mine = mine.select_related("comparison__prompt")
        # After an undo there are two: the one just taken back is the later lease and comes first.
        held = mine.order_by("-lease_expires_at", "-pk").first()
        if held is not None:
            held.comparison.project = project
            held.lease_expires_at = lease_end(now)
            held.save(update_fields=["lease_expires_at"])
            return held
        return take(project, annotator, now, patient=patient)


def take(
    project: Project, annotator: User, now: datetime, *, patient: bool, but: int = 0
) -> Assignment | None:
    """A new lease, on gold when that is due, else on what comes next but `but`; the annotator is held."""
    if project.gold_rate and gold_is_due(project) and queue_for(project, annotator, now).exists():
        rows = gold_for(project, annotator, now).exclude(pk=but).select_related("prompt")
        gold = rows.select_for_update(skip_locked=locks_rows(), of=("self",)).first()
        if gold is not None:
            gold.project = project
            return lease(gold, annotator, now)
    # A locked comparison may be free a moment later, so before saying "nothing left" wait for the locks.
    for skip_locked in (True, False) if patient and locks_rows() else (True,):
        queue = queue_for(project, annotator, now).exclude(pk=but)
        queue = queue.select_related("prompt")
        queue = queue.select_for_update(skip_locked=skip_locked, of=("self",))
        while (comparison := queue.first()) is not None:
            # Its last slot may have gone between our reading and our lock: ask again, under the lock.
            if not locks_rows() or with_free_slots(now).filter(pk=comparison.pk).exists():
                comparison.project = project
                return lease(comparison, annotator, now)
    return None


def claim_ahead(current: Assignment, annotator: User, *, now: datetime | None = None) -> Assignment | None:
    """A second lease, so that what comes next is there before `current` is judged; None if work is scarce.

    It ends before the lease on `current`, which so stays the one that `claim` returns. Whoever holds two
    keeps one from others: hence only while plenty is free, and never a third.
    """
    with transaction.atomic():
        hold(annotator)
        now = now or timezone.now()
        mine = Assignment.objects.filter(live(now), annotator=annotator)
        held = mine.filter(pk=current.pk).select_related("comparison__project").first()
        if held is None:
            return None
        project = held.comparison.project
        mine = mine.filter(comparison__project=project).exclude(comparison__state=Comparison.State.WITHDRAWN)
        other = mine.exclude(pk=held.pk).order_by("-lease_expires_at", "-pk").first()
        if other is not None:
            return other if other.lease_expires_at < held.lease_expires_at else None
        free = queue_for(project, annotator, now).exclude(pk=held.comparison_id)
        if len(free.values_list("pk")[:PLENTY]) < PLENTY:
            return None
        ahead = take(project, annotator, now, patient=False, but=held.comparison_id)
        if ahead is not None:
            ahead.lease_expires_at = held.lease_expires_at - timedelta(seconds=1)
            ahead.save(update_fields=["lease_expires_at"])
        return ahead


def lease(comparison: Comparison, annotator: User, now: datetime) -> Assignment:
    """Give the comparison, whose lock is held and which has a free slot, to the annotator."""
    again = None
    for assignment in Assignment.objects.filter(comparison=comparison):
        if assignment.annotator_id == annotator.pk:
            again = assignment
        elif assignment.state == LEASED and assignment.lease_expires_at <= now:
            close(assignment, EXPIRED, assignment.lease_expires_at)
    if again is not None:
        return reopen(again, now)
    return Assignment.objects.create(
        comparison=comparison,
        annotator=annotator,
        shown_order=draw_order(candidates_of(comparison)),
        lease_expires_at=lease_end(now),
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
        list(Comparison.objects.select_for_update().filter(pk=assignment.comparison_id).values_list("pk"))
    rows = Assignment.objects.select_for_update(of=("self",)).select_related("comparison")
    row = rows.get(pk=assignment.pk, annotator=annotator)
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


# --- submit, skip, undo -----------------------------------------------------------------------------


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
    with transaction.atomic():
        assignment = locked(assignment, annotator)
        now = now or timezone.now()
        known = Preference.objects.filter(idempotency_key=key).first()
        if known is not None:
            if (known.assignment_id, known.body_hash) != (assignment.pk, body_hash):
                raise KeyReused(key)
            return known
        last = assignment.preferences.order_by("-pk").first()
        if assignment.state == JUDGED and last is not None:
            return last
        in_time = assignment.state == LEASED and assignment.lease_expires_at > now
        withdrawn = assignment.comparison.state == Comparison.State.WITHDRAWN
        guideline = assignment.comparison.project.guideline()
        preference = Preference.objects.create(
            assignment=assignment,
            comparison=assignment.comparison,
            annotator=annotator,
            **recorded(assignment, Said(strength, ranking, ratings, written, corrects)),
            acceptability=acceptability,
            flags=list(flags),
            comment=comment,
            shown_order=assignment.shown_order,
            guideline=guideline,
            active_ms=active_ms,
            idempotency_key=key,
            body_hash=body_hash,
            supersedes=last,
            late=not in_time or withdrawn or assignment.fencing_token != fencing_token,
            simulated=annotator.simulated,
        )
        close(assignment, JUDGED, now)
        settle(assignment.comparison)
        return preference


def close(assignment: Assignment, state: Assignment.State, now: datetime, *, skip_reason: str = "") -> None:
    assignment.state = state
    assignment.closed_at = now
    assignment.skip_reason = skip_reason
    assignment.draft = {}
    assignment.save(update_fields=["state", "closed_at", "skip_reason", "draft"])


def settle(comparison: Comparison) -> None:
    """DONE when enough have judged, OPEN again after an undo; a withdrawn comparison stays withdrawn."""
    judged = Assignment.objects.filter(comparison=comparison, state=JUDGED).count()
    state = Comparison.State.DONE if judged >= comparison.overlap else Comparison.State.OPEN
    rows = Comparison.objects.filter(pk=comparison.pk).exclude(state__in=(state, Comparison.State.WITHDRAWN))
    rows.update(state=state)


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


def last_closed(project: Project, annotator: User, *, now: datetime | None = None) -> Assignment | None:
    """What an undo would take back: the annotator's latest judgement or skip of the last day."""
    since = (now or timezone.now()) - UNDO_WITHIN
    rows = Assignment.objects.filter(
        annotator=annotator, state__in=(JUDGED, SKIPPED), closed_at__gt=since, comparison__project=project
    )
    rows = rows.exclude(comparison__state=Comparison.State.WITHDRAWN).exclude(BROUGHT_IN)
    return rows.order_by("-closed_at", "-pk").first()


def undo(
    project: Project,
    annotator: User,
    *,
    assignment: Assignment | None = None,
    now: datetime | None = None,
) -> Assignment | None:
    """Take back the latest judgement or skip, or the one of `assignment`, and show its comparison again.

    A judgement stays on record under a withdrawal row. None when there is nothing to take back: too old,
    taken back already, or a skipped comparison that somebody else has taken on.
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
        withdraw(chosen)
        reopen(chosen, now)
        settle(chosen.comparison)
        return chosen


def withdraw(assignment: Assignment) -> None:
    """The row that says: this judgement counts no more."""
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
