"""The project's data: what is there, prompts and their completions, the export."""

from __future__ import annotations

import logging
from typing import Any

from django.core.paginator import Page, Paginator
from django.db import connection
from django.db.models import BooleanField, Count, Exists, OuterRef, Q, QuerySet
from django.db.models.expressions import RawSQL
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

from feedback.access import at_least, get_in_project, get_project
from feedback.exports import WRITERS, export
from feedback.forms_data import ExportForm, PromptFilterForm
from feedback.models import AuditEntry, Comparison, Completion, Preference, Prompt, Role
from feedback.views.streams import streamed
from feedback.visible import pieces
from rlhf_app.http import Request

logger = logging.getLogger(__name__)
PAGE_ROWS = 50
TEXT_SHOWN = 32 * 1024
"""Characters of a text that a page shows at first: one huge completion must not make a huge page."""
LIST_TEXT_SHOWN = 240
IMPORTS_SHOWN = 20


# --- overview ---------------------------------------------------------------------------------------


@require_GET
def data(request: Request, slug: str) -> HttpResponse:
    project = get_project(request.user, slug, Role.REVIEWER)
    preferences = Preference.objects.filter(comparison__project=project).current()
    context = {
        "project": project,
        "place": "data",
        "may_change": at_least(project.role, Role.ENGINEER),  # type: ignore[attr-defined]  # by get_project
        "splits": labelled(Prompt.Split.choices, project.prompts.order_by().values_list("split")),
        "sources": labelled(
            Completion.Source.choices,
            Completion.objects.filter(prompt__project=project).order_by().values_list("source"),
        ),
        "comparisons": project.comparisons.filter(purpose=Comparison.Purpose.TRAINING).aggregate(
            open=Count("pk", filter=Q(state=Comparison.State.OPEN)),
            done=Count("pk", filter=Q(state=Comparison.State.DONE)),
        ),
        "preferences": preferences.aggregate(
            people=Count("pk", filter=Q(simulated=False, imported=False)),
            imported=Count("pk", filter=Q(imported=True)),
            simulated=Count("pk", filter=Q(simulated=True)),
        ),
        "imports": project.imports.select_related("created_by")[:IMPORTS_SHOWN],
        "export_form": ExportForm(project=project, initial={"with_imported": True}),
    }
    return render(request, "feedback/data.html", context)


def labelled(choices: list[tuple[str, Any]], rows: QuerySet[Any, Any]) -> list[tuple[str, Any, int]]:
    """(value, label, how many) for each choice, from one grouped query over a single column."""
    counts = dict(rows.annotate(number=Count("pk")))
    return [(value, label, counts.get(value, 0)) for value, label in choices]


# --- prompts ----------------------------------------------------------------------------------------

HOLDS_TEXT = {
    "sqlite": """EXISTS (SELECT 1 FROM json_each("feedback_prompt"."messages") AS turn
        WHERE json_extract(turn.value, '$.content') LIKE %s ESCAPE '\\')""",
    "postgresql": """EXISTS (SELECT 1 FROM jsonb_array_elements("feedback_prompt"."messages") AS turn
        WHERE turn ->> 'content' ILIKE %s ESCAPE '\\')""",
}
"""Fixed text; what was typed is a parameter. A search of the JSON as text would also find its keys."""


def containing(prompts: QuerySet[Prompt], text: str) -> QuerySet[Prompt]:
    """Prompts with the text in one of their turns, letter case aside."""
    escaped = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    condition = RawSQL(HOLDS_TEXT[connection.vendor], (f"%{escaped}%",), output_field=BooleanField())
    return prompts.filter(condition)


@require_GET
def prompt_list(request: Request, slug: str) -> HttpResponse:
    project = get_project(request.user, slug, Role.REVIEWER)
    form = PromptFilterForm(request.GET)
    prompts = project.prompts.all()
    status = 200
    if form.is_valid():
        prompts = filtered(prompts, form.cleaned_data)
    else:
        status = 400
    page = Paginator(prompts, PAGE_ROWS).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "project": project,
        "place": "data",
        "form": form,
        "page": page,
        "query": query.urlencode(),
        "rows": listed(page),
        "searching": any(form.data.get(name) for name in form.fields),
    }
    return render(request, "feedback/prompt_list.html", context, status=status)


