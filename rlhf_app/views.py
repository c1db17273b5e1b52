"""The only pages that know both apps: home, health, the admin's first page, and failures of the server."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.db import DatabaseError, InterfaceError, connection
from django.db.models import Count, F, QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.template.loader import render_to_string
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from feedback.access import ROLE_ORDER, projects_of
from feedback.models import Comparison, Membership, Preference, Project, Prompt, Role, User
from rlhf_app.http import Request
from training.models import PromotedVersion, Run


@dataclass
class Figures:
    """What home says about a project."""

    project: Project
    role: Role
    prompts: int
    open: int
    """Comparisons that still take judgements."""
    judged: int
    """Judgements of people in force; those brought in by files count too."""
    simulated: int
    """Judgements of simulated annotators in force."""
    going: int
    """Runs that are queued or running."""
    promoted: PromotedVersion | None

    @property
    def role_label(self) -> str:
        return str(self.role.label)

    @property
    def sees_the_loop(self) -> bool:
        return ROLE_ORDER.index(self.role) >= ROLE_ORDER.index(Role.REVIEWER)


@require_GET
def home(request: Request) -> HttpResponse:
    """The projects the signed-in person may open, each with the numbers that say what to do there."""
    return render(request, "home.html", {"projects": figures_of(request.user, projects_of(request.user))})


def figures_of(user: User, projects: QuerySet[Project]) -> list[Figures]:
    """Eight queries however many projects there are."""
    found = list(projects)
    roles = dict(Membership.objects.filter(user=user, project__in=found).values_list("project", "role"))
    prompts = count(Prompt.objects.filter(project__in=found).annotate(place=F("project")))
    waiting = count(Comparison.objects.open().filter(project__in=found).annotate(place=F("project")))
    said = Preference.objects.current().filter(comparison__project__in=found)
    said = said.annotate(place=F("comparison__project"))
    judged, simulated = (count(said.filter(simulated=machines)) for machines in (False, True))
    going = count(
        Run.objects.filter(project__in=found).exclude(state__in=Run.ENDED).annotate(place=F("project"))
    )
    standing = PromotedVersion.objects.filter(project__in=found).select_related("version")
    promoted = {row.project_id: row for row in standing}
    return [
        Figures(
            project=project,
            role=Role.ADMIN if user.is_superuser else Role(roles[project.pk]),
            prompts=prompts.get(project.pk, 0),
            open=waiting.get(project.pk, 0),
            judged=judged.get(project.pk, 0),
            simulated=simulated.get(project.pk, 0),
            going=going.get(project.pk, 0),
            promoted=promoted.get(project.pk),
        )
        for project in found
    ]


def count(rows: QuerySet) -> dict[int, int]:  # type: ignore[type-arg]  # rows of any model
    """Project id -> number of rows, which carry the id as `place`."""
    return dict(rows.order_by().values("place").annotate(number=Count("pk")).values_list("place", "number"))


@admin.site.admin_view
def admin_index(request: HttpRequest) -> HttpResponse:
    """Django's first admin page, and above it the way to each project's runs."""
    assert isinstance(request.user, User)  # admin_view lets only staff through
    context = {"projects": projects_of(request.user), "app_index_title": _("Everything in tables")}
    return admin.site.index(request, context)


@require_GET
@login_not_required
def health(request: HttpRequest) -> JsonResponse:
    """Is the web process up and its database reachable? No detail: anyone may ask."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return JsonResponse({"status": "ok"})


def server_error(request: HttpRequest) -> HttpResponse:
    """500, or 503 when the database did not answer. The page asks the database nothing."""
    failure = sys.exc_info()[1]
    unreachable = isinstance(failure, (DatabaseError, InterfaceError))
    status = 503 if unreachable else 500
    response = HttpResponse(render_to_string(f"{status}.html"), status=status)
    if unreachable:
        response["Retry-After"] = "30"
    return response
