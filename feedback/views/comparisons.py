"""What is put up for judgement: how much of each kind, putting up more, the gold among it. For engineers."""

from __future__ import annotations

from collections import Counter
from typing import Any

from django import forms
from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Q
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext
from django.views.decorators.http import require_GET, require_POST

from feedback.access import get_in_project, get_project
from feedback.forms import LETTERS, words_of
from feedback.gold import grades, make_gold, share_in_words, withdraw_gold
from feedback.models import (
    AuditEntry,
    Comparison,
    ComparisonKind,
    Preference,
    PreferenceQuerySet,
    Project,
    Role,
)
from feedback.ordering import order_of
from feedback.putting_up import put_up_waiting
from feedback.visible import Piece, pieces
from rlhf_app.http import Request

SHOWN = 25


class PutUpForm(forms.Form):
    prompts = forms.IntegerField(
        label=gettext_lazy("Prompts"),
        min_value=1,
        max_value=10_000,
        initial=100,
        help_text=gettext_lazy("At most so many; those that wait longest come first."),
    )


@require_GET
def comparisons(request: Request, slug: str) -> HttpResponse:
    project = get_project(request.user, slug, Role.ENGINEER)
    return comparisons_page(request, project, PutUpForm())


def comparisons_page(
    request: Request, project: Project, form: PutUpForm, *, status: int = 200
) -> HttpResponse:
    context = {
        "project": project,
        "place": "comparisons",
        "form": form,
        "counts": counts(project),
        "gold": gold_rows(project),
        "rate": round(100 * project.gold_rate),
        "judged": judged_rows(project),
    }
    return render(request, "feedback/comparisons.html", context, status=status)


def counts(project: Project) -> list[dict[str, Any]]:
    """Of each kind and purpose: open, judged, withdrawn."""
    rows = Comparison.objects.filter(project=project).order_by("kind", "purpose").values("kind", "purpose")
    state = Comparison.State
    found = rows.annotate(
        open=Count("pk", filter=Q(state=state.OPEN)),
        done=Count("pk", filter=Q(state=state.DONE)),
        withdrawn=Count("pk", filter=Q(state=state.WITHDRAWN)),
    )
    kinds, purposes = dict(ComparisonKind.choices), dict(Comparison.Purpose.choices)
    return [{**row, "kind": kinds[row["kind"]], "purpose": purposes[row["purpose"]]} for row in found]


def cut(text: str) -> list[Piece]:
    return pieces(text if len(text) <= 120 else text[:119] + "…")


def gold_rows(project: Project) -> list[dict[str, Any]]:
    rows = Comparison.objects.filter(project=project, purpose=Comparison.Purpose.GOLD)
    rows = rows.exclude(state=Comparison.State.WITHDRAWN).select_related("prompt")
    met = grades(project).by_comparison
    return [
        row_of(row, row.gold_answer or {}) | {"met": share_in_words(met.get(row.pk))}
        for row in rows.prefetch_related("candidates__completion").order_by("-pk")[:SHOWN]
    ]


def judged_rows(project: Project) -> list[dict[str, Any]]:
    """The latest judgements by people that could be a gold answer."""
    rows = could_be_gold(project).select_related("comparison__prompt", "annotator")
    rows = rows.prefetch_related("comparison__candidates__completion").order_by("-pk")[:SHOWN]
    return [row_of(row.comparison, row.answer()) | {"preference": row} for row in rows]


def could_be_gold(project: Project) -> PreferenceQuerySet:
    rows = Preference.objects.current().by_people().exclude(kind=ComparisonKind.DEMONSTRATION)
    return rows.filter(comparison__project=project, comparison__purpose=Comparison.Purpose.TRAINING)


def row_of(comparison: Comparison, answer: dict[str, Any]) -> dict[str, Any]:
    """An answer in letters of the canonical order, with the beginning of the text that it puts first."""
    texts = [candidate.completion.text for candidate in comparison.candidates.all()]
    said = words_of(Preference(kind=comparison.kind, shown_order=list(range(len(texts))), **answer))
    scores = Counter({position: 0 for position in range(len(texts))})
    scores.update(pair.better for pair in order_of(answer) if not pair.tie)
    best = max(scores, key=lambda position: scores[position])
    prompt, text = cut(comparison.prompt.last_message), cut(texts[best])
    return {"comparison": comparison, "prompt": prompt, "said": said, "letter": LETTERS[best], "text": text}


@require_POST
def comparisons_put_up(request: Request, slug: str) -> HttpResponse:
    """Put up what waits, as the project's kind of judgement asks."""
    project = get_project(request.user, slug, Role.ENGINEER)
    form = PutUpForm(request.POST)
    if not form.is_valid():
        return comparisons_page(request, project, form, status=422)
    with transaction.atomic():
        count = put_up_waiting(project, form.cleaned_data["prompts"])
        AuditEntry.record(request.user, "comparisons.put_up", project, kind=project.kind, count=count)
    if count:
        words = ngettext("%d comparison is up for judgement.", "%d comparisons are up for judgement.", count)
        messages.success(request, words % count)
    else:
        messages.info(request, _("Nothing waits to be put up."))
    return redirect("comparisons", slug)


@require_POST
def gold_make(request: Request, slug: str, pk: int) -> HttpResponse:
    """Take a judgement as the answer of a new gold comparison."""
    project = get_project(request.user, slug, Role.ENGINEER)
    found = Preference.objects.filter(comparison__project=project).select_related("comparison")
    preference = get_object_or_404(found, pk=pk)
    if not could_be_gold(project).filter(pk=pk).exists():
        messages.error(request, _("That judgement is not in force any more."))
    else:
        make_gold(preference, actor=request.user)
        messages.success(request, _("It is gold now."))
    return redirect("comparisons", slug)


@require_POST
def gold_withdraw(request: Request, slug: str, pk: int) -> HttpResponse:
    project = get_project(request.user, slug, Role.ENGINEER)
    gold = get_in_project(project, Comparison.objects.filter(purpose=Comparison.Purpose.GOLD), pk)
    withdraw_gold(gold, actor=request.user)
    messages.success(request, _("Nobody is served it any more."))
    return redirect("comparisons", slug)
