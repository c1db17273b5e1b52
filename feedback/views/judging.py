"""The annotator's pages: the comparison in front of them, and what they have done so far.

Everything rendered here is blind: no model version, purpose, gold answer or judgement of anybody else
may enter a context, nor a completion's id, which would tell which run wrote it.
"""

from __future__ import annotations

import statistics
import uuid
from datetime import timedelta
from typing import Any, NamedTuple, cast

from django.conf import settings
from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Q
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.translation import gettext, gettext_lazy
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from feedback import queue
from feedback.access import get_project
from feedback.forms import Flag, JudgementForm, LeaseForm, SkipForm, SkipReason, Strength
from feedback.markdown import rendered
from feedback.models import Assignment, Candidate, Comparison, Preference, PreferenceQuerySet, Project, User
from feedback.visible import Piece, pieces
from rlhf_app.http import Request, whole_number

WHO = {
    "system": gettext_lazy("System"),
    "user": gettext_lazy("User"),
    "assistant": gettext_lazy("Assistant"),
}
SHORT_STEPS = ("A++", "A+", "A", "=", "B", "B+", "B++")
FLOOR_KEYS = {"both": "G", "one": "O", "neither": "N"}
FLOOR_WORDS = {
    "both": (gettext_lazy("Both"), gettext_lazy("Both")),
    "one": (gettext_lazy("Only the better"), gettext_lazy("One")),
    "neither": (gettext_lazy("Neither"), gettext_lazy("Neither")),
}
"""In full, and where there is little room."""
RECENT = 50


# --- the comparison ---------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def judge(request: Request, slug: str) -> HttpResponse:
    """GET claims and shows a comparison; POST records a judgement and answers with the next comparison."""
    project = get_project(request.user, slug)
    if request.method == "GET":
        return next_comparison(request, project)
    form = JudgementForm(request.POST)
    assignment = posted_assignment(request, project, form)
    if not form.is_valid():
        return show(request, project, assignment, form=form, status=422)
    try:
        preference, following = submit_and_claim(request, project, assignment, form)
    except queue.KeyReused:
        said = gettext("Sent before with another judgement. The first one stands; Undo changes it.")
        return next_comparison(request, project, problem=said, status=422)
    said = ""
    if preference.idempotency_key != form.cleaned_data["key"]:
        said = gettext("You had judged that comparison already, in another tab. Your first judgement stands.")
    elif preference.comparison.state == Comparison.State.WITHDRAWN:
        said = gettext("Saved. The comparison had been taken back meanwhile, so it no longer counts.")
    elif preference.late:
        said = gettext("Saved. Your time for it had run out; it counts as an extra judgement.")
    return after(request, project, said, following)


def submit_and_claim(
    request: Request, project: Project, assignment: Assignment, form: JudgementForm
) -> tuple[Preference, Assignment | None]:
    """One transaction, so that the person waits for the disk once."""
    answer = form.cleaned_data
    with transaction.atomic():
        preference = queue.submit(
            assignment,
            request.user,
            fencing_token=answer["fencing_token"],
            strength=answer["strength"],
            acceptability=answer["acceptability"],
            key=answer["key"],
            body_hash=form.body_hash(),
            active_ms=answer["active_ms"],
            flags=answer["flags"],
            comment=answer["comment"],
        )
        return preference, queue.claim(project, request.user)


@require_POST
def judge_skip(request: Request, slug: str) -> HttpResponse:
    """Pass the shown comparison on to somebody else, with a reason."""
    project = get_project(request.user, slug)
    form = SkipForm(request.POST)
    assignment = posted_assignment(request, project, form)
    if not form.is_valid():
        return show(
            request, project, assignment, problem=gettext("Choose a reason for skipping."), status=422
        )
    answer = form.cleaned_data
    queue.skip(assignment, request.user, fencing_token=answer["fencing_token"], reason=answer["reason"])
    return after(request, project, gettext("Skipped. Somebody else will get it."))


