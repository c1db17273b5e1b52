"""What the judging pages answer once their project is closed: 409 and why, for those who worked in it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps

from django.http import Http404, HttpResponse
from django.shortcuts import render
from django.urls import reverse

from feedback.access import archived_project, get_project
from feedback.models import Project
from rlhf_app.http import Request

TYPED = ("written", "comment")


def in_open_project(
    view: Callable[[Request, Project], HttpResponse],
) -> Callable[[Request, str], HttpResponse]:
    """Give the view its project. Strangers find nothing; those who worked in an archived one are told."""

    @wraps(view)
    def found(request: Request, slug: str) -> HttpResponse:
        try:
            project = get_project(request.user, slug)
        except Http404:
            closed = archived_project(request.user, slug)
            if closed is None:
                raise
            return project_closed(request, closed)
        return view(request, project)

    return found


def project_closed(request: Request, closed: Project) -> HttpResponse:
    """Without a script nobody but this page keeps what was typed, so it gives it back."""
    typed = [text for name in TYPED if (text := request.POST.get(name))]
    judged = request.method == "POST" and request.path == reverse("judge", args=[closed.slug])
    context = {"closed": closed, "unsaved": judged, "typed": typed}
    response = render(request, "feedback/judge_closed.html", context, status=409)
    # Tells the script why: nobody else took the comparison.
    response["X-Judging"] = "closed"
    return response