def filtered(prompts: QuerySet[Prompt], wanted: dict[str, Any]) -> QuerySet[Prompt]:
    if wanted["split"]:
        prompts = prompts.filter(split=wanted["split"])
    if wanted["source"]:
        completions = Completion.objects.filter(prompt=OuterRef("pk"), source=wanted["source"])
        prompts = prompts.filter(Exists(completions))
    if wanted["imported_by"]:
        prompts = prompts.filter(source=f"import {wanted['imported_by']}")
    if wanted["q"]:
        prompts = containing(prompts, wanted["q"])
    return prompts


def listed(page: Page[Prompt]) -> list[dict[str, Any]]:
    """The page's prompts with their number of completions and comparisons, in two queries for all."""
    ids = [prompt.pk for prompt in page]
    completions = dict(
        Completion.objects.filter(prompt__in=ids)
        .order_by()
        .values_list("prompt")
        .annotate(number=Count("pk"))
    )
    comparisons = dict(
        Comparison.objects.filter(prompt__in=ids)
        .order_by()
        .values_list("prompt")
        .annotate(number=Count("pk"))
    )
    return [
        {
            "prompt": prompt,
            "text": pieces(prompt.last_message[:LIST_TEXT_SHOWN]),
            "cut": len(prompt.last_message) > LIST_TEXT_SHOWN,
            "turns": len(prompt.messages),
            "completions": completions.get(prompt.pk, 0),
            "comparisons": comparisons.get(prompt.pk, 0),
        }
        for prompt in page
    ]


@require_GET
def prompt_detail(request: Request, slug: str, pk: int) -> HttpResponse:
    """The conversation and all its completions. `?full` shows long texts whole."""
    project = get_project(request.user, slug, Role.REVIEWER)
    prompt = get_in_project(project, Prompt.objects.all(), pk)
    limit = None if "full" in request.GET else TEXT_SHOWN
    # Reviewers judge blind reviews: until those are closed (which withdraws all), no name may stand here.
    under_review = Comparison.objects.exclude(state=Comparison.State.WITHDRAWN).filter(
        purpose=Comparison.Purpose.REVIEW, prompt=prompt, completions=OuterRef("pk")
    )
    completions = Paginator(
        prompt.completions.select_related("model_version")
        .annotate(judged=Count("candidacies"), blind=Exists(under_review))
        .order_by("pk"),
        PAGE_ROWS,
    ).get_page(request.GET.get("page"))
    turns = [(turn["role"], pieces(turn["content"][:limit])) for turn in prompt.messages]
    shown = [(completion, pieces(completion.text[:limit])) for completion in completions]
    texts = [turn["content"] for turn in prompt.messages] + [completion.text for completion in completions]
    context = {
        "project": project,
        "place": "data",
        "prompt": prompt,
        "turns": turns,
        "completions": shown,
        "page": completions,
        "query": "",
        "cut": limit is not None and any(len(text) > limit for text in texts),
    }
    return render(request, "feedback/prompt_detail.html", context)


# --- export -----------------------------------------------------------------------------------------


@require_GET
def export_preferences(request: Request, slug: str) -> HttpResponseBase:
    """A selection of judgements in one of the formats, sent while it is read."""
    project = get_project(request.user, slug, Role.ENGINEER)
    form = ExportForm(request.GET, project=project)
    if not form.is_valid():
        context = {"project": project, "place": "data", "form": form}
        return render(request, "feedback/export.html", context, status=400)
    format = form.chosen_format()
    selection = form.selection()
    facts = {**selection._asdict(), "since": str(selection.since or ""), "format": format}
    AuditEntry.record(request.user, "preferences.exported", project, **facts)
    body = streamed(request, export(project, format, selection))
    writer = WRITERS[format]
    response = StreamingHttpResponse(body, content_type=writer.content_type)
    # A slug holds nothing but letters, digits, hyphens and underscores, so the name needs no quoting.
    name = f"{format}-{project.slug}-{timezone.now():%Y%m%d-%H%M%S}.{writer.extension}"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["X-Content-Type-Options"] = "nosniff"
    return response
