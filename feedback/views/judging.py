"""The annotator's pages: the comparison in front of them, and what they have done so far.

Everything rendered here is blind: no model version, purpose, gold answer or judgement of anybody else
may enter a context, nor a completion's id, which would tell which run wrote it.
"""

from __future__ import annotations

import time
import uuid
from typing import Any, cast

from django.conf import settings
from django.contrib import messages
from django.http import Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from feedback import queue, queue_waiting, submitting, taking_back
from feedback.forms import FORMS, JudgementForm, LeaseForm, SkipForm
from feedback.markdown import rendered
from feedback.models import (
    Assignment,
    Comparison,
    ComparisonKind,
    Guideline,
    Project,
    canonical_json,
)
from feedback.recording import Said
from feedback.views.judging_closed import in_open_project
from feedback.views.judging_keys import key_rows
from feedback.views.judging_page import (
    LONGEST_DRAFT,
    answer_before,
    answer_in,
    dock_of,
    draft_in,
    page_of,
    texts_of,
    urls_of,
    view_of,
)
from feedback.views.progress import today
from rlhf_app.http import Request, whole_number
from rlhf_app.prepared import Prepared, number

# --- the comparison ---------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
@in_open_project
def judge(request: Request, project: Project) -> HttpResponse:
    """GET claims and shows a comparison; POST records a judgement and answers with the next comparison."""
    if request.method == "GET":
        return next_comparison(request, project)
    assignment = own_assignment(request, project)
    form = FORMS[assignment.comparison.kind](request.POST, assignment=assignment)
    if not form.is_valid():
        return show(request, project, assignment, form=form, status=422)
    try:
        done, following = submit_and_claim(request, project, assignment, form)
    except submitting.KeyReused:
        said = gettext("Sent before with another judgement. The first one stands; Undo changes it.")
        return next_comparison(request, project, problem=said, status=422)
    preference, said = done.preference, ""
    withdrawn = preference.comparison.state == Comparison.State.WITHDRAWN
    if preference.idempotency_key != form.cleaned_data["key"]:
        said = gettext("You had judged that comparison already, in another tab. Your first judgement stands.")
    elif withdrawn:
        said = gettext("Saved. The comparison had been taken back meanwhile, so it no longer counts.")
    elif preference.late:
        said = gettext("Saved. Your time for it had run out; it counts as an extra judgement.")
    closed = preference.assignment if done.fresh and not withdrawn else None
    return after(request, project, said, following, closed)


def submit_and_claim(
    request: Request, project: Project, assignment: Assignment, form: JudgementForm
) -> tuple[submitting.Recorded, Assignment | None]:
    """One transaction, so that the person waits for the disk once."""
    answer = form.cleaned_data
    said = said_of(assignment, form)
    besides: dict[str, Any] = {
        name: said.pop(name) for name in ("acceptability", "flags", "comment") if name in said
    }
    sent = submitting.Sent(
        answer["fencing_token"], answer["key"], form.body_hash(), answer["active_ms"], in_force(project)
    )
    return submitting.submit_and_claim(assignment, request.user, Said(**said), besides, sent)


def in_force(project: Project) -> Guideline | None:
    """The guideline in force, read once in a request."""
    if not hasattr(project, "in_force"):
        project.in_force = submitting.guideline_of(project)  # type: ignore[attr-defined]
    return cast("Guideline | None", project.in_force)  # type: ignore[attr-defined]


def said_of(assignment: Assignment, form: JudgementForm) -> dict[str, Any]:
    """The answer; a correction that changes nothing is none."""
    said = form.said()
    place = said.get("corrects")
    if place is not None and texts_of(assignment)[place].replace("\r\n", "\n") == said["written"]:
        said |= {"written": "", "corrects": None}
    return said


@require_GET
@in_open_project
def judge_text(request: Request, project: Project) -> HttpResponse:
    """The very text of a completion on the annotator's screen, to start a correction from."""
    texts = texts_of(own_assignment(request, project))
    place = whole_number(request.GET.get("place", ""))
    if place is None or place >= len(texts):
        raise Http404
    return JsonResponse({"text": texts[place]})


@require_POST
@in_open_project
def judge_skip(request: Request, project: Project) -> HttpResponse:
    """Pass the shown comparison on to somebody else, with a reason."""
    form = SkipForm(request.POST)
    assignment = posted_assignment(request, project, form)
    if not form.is_valid():
        return show(
            request, project, assignment, problem=gettext("Choose a reason for skipping."), status=422
        )
    answer = form.cleaned_data
    submitting.skip(assignment, request.user, fencing_token=answer["fencing_token"], reason=answer["reason"])
    return after(request, project, gettext("Skipped. Somebody else will get it."))


@require_POST
@in_open_project
def judge_undo(request: Request, project: Project) -> HttpResponse:
    """Take back the latest judgement or skip, or the one named in the post, and show it again."""
    named = own_assignment(request, project) if request.POST.get("assignment") else None
    undone = taking_back.undo(project, request.user, assignment=named)
    if undone is None:
        return after(request, project, gettext("There is nothing to take back."))
    if undone.state != Assignment.State.LEASED:
        said = gettext("Taken back. It was an extra judgement: others have the comparison now.")
        return after(request, project, said)
    return after(request, project, gettext("Taken back. Judge it again, or skip it."))


