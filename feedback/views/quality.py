"""How well people judge: the figures, the comparisons they disagree on, and a reviewer's decision of them."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.core.paginator import Page, Paginator
from django.db.models import Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from feedback import adjudication as decisions
from feedback.access import get_project
from feedback.agreement import Share
from feedback.forms import LETTERS, words_of
from feedback.forms_quality import adjudication_form, decision_in
from feedback.models import Candidate, Comparison, Preference, PreferenceQuerySet, Project, Role, User
from feedback.quality import OfKind, Pace, Quality, Sway, quality_of
from feedback.quality_disagreements import Disagreement, disagreements
from feedback.quality_rows import LATEST, full, left_out, rows_of
from feedback.views.judging_keys import key_rows
from feedback.views.judging_page import answer_in, answer_of, given_of, page_of, view_of
from feedback.views.quality_charts import Bar, number, seconds_bar, shade, share_bar, share_words
from feedback.visible import Piece, pieces
from rlhf_app.http import Request

PAGE_ROWS = 10
TEXT_SHOWN = 400
PROMPT_SHOWN = 240

# --- the figures ------------------------------------------------------------------------------------


@require_GET
def quality(request: Request, slug: str) -> HttpResponse:
    """People's figures; `?by=simulated` those of simulated annotators, never both together."""
    project = get_project(request.user, slug, Role.REVIEWER)
    simulated = request.GET.get("by") == "simulated"
    found = rows_of(project, simulated=simulated)
    measured = quality_of(project, found, simulated=simulated)
    names = dict(User.objects.filter(pk__in=measured.paces).values_list("pk", "username"))
    undecided = [] if simulated else still_open(project, request.user, disagreements(found))
    context = {
        "project": project,
        "place": "quality",
        "simulated": simulated,
        "others": Preference.objects.current().filter(other_kind_of_annotator(project, simulated)).exists(),
        "judged": measured.pace.judged,
        "latest": LATEST if measured.cut else 0,
        "kinds": [kind_rows(of_kind, names) for of_kind in measured.kinds],
        "sways": sways(measured, names),
        "paces": pace_rows(measured, names),
        "undecided": len(undecided),
        "decided": decided_of(project).count(),
    }
    return render(request, "feedback/quality.html", context)


def other_kind_of_annotator(project: Project, simulated: bool) -> Q:
    training = Q(comparison__project=project, comparison__purpose=Comparison.Purpose.TRAINING)
    return training & Q(simulated=not simulated, imported=False)


def kind_rows(of_kind: OfKind, names: dict[int, str]) -> dict[str, Any]:
    """One kind's figures and its table of who agrees with whom."""
    figures = [
        {
            "name": row.name,
            "meaning": row.meaning,
            "value": number(row.estimate.value),
            "low": number(row.estimate.low),
            "high": number(row.estimate.high),
            "reason": _(row.estimate.reason) if row.estimate.reason else "",
            "bar": Bar.of(row.estimate, lowest=-1 if row.chance else 0, mark=0 if row.chance else None),
        }
        for row in of_kind.agreements
    ]
    return {
        "kind": of_kind.kind,
        "label": of_kind.kind.label,
        "judged": of_kind.judged,
        "comparisons": of_kind.comparisons,
        "prompts": of_kind.prompts,
        "figures": figures,
        "table": kappa_table(of_kind, names),
    }


def kappa_table(of_kind: OfKind, names: dict[int, str]) -> dict[str, Any] | None:
    """Below the diagonal: each two people once."""
    people = of_kind.people
    if len(people) < 2:
        return None
    rows = []
    for place, person in enumerate(people[1:], 1):
        cells = []
        for other in people[:place]:
            cell = of_kind.cells[(other, person)]
            cells.append(
                {
                    "value": number(cell.estimate.value),
                    "low": number(cell.estimate.low),
                    "high": number(cell.estimate.high),
                    "reason": _(cell.estimate.reason) if cell.estimate.value is None else "",
                    "comparisons": cell.comparisons,
                    "shade": shade(cell.estimate.value),
                }
            )
        rows.append({"name": names[person], "cells": cells, "rest": len(people) - 1 - place})
    return {"columns": [names[person] for person in people[:-1]], "rows": rows}


def sways(measured: Quality, names: dict[int, str]) -> list[dict[str, Any]]:
    return [
        {
            "id": "position",
            "title": _("The one shown first"),
            "column": _("Shown first preferred"),
            "meaning": _(
                "A fair coin decides which side a completion is shown on, so half is fair. Ties aside."
            ),
            "rows": sway_rows(measured.position, names),
        },
        {
            "id": "length",
            "title": _("The longer one"),
            "column": _("Longer preferred"),
            "meaning": _(
                "Longer may well be better. A share far from half, or from the others, is worth a look. "
                "Ties and equal lengths aside."
            ),
            "rows": sway_rows(measured.length, names),
        },
    ]


