"""Blind reviews: plan one, watch it being judged without interim results, read the verdict, close it."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Paginator
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseClientRefresh

from feedback.access import at_least, get_in_project, get_project
from feedback.models import Preference, Project, Role
from rlhf_app.http import Request, whole_number
from training import registry
from training import review as reviews
from training.core.configs import ConfigError
from training.forms_versions import ReviewForm
from training.launch import POLICY_KINDS
from training.models import ModelVersion, Review, ReviewItem, Run
from training.snapshots import NothingToFreeze
from training.statistics import required_prompts

PAGE = 10
TRUE_RATES = (0.55, 0.60, 0.65, 0.70)
USUAL_TIES = 0.2


# --- plan -------------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def review_create(request: Request, slug: str) -> HttpResponse:
    """The plan of a review: which two versions, how many prompts, how many judgements of each."""
    project = get_project(request.user, slug, Role.ENGINEER)
    if request.method == "GET":
        form = ReviewForm(project=project, initial=usual_pair(request, project))
        return render(request, "training/review_create.html", create_context(project, form))
    form = ReviewForm(request.POST, project=project)
    if form.is_valid() and (review := plan(form, request, project)):
        messages.success(request, _("The plan stands. Both versions write their completions first."))
        return redirect("review_detail", slug, review.pk)
    return render(request, "training/review_create.html", create_context(project, form), status=422)


def usual_pair(request: Request, project: Project) -> dict[str, Any]:
    """Versions named in the address, else the newest beside the promoted one."""
    promoted = registry.promoted(project)
    versions = ModelVersion.objects.filter(
        project=project, kind__in=POLICY_KINDS, state=ModelVersion.State.READY
    )
    later = versions.filter(number__gt=promoted.number) if promoted else versions
    newest = later.order_by("-number").first()
    initial = {"candidate": newest.pk if newest else None, "baseline": promoted.pk if promoted else None}
    for name in initial:
        if (pk := whole_number(request.GET.get(name, ""))) is not None:
            initial[name] = pk
    return initial


def plan(form: ReviewForm, request: Request, project: Project) -> Review | None:
    """Fix the plan; None when that was refused, with the reason in the form."""
    values = dict(form.cleaned_data)
    try:
        return reviews.plan(
            project, values.pop("candidate"), values.pop("baseline"), actor=request.user, **values
        )
    except NothingToFreeze as refusal:
        form.add_error("prompts", str(refusal))
    except ConfigError as refused:
        for name, problem in refused.problems.items():
            form.add_error(name if name in form.fields else None, problem)
    return None


def create_context(project: Project, form: ReviewForm) -> dict[str, Any]:
    return {
        "project": project,
        "place": "versions",
        "form": form,
        "sizes": [(rate, required_prompts(rate, ties=USUAL_TIES)) for rate in TRUE_RATES],
        "usual_ties": USUAL_TIES,
        "prompt_count": form.prompt_count,
        "set_aside": form.set_aside,
    }


# --- one review -------------------------------------------------------------------------------------


@require_GET
def review_detail(request: Request, slug: str, pk: int) -> HttpResponse:
    """How far it is; once all planned judgements are in, the verdict; once closed, every comparison."""
    project = get_project(request.user, slug, Role.REVIEWER)
    review = get_review(project, pk)
    context = status_context(project, review)
    if review.state == Review.State.CLOSED:
        page = Paginator(items_of(review), PAGE).get_page(request.GET.get("page"))
        context |= {"page": page, "items": judged_items(review, list(page))}
    context["runs"] = Run.objects.filter(project=project, kind="sample", purpose__review=review.pk).order_by(
        "pk"
    )
    return render(request, "training/review_detail.html", context)


def get_review(project: Project, pk: int) -> Review:
    return get_in_project(project, Review.objects.select_related("candidate", "baseline", "created_by"), pk)


@require_GET
def review_status(request: Request, slug: str, pk: int) -> HttpResponse:
    """The polled part; when the state has changed, or all is judged, the whole page is shown anew."""
    project = get_project(request.user, slug, Role.REVIEWER)
    review = get_review(project, pk)
    context = status_context(project, review)
    known = (request.GET.get("state"), request.GET.get("complete"))
    if known != (review.state, str(int(context["verdict"].get("complete", False)))):
        return HttpResponseClientRefresh()
    return render(request, "training/_review_status.html", context)


def status_context(project: Project, review: Review) -> dict[str, Any]:
    verdict = reviews.verdict(review)
    may = at_least(project.role, Role.ENGINEER)  # type: ignore[attr-defined]  # set by get_project
    admin = at_least(project.role, Role.ADMIN)  # type: ignore[attr-defined]  # set by get_project
    return {
        "project": project,
        "place": "versions",
        "review": review,
        "verdict": verdict,
        "progress": reviews.progress(review),
        "bar": bar(verdict) if verdict.get("judged") and "wins" in verdict else [],
        "may_close": may and review.state == Review.State.JUDGING,
        "may_plan_again": may and review.state == Review.State.FAILED,
        "may_promote": admin and registry.promoted(project) != review.candidate,
        "going": review.state in (Review.State.SAMPLING, Review.State.JUDGING),
    }


BAR_WIDTH = 960


def bar(verdict: dict[str, Any]) -> list[dict[str, Any]]:
    """The parts of the verdict bar, left to right: {"name", "count", "x", "width"} in view box units."""
    counts = [("win", verdict["wins"]), ("tie", verdict["ties"]), ("loss", verdict["losses"])]
    total = sum(count for _name, count in counts)
    x = 0.0
    parts = []
    for name, count in counts:
        width = BAR_WIDTH * count / total if total else 0.0
        parts.append({"name": name, "count": count, "x": round(x, 1), "width": round(width, 1)})
        x += width
    return parts


def items_of(review: Review) -> Any:
    items = ReviewItem.objects.filter(review=review).order_by("pk")
    return items.select_related("comparison__prompt", "candidate_completion", "baseline_completion")


def judged_items(review: Review, items: list[ReviewItem]) -> list[dict[str, Any]]:
    """Each item with what its judges said, from the candidate's side; `after` what closing came before."""
    by_comparison = {item.comparison_id: item for item in items}
    said: dict[int, list[dict[str, Any]]] = {pk: [] for pk in by_comparison}
    judgements = Preference.objects.filter(comparison__in=by_comparison).current().select_related("annotator")
    for preference in judgements.prefetch_related("comparison__candidates").order_by("pk"):
        said[preference.comparison_id].append(
            {
                "annotator": preference.annotator,
                "simulated": preference.simulated,
                "score": reviews.score_of(preference, by_comparison[preference.comparison_id]),
                "strength": abs(preference.strength or 0),
                "neither": preference.acceptability == Preference.Acceptability.NEITHER,
                "after": review.closed_at is not None and preference.created_at > review.closed_at,
            }
        )
    return [{"item": item, "judgements": said[item.comparison_id]} for item in items]


@require_POST
def review_close(request: Request, slug: str, pk: int) -> HttpResponse:
    """Write the verdict down; closing before all is judged stays part of the verdict."""
    project = get_project(request.user, slug, Role.ENGINEER)
    review = get_review(project, pk)
    if review.state != Review.State.JUDGING:
        messages.info(request, _("This review is not open for judging."))
    else:
        reviews.close(review, actor=request.user)
        messages.success(request, _("The review is closed and its verdict is written down."))
    return redirect("review_detail", slug, pk)
