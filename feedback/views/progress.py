"""An annotator's own count, pace and latest judgements. Only they see it."""

from __future__ import annotations

import statistics
from datetime import timedelta
from typing import Any, NamedTuple

from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from feedback import taking_back
from feedback.access import get_project
from feedback.forms import Flag, words_of
from feedback.models import Assignment, Preference, PreferenceQuerySet, Project, User
from feedback.visible import pieces
from rlhf_app.http import Request
from rlhf_app.prepared import Given, Prepared, moment, number

RECENT = 50
FLAGS = dict(Flag.choices)


class Today(NamedTuple):
    """An annotator's own day: judgements in force and the median active time of one."""

    judged: int
    seconds: int | None


def own_judgements(project: Project | Given, annotator: User | Given) -> PreferenceQuerySet:
    rows = Preference.objects.current().filter(annotator=annotator, comparison__project=project)
    return rows.filter(imported=False)


TIMES = Prepared(
    lambda: (
        own_judgements(number("project"), number("annotator"))
        .filter(created_at__gte=moment("midnight"))
        .values_list("active_ms")
    )
)


def median_seconds(times: list[int | None]) -> int | None:
    measured = [milliseconds for milliseconds in times if milliseconds is not None]
    return max(1, round(statistics.median(measured) / 1000)) if measured else None


def today(project: Project, annotator: User) -> Today:
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    rows = TIMES.all(project=project.pk, annotator=annotator.pk, midnight=midnight)
    times = [milliseconds for (milliseconds,) in rows]
    return Today(len(times), median_seconds(times))


@require_GET
def progress(request: Request, slug: str) -> HttpResponse:
    """An annotator's own count, pace and latest judgements, each with a way to change it."""
    project = get_project(request.user, slug)
    own = own_judgements(project, request.user)
    week = timezone.now() - timedelta(days=7)
    counts = own.aggregate(total=Count("pk"), week=Count("pk", filter=Q(created_at__gte=week)))
    rows = own.select_related("assignment", "comparison__prompt", "written").order_by("-created_at", "-pk")
    recent = list(rows[:RECENT])
    skipped = Assignment.objects.filter(
        annotator=request.user, comparison__project=project, state=Assignment.State.SKIPPED
    )
    context = {
        "project": project,
        "place": "progress",
        "today": today(project, request.user),
        "total": counts["total"],
        "week": counts["week"],
        "skipped": skipped.count(),
        "seconds": median_seconds([preference.active_ms for preference in recent]),
        "recent": [recent_row(preference) for preference in recent],
    }
    return render(request, "feedback/progress.html", context)


def recent_row(preference: Preference) -> dict[str, Any]:
    words = preference.comparison.prompt.last_message
    return {
        "preference": preference,
        "prompt": pieces(words if len(words) <= 120 else words[:119] + "…"),
        "said": words_of(preference),
        "corrected": preference.corrects_id is not None,
        "flags": [FLAGS.get(flag, flag) for flag in preference.flags],
        "changeable": preference.created_at > timezone.now() - taking_back.UNDO_WITHIN,
    }