def sway_rows(sway: Sway, names: dict[int, str]) -> list[dict[str, Any]]:
    """All together first, then each annotator by name."""
    own = sorted(sway.by_annotator.items(), key=lambda item: names.get(item[0], ""))
    rows = [sway_row(_("All"), sway.overall)] if sway.overall.total else []
    return rows + [sway_row(names[person], share) for person, share in own if share.total]


def sway_row(name: str, share: Share) -> dict[str, Any]:
    apart = share.low is not None and share.high is not None and not share.low <= 0.5 <= share.high
    return {
        "name": name,
        "share": share_words(share),
        "total": share.total,
        "bar": share_bar(share),
        "apart": apart,
    }


def pace_rows(measured: Quality, names: dict[int, str]) -> list[dict[str, Any]]:
    own = sorted(measured.paces.items(), key=lambda item: names[item[0]])
    listed: list[tuple[str, Pace]] = [(_("All"), measured.pace), *((names[pk], pace) for pk, pace in own)]
    longest = max((pace.seconds.high for _name, pace in listed if pace.seconds), default=1.0)
    return [
        {
            "name": name,
            "pace": pace,
            "bar": seconds_bar(pace.seconds, longest) if pace.seconds else None,
        }
        for name, pace in listed
        if pace.judged
    ]


# --- the disagreements ------------------------------------------------------------------------------


def decided_of(project: Project) -> PreferenceQuerySet:
    return Preference.objects.in_force().filter(comparison__project=project, adjudication=True)


def still_open(project: Project, reviewer: User, found: list[Disagreement]) -> list[Disagreement]:
    """Those to decide by this reviewer."""
    aside = {*decided_of(project).values_list("comparison", flat=True)}
    aside.update(decisions.not_to_be_seen(project, reviewer))
    return [row for row in found if row.comparison not in aside]


@require_GET
def disagreement_list(request: Request, slug: str) -> HttpResponse:
    """What people disagree on, the widest apart first; `?show=decided` what reviewers have decided."""
    project = get_project(request.user, slug, Role.REVIEWER)
    looked_at = rows_of(project, simulated=False)
    found = disagreements(looked_at)
    decided = list(decided_of(project).order_by("-pk").values_list("comparison", flat=True))
    spreads = {row.comparison: row.spread for row in found}
    undecided = [row.comparison for row in still_open(project, request.user, found)]
    show_decided = request.GET.get("show") == "decided"
    page = Paginator(decided if show_decided else undecided, PAGE_ROWS).get_page(request.GET.get("page"))
    context = {
        "project": project,
        "place": "quality",
        "show_decided": show_decided,
        "undecided": len(undecided),
        "decided": len(decided),
        "latest": LATEST if left_out(project, full(looked_at), simulated=False) else 0,
        "page": page,
        "rows": listed(page, spreads),
    }
    return render(request, "feedback/quality_disagreements.html", context)


def listed(page: Page[int], spreads: dict[int, float]) -> list[dict[str, Any]]:
    """The page's comparisons with their texts and what was said, in three queries for all."""
    comparisons = Comparison.objects.select_related("prompt").in_bulk(list(page))
    texts: dict[int, list[tuple[str, list[Piece]]]] = {pk: [] for pk in comparisons}
    rows = Candidate.objects.filter(comparison__in=comparisons).order_by("comparison", "position")
    for pk, text in rows.values_list("comparison", "completion__text"):
        texts[pk].append((LETTERS[len(texts[pk])], cut(text, TEXT_SHOWN)))
    said: dict[int, list[Preference]] = {pk: [] for pk in comparisons}
    for preference in said_of(list(comparisons)):
        said[preference.comparison_id].append(preference)
    return [
        {
            "comparison": comparisons[pk],
            "prompt": cut(comparisons[pk].prompt.last_message, PROMPT_SHOWN),
            "texts": texts[pk],
            "said": [said_row(row, len(texts[pk])) for row in said[pk] if not row.adjudication],
            "decision": next((said_row(row, len(texts[pk])) for row in said[pk] if row.adjudication), None),
            "spread": round(100 * spreads.get(pk, 0)),
        }
        for pk in page
    ]


def cut(text: str, length: int) -> list[Piece]:
    return pieces(text if len(text) <= length else text[: length - 1] + "…")