@require_POST
def judge_undo(request: Request, slug: str) -> HttpResponse:
    """Take back the latest judgement or skip, or the one named in the post, and show it again."""
    project = get_project(request.user, slug)
    named = own_assignment(request, project) if request.POST.get("assignment") else None
    undone = queue.undo(project, request.user, assignment=named)
    if undone is None:
        return after(request, project, gettext("There is nothing to take back."))
    return after(request, project, gettext("Taken back. Judge it again, or skip it."))


@require_POST
def judge_renew(request: Request, slug: str) -> HttpResponse:
    """The page's heartbeat: 204 while the lease is held, 409 once somebody else may have the comparison."""
    project = get_project(request.user, slug)
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
    pk = whole_number(request.POST["assignment"])
    if pk is None:
        raise Http404
    rows = Assignment.objects.filter(annotator=request.user, comparison__project=project)
    return get_object_or_404(rows, pk=pk)


def after(
    request: Request, project: Project, notice: str = "", following: Assignment | None = None
) -> HttpResponse:
    """What follows a verb: the next comparison for htmx, the page itself for a plain form."""
    if request.htmx:
        return next_comparison(request, project, following, notice=notice)
    if notice:
        messages.info(request, notice)
    return redirect("judge", project.slug)


def next_comparison(
    request: Request,
    project: Project,
    following: Assignment | None = None,
    *,
    notice: str = "",
    problem: str = "",
    status: int = 200,
) -> HttpResponse:
    assignment = following or queue.claim(project, request.user)
    if assignment is None:
        context = {"waiting": queue.waiting(project, request.user), "notice": notice, "problem": problem}
        return respond(request, project, context, status)
    return show(request, project, assignment, notice=notice, problem=problem, status=status)


