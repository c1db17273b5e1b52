"""Why the queue has nothing for somebody, for the page that says so."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from django.db.models import Count, Min, Q
from django.utils import timezone

from feedback.models import Assignment, Comparison, Project, User
from feedback.queue import closed_by, live


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