def said_of(comparisons: list[int]) -> PreferenceQuerySet:
    """What people say of them, and what reviewers decided; simulated and imported judgements aside."""
    rows = Preference.objects.in_force().filter(comparison__in=comparisons, simulated=False, imported=False)
    return rows.select_related("annotator").order_by("pk")


def said_row(preference: Preference, candidates: int) -> dict[str, Any]:
    """In the letters of the canonical order, which this page shows, not in those that its annotator saw."""
    preference.shown_order = list(range(candidates))
    words = rating_words(preference.ratings) if preference.ratings else words_of(preference)
    return {"preference": preference, "words": words}


def rating_words(ratings: list[dict[str, int]]) -> str:
    """Every criterion, where others read the means: it is there that people differ."""
    return "; ".join(
        f"{LETTERS[place]}: " + ", ".join(f"{name} {given}" for name, given in own.items())
        for place, own in enumerate(ratings)
    )


# --- the decision -----------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def adjudication(request: Request, slug: str, pk: int) -> HttpResponse:
    """One comparison with all that was said of it, and a reviewer's decision."""
    project = get_project(request.user, slug, Role.REVIEWER)
    comparison = get_comparison(project, request.user, pk)
    if request.method == "GET":
        standing = decisions.in_force(comparison)
        filled = answer_of(standing, project.criteria) if standing else {}
        return adjudication_page(request, project, comparison, filled)
    form = adjudication_form(request.POST, comparison)
    if not form.is_valid():
        return adjudication_page(
            request, project, comparison, answer_in(form), errors=form.errors, status=422
        )
    try:
        decisions.adjudicate(comparison, request.user, decision_in(form), since=form.cleaned_data["since"])
    except decisions.Overtaken:
        problem = _("Somebody else decided this in the meantime: look at it, then decide again.")
        return adjudication_page(request, project, comparison, answer_in(form), problem=problem, status=409)
    messages.success(request, _("Decided. It trains instead of what the annotators said."))
    return redirect("adjudication_next", slug, pk)


@require_GET
def adjudication_next(request: Request, slug: str, pk: int) -> HttpResponse:
    """On to the disagreement after this one that is still open, from the last to the first; else the list."""
    project = get_project(request.user, slug, Role.REVIEWER)
    current = get_comparison(project, request.user, pk)
    found = disagreements(rows_of(project, simulated=False))
    here = next((place for place, row in enumerate(found, 1) if row.comparison == current.pk), 0)
    undecided = still_open(project, request.user, [*found[here:], *found[:here]])
    following = [row.comparison for row in undecided if row.comparison != current.pk]
    return redirect("adjudication", slug, following[0]) if following else redirect("disagreements", slug)


@require_POST
def adjudication_withdraw(request: Request, slug: str, pk: int) -> HttpResponse:
    project = get_project(request.user, slug, Role.REVIEWER)
    comparison = get_comparison(project, request.user, pk)
    standing = decisions.in_force(comparison)
    try:
        if standing and decisions.withdraw(comparison, request.user, since=standing.pk):
            messages.success(request, _("Taken back. What the annotators said counts again."))
    except decisions.Overtaken:
        messages.error(request, _("Somebody else decided this in the meantime."))
    return redirect("adjudication", slug, pk)


def get_comparison(project: Project, reviewer: User, pk: int) -> Comparison:
    rows = decisions.adjudicable(project).exclude(pk__in=decisions.not_to_be_seen(project, reviewer))
    return get_object_or_404(rows.select_related("project", "prompt"), pk=pk)


def adjudication_page(
    request: Request,
    project: Project,
    comparison: Comparison,
    filled: dict[str, Any],
    *,
    errors: Any = None,
    problem: str = "",
    status: int = 200,
) -> HttpResponse:
    history = list(decisions.adjudications(comparison).select_related("annotator"))
    shown = decisions.shown_to_reviewers(comparison)
    count = len(shown.shown_order)
    standing = history[0] if history and not history[0].withdrawn else None
    context = {
        **page_of(shown, filled, view_of(request)),
        **given_of(comparison.kind, count, filled),
        "actions": key_rows(deciding=True),
        "project": project,
        "place": "quality",
        "comparison": comparison,
        "said": [said_row(row, count) for row in said_of([comparison.pk]) if not row.adjudication],
        "standing": standing and said_row(standing, count),
        "history": [said_row(row, count) for row in history],
        "since": history[0].pk if history else "",
        "errors": errors,
        "problem": problem,
        "back": reverse("disagreements", args=[project.slug]),
    }
    return render(request, "feedback/quality_adjudication.html", context, status=status)