def show(
    request: Request,
    project: Project,
    assignment: Assignment,
    *,
    form: JudgementForm | None = None,
    notice: str = "",
    problem: str = "",
    status: int = 200,
) -> HttpResponse:
    """The assignment's comparison, filled in with what was posted or what was taken back."""
    filled = answer_in(form) if form else answer_before(assignment)
    if form and not problem:
        problem = " ".join(str(error) for errors in form.errors.values() for error in errors)
    context = {
        "assignment": assignment,
        "key": uuid.uuid4(),
        "renew_seconds": max(10, settings.LEASE_SECONDS // 4),
        "turns": turns_of(assignment),
        "sides": sides_of(assignment),
        "steps": steps(filled["strength"]),
        "floors": floors(filled["acceptability"]),
        "flags": [(value, label, value in filled["flags"]) for value, label in Flag.choices],
        "skip_reasons": [(n, value, label) for n, (value, label) in enumerate(SkipReason.choices, 1)],
        "comment": filled["comment"],
        "notice": notice,
        "problem": problem,
    }
    return respond(request, project, context, status)


def respond(request: Request, project: Project, context: dict[str, Any], status: int) -> HttpResponse:
    guideline = project.guideline()
    shared: dict[str, Any] = {
        "project": project,
        "place": "judge",
        "today": today(project, request.user),
        "last_closed": queue.last_closed(project, request.user),
        "guideline": guideline,
    }
    template = "feedback/_comparison.html"
    if not request.htmx:
        template = "feedback/judge.html"
        shared["guideline_text"] = rendered(guideline.text) if guideline else ""
    response = render(request, template, shared | context, status=status)
    # Tells the script that this is an answer to a judgement, not a sign-in page it was redirected to.
    response["X-Judging"] = "1"
    return response


# --- what the page shows ----------------------------------------------------------------------------


class Side(NamedTuple):
    """One completion as shown."""

    letter: str
    text: list[Piece]
    words: int


def turns_of(assignment: Assignment) -> list[tuple[str, str, list[Piece]]]:
    """(role, who is speaking, text) of each turn of the prompt."""
    turns = assignment.comparison.prompt.messages
    return [(turn["role"], str(WHO[turn["role"]]), pieces(turn["content"])) for turn in turns]


def sides_of(assignment: Assignment) -> list[Side]:
    """The completions from left to right, by the order drawn for this annotator."""
    rows = Candidate.objects.filter(comparison=assignment.comparison_id)
    texts = dict(rows.values_list("position", "completion__text"))
    shown = [texts[position] for position in assignment.shown_order]
    return [Side("AB"[place], pieces(text), len(text.split())) for place, text in enumerate(shown)]


def steps(chosen: int | None) -> list[dict[str, Any]]:
    """The seven radio buttons."""
    return [
        {"value": value, "key": value + 4, "label": label, "short": short, "checked": value == chosen}
        for (value, label), short in zip(Strength.choices, SHORT_STEPS, strict=True)
    ]


def floors(chosen: str) -> list[dict[str, Any]]:
    """The three radio buttons of "good enough?"."""
    return [
        {"value": value, "key": FLOOR_KEYS[value], "label": label, "brief": brief, "checked": value == chosen}
        for value, (label, brief) in FLOOR_WORDS.items()
    ]


def answer_in(form: JudgementForm) -> dict[str, Any]:
    """What a refused form said, so that nothing typed is lost."""
    strength = form.data.get("strength", "")
    return {
        "strength": int(strength) if strength in map(str, Strength.values) else None,
        "acceptability": form.data.get("acceptability", ""),
        "flags": form.cleaned_data.get("flags", []),
        "comment": form.data.get("comment", ""),
    }


def answer_before(assignment: Assignment) -> dict[str, Any]:
    """What this annotator said before taking it back; empty at the first showing."""
    recorded = None
    if assignment.fencing_token > 1:
        recorded = assignment.preferences.filter(withdrawn=False).order_by("-pk").first()
    if recorded is None or recorded.strength is None:
        return {"strength": None, "acceptability": "", "flags": [], "comment": ""}
    return {
        "strength": as_shown(recorded),
        "acceptability": recorded.acceptability,
        "flags": recorded.flags,
        "comment": recorded.comment,
    }


def as_shown(preference: Preference) -> int:
    """The strength from left to right, as the annotator saw it."""
    strength = cast(int, preference.strength)
    return strength if preference.shown_order == [0, 1] else -strength


# --- own progress -----------------------------------------------------------------------------------


class Today(NamedTuple):
    """An annotator's own day: judgements in force and the median active time of one."""

    judged: int
    seconds: int | None


def own_judgements(project: Project, annotator: User) -> PreferenceQuerySet:
    rows = Preference.objects.current().filter(annotator=annotator, comparison__project=project)
    return rows.filter(imported=False)


def median_seconds(times: list[int | None]) -> int | None:
    measured = [milliseconds for milliseconds in times if milliseconds is not None]
    return max(1, round(statistics.median(measured) / 1000)) if measured else None


def today(project: Project, annotator: User) -> Today:
    midnight = timezone.localtime().replace(hour=0, minute=0, second=0, microsecond=0)
    rows = own_judgements(project, annotator).filter(created_at__gte=midnight)
    times = list(rows.values_list("active_ms", flat=True))
    return Today(len(times), median_seconds(times))


@require_GET
def progress(request: Request, slug: str) -> HttpResponse:
    """An annotator's own count, pace and latest judgements, each with a way to change it."""
    project = get_project(request.user, slug)
    own = own_judgements(project, request.user)
    week = timezone.now() - timedelta(days=7)
    counts = own.aggregate(total=Count("pk"), week=Count("pk", filter=Q(created_at__gte=week)))
    recent = list(
        own.select_related("assignment", "comparison__prompt").order_by("-created_at", "-pk")[:RECENT]
    )
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
        "said": Strength(as_shown(preference)).label,
        "changeable": preference.created_at > timezone.now() - queue.UNDO_WITHIN,
    }