@require_POST
@in_open_project
def judge_draft(request: Request, project: Project) -> HttpResponse:
    """Keep what was typed so far, so that it is there on another machine too; 409 once it is judged."""
    assignment = own_assignment(request, project)
    form = LeaseForm(request.POST)
    draft = draft_in(request.POST, FORMS[assignment.comparison.kind](request.POST, assignment=assignment))
    if not form.is_valid() or len(canonical_json(draft)) > LONGEST_DRAFT:
        return HttpResponse(status=422)
    draft["at"] = round(1000 * time.time())
    kept = submitting.keep_draft(
        assignment, request.user, fencing_token=form.cleaned_data["fencing_token"], draft=draft
    )
    return JsonResponse({"at": draft["at"]}) if kept else HttpResponse(status=409)


@require_POST
@in_open_project
def judge_ahead(request: Request, project: Project) -> HttpResponse:
    """The comparison after the one on the screen, to be kept ready; 204 where there is none to spare."""
    ahead = queue.claim_ahead(own_assignment(request, project), request.user)
    if ahead is None:
        return HttpResponse(status=204)
    return show(request, project, ahead)


@require_POST
@in_open_project
def judge_renew(request: Request, project: Project) -> HttpResponse:
    """The page's heartbeat: 204 while the lease is held, 409 once somebody else may have the comparison."""
    form = LeaseForm(request.POST)
    assignment = posted_assignment(request, project, form)
    if not form.is_valid():
        return HttpResponse(status=422)
    renewed = queue.renew(assignment, request.user, fencing_token=form.cleaned_data["fencing_token"])
    return HttpResponse(status=204 if renewed else 409)


def posted_assignment(request: Request, project: Project, form: LeaseForm) -> Assignment:
    """The poster's own assignment in the project; 404 for anybody else's and for none at all."""
    if "assignment" in form.errors:
        raise Http404
    return own_assignment(request, project)


def own_assignment(request: Request, project: Project) -> Assignment:
    said = request.POST if request.method == "POST" else request.GET
    pk = whole_number(said.get("assignment", ""))
    if pk is None:
        raise Http404
    assignment: Assignment | None = OWN.first(annotator=request.user.pk, project=project.pk, pk=pk)
    if assignment is None:
        raise Http404
    assignment.comparison.project = project
    return assignment


OWN = Prepared(
    lambda: Assignment.objects.select_related("comparison").filter(
        pk=number("pk"), annotator=number("annotator"), comparison__project=number("project")
    )
)


def after(
    request: Request,
    project: Project,
    notice: str = "",
    following: Assignment | None = None,
    closed: Assignment | None = None,
) -> HttpResponse:
    """What follows a verb: the next comparison for htmx, the page itself for a plain form."""
    if request.htmx:
        return next_comparison(request, project, following, closed=closed, notice=notice)
    if notice:
        messages.info(request, notice)
    return redirect("judge", project.slug)


def next_comparison(
    request: Request,
    project: Project,
    following: Assignment | None = None,
    *,
    closed: Assignment | None = None,
    notice: str = "",
    problem: str = "",
    status: int = 200,
) -> HttpResponse:
    """What is leased already, or else what the queue gives; `closed` is what was judged just now."""
    assignment = following or queue.claim(project, request.user)
    if assignment is None:
        context = {
            "waiting": queue_waiting.waiting(project, request.user),
            "notice": notice,
            "problem": problem,
        }
        return respond(request, project, context, status, closed)
    return show(request, project, assignment, closed=closed, notice=notice, problem=problem, status=status)


def show(
    request: Request,
    project: Project,
    assignment: Assignment,
    *,
    form: JudgementForm | None = None,
    closed: Assignment | None = None,
    notice: str = "",
    problem: str = "",
    status: int = 200,
) -> HttpResponse:
    """The assignment's comparison, filled in with what was posted or what was taken back."""
    filled = answer_in(form) if form else assignment.draft or answer_before(assignment)
    if form and not problem:
        problem = " ".join(str(error) for errors in form.errors.values() for error in errors)
    context = {
        **page_of(assignment, filled, view_of(request)),
        "dock": dock_of(assignment.comparison.kind, project.slug, len(assignment.shown_order), filled),
        "assignment": assignment,
        "key": uuid.uuid4(),
        "renew_seconds": max(10, settings.LEASE_SECONDS // 4),
        "notice": notice,
        "problem": problem,
    }
    return respond(request, project, context, status, closed)


def respond(
    request: Request,
    project: Project,
    context: dict[str, Any],
    status: int,
    closed: Assignment | None = None,
) -> HttpResponse:
    guideline = in_force(project)
    shared: dict[str, Any] = {
        "project": project,
        "place": "judge",
        "urls": urls_of(project.slug),
        "today": today(project, request.user),
        "undoable": closed or taking_back.last_closed(project, request.user),
        "guideline": guideline,
    }
    template = "feedback/_comparison.html"
    if not request.htmx:
        template = "feedback/judge.html"
        kinds = {project.kind, context.get("kind", project.kind)}
        shared |= {"actions": key_rows(), "other_kinds": kinds != {ComparisonKind.PAIRWISE}}
        shared["guideline_text"] = rendered(guideline.text) if guideline else ""
    response = render(request, template, shared | context, status=status)
    # Tells the script that this is an answer to a judgement, not a sign-in page it was redirected to.
    response["X-Judging"] = "1"
    return response
