"""Files on their way in: upload, a look at the first rows, progress, cancel."""

from __future__ import annotations

import logging
from typing import Any

from celery.exceptions import OperationalError as BrokerError
from django.contrib import messages
from django.db import transaction
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.text import capfirst
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseStopPolling
from kombu.exceptions import OperationalError as TransportError

from feedback import imports, tasks
from feedback.access import at_least, get_in_project, get_project
from feedback.exchange.formats import Format
from feedback.exchange.rows import Row
from feedback.forms_data import PreviewForm, UploadForm
from feedback.lines import BadFile, located
from feedback.models import DataImport, Project, Role
from feedback.previews import Preview, columns_for, columns_of, format_to_try, in_words, preview
from feedback.views.streams import streamed
from feedback.visible import pieces
from rlhf_app.http import Request

logger = logging.getLogger(__name__)
PREVIEW_TEXT_SHOWN = 400
"""Characters of a text in the preview: it is there to be recognised, not to be read."""


# --- upload -----------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def import_upload(request: Request, slug: str) -> HttpResponse:
    """Take a file and recognise it; the next page shows what would be imported."""
    project = get_project(request.user, slug, Role.ENGINEER)
    posted = request.method == "POST"
    form = UploadForm(request.POST, request.FILES) if posted else UploadForm()
    status = 200
    if posted:
        data_import = stored(request, project, form) if form.is_valid() else None
        if data_import:
            return redirect("import_preview", slug, data_import.pk)
        status = 413 if form.has_error("file", "too_large") else 422
    context = {"project": project, "place": "data", "form": form}
    return render(request, "feedback/import_upload.html", context, status=status)


def stored(request: Request, project: Project, form: UploadForm) -> DataImport | None:
    """The import of a valid form, or None with the reason on the form."""
    try:
        data_import = imports.receive(
            project,
            form.cleaned_data["file"].chunks(),
            file_name=form.file_name,
            format="",
            options={},
            skip_bad_rows=False,
            actor=request.user,
            confirmed=False,
        )
    except BadFile as problem:
        form.add_error("file", capfirst(str(problem)))
        return None
    same = project.imports.filter(sha256=data_import.sha256, state=DataImport.State.DONE).last()
    if same:
        facts = {"number": same.pk}
        messages.info(
            request,
            _("Already imported as import %(number)d (same sha256): no row will be doubled.") % facts,
        )
    return data_import


# --- preview ----------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def import_preview(request: Request, slug: str, pk: int) -> HttpResponse:
    """The first rows as they would be imported; read otherwise, or imported, as the button says."""
    project = get_project(request.user, slug, Role.ENGINEER)
    data_import = get_in_project(project, DataImport.objects.select_related("created_by"), pk)
    if data_import.state != DataImport.State.UPLOADED:
        return came_late(request, project, pk)
    form = preview_form(request, data_import)
    shown: Preview | None = None
    status = 200
    if form.is_bound and not form.is_valid():
        status = 422
    elif form.is_bound and request.POST.get("do") == "import":
        answers = form.cleaned_data
        confirmed = imports.confirm(
            data_import,
            format=answers["format"],
            options=form.options(),
            skip_bad_rows=answers["skip_bad_rows"],
            actor=request.user,
        )
        if not confirmed:
            return came_late(request, project, pk)
        transaction.on_commit(lambda: ring(pk))
        return redirect("import_detail", slug, pk)
    else:
        shown = looked_at(data_import, form)
    context = {
        "project": project,
        "place": "data",
        "import": data_import,
        "form": form,
        "shown": [preview_row(row) for row in shown.rows] if shown else [],
        "problems": shown.problems if shown else [],
    }
    return render(request, "feedback/import_preview.html", context, status=status)


def came_late(request: Request, project: Project, pk: int) -> HttpResponse:
    """To the import's page; whoever pressed a button is told that it did nothing."""
    if request.method == "POST":
        said = _("Nothing was changed: the import has been confirmed or cancelled meanwhile, see below.")
        messages.warning(request, said)
    return redirect("import_detail", project.slug, pk)


def preview_form(request: Request, data_import: DataImport) -> PreviewForm:
    """With the columns of the format that was chosen; another choice than before asks about columns anew."""
    columns = columns_of(data_import)
    format = format_to_try(data_import, columns)
    asked = request.POST.get("format", "")
    if asked in Format.values:
        format = Format(asked)
    columns = columns_of(data_import, format)
    answered = request.method == "POST" and request.POST.get("columns_of", asked) == asked
    data = request.POST if request.method == "POST" else None
    form = PreviewForm(data, columns=columns, wanted=columns_for(format), initial={"format": format})
    if data is not None and not answered:
        # The columns on the page were those of another format: start from the proposal for this one.
        answers = {name: value for name, value in data.items() if not name.startswith("column_")}
        guess = {name: field.initial for name, field in form.fields.items() if name.startswith("column_")}
        form = PreviewForm({**answers, **guess}, columns=columns, wanted=columns_for(format))
    return form


def looked_at(data_import: DataImport, form: PreviewForm) -> Preview:
    if form.is_bound:
        answers = form.cleaned_data
        return preview(data_import, answers["format"], form.mapping(), ignore_extra=answers["ignore_extra"])
    guess = {name: form[f"column_{number}"].initial for number, name in enumerate(form.columns)}
    mapping = {name: ours for name, ours in guess.items() if name != ours}
    return preview(data_import, form["format"].initial, mapping, ignore_extra=False)


def preview_row(row: Row) -> dict[str, Any]:
    def cut(text: str) -> dict[str, Any]:
        return {"pieces": pieces(text[:PREVIEW_TEXT_SHOWN]), "cut": len(text) > PREVIEW_TEXT_SHOWN}

    return {
        "line": row.line,
        "turns": len(row.messages),
        "prompt": cut(row.messages[-1]["content"]),
        "completions": [cut(text) for text in row.completions],
        "judged": [in_words(judged) for judged in row.judged],
        "written": [cut(judged.written) for judged in row.judged if judged.written is not None],
    }


def ring(import_id: int) -> None:
    """Tell a worker; nobody listening is no error, since the sweep rings again."""
    try:
        tasks.run_import.delay(import_id)
    except (BrokerError, TransportError) as error:
        logger.warning("import %d waits for the sweep: no broker (%s)", import_id, error)


# --- progress ---------------------------------------------------------------------------------------


COUNTED = (
    ("rows", gettext_lazy("Rows")),
    ("prompts", gettext_lazy("New prompts")),
    ("completions", gettext_lazy("New completions")),
    ("comparisons", gettext_lazy("New comparisons")),
    ("preferences", gettext_lazy("New preferences")),
    ("unchanged", gettext_lazy("Rows that were there already")),
    ("left_out", gettext_lazy("Second judgements by one person, left out")),
    ("bad_rows", gettext_lazy("Bad rows")),
)
"""What the report of an import counts."""


def import_context(project: Project, data_import: DataImport) -> dict[str, Any]:
    counts = data_import.counts
    failed = data_import.state == DataImport.State.FAILED
    return {
        "project": project,
        "place": "data",
        "import": data_import,
        "format": Format(data_import.format).label if data_import.format else _("not recognised yet"),
        "percent": 100 * data_import.bytes_read // max(1, data_import.size),
        "checking": data_import.going and data_import.last_line == 0,
        "counts": [
            (label, counts.get(name, 0))
            for name, label in COUNTED
            # A file that was refused added nothing: no line of zeros for each kind.
            if data_import.last_line or name in ("rows", "bad_rows")
        ],
        "mapping": sorted(data_import.options.get("mapping", {}).items()),
        "errors": [located(error["line"], error["reason"]) for error in data_import.errors],
        "file_there": data_import.file_deleted_at is None,
        "may_skip": failed and not data_import.skip_bad_rows and counts.get("bad_rows", 0) > 0,
        "may_leave_out": failed and any(error.get("code") == "people" for error in data_import.errors),
        "more_errors": max(0, counts.get("bad_rows", 0) - len(data_import.errors)),
        "may_change": at_least(project.role, Role.ENGINEER),  # type: ignore[attr-defined]  # by get_project
    }


@require_GET
def import_detail(request: Request, slug: str, pk: int) -> HttpResponse:
    project = get_project(request.user, slug, Role.REVIEWER)
    data_import = get_in_project(project, DataImport.objects.select_related("created_by"), pk)
    return render(request, "feedback/import_detail.html", import_context(project, data_import))


@require_GET
def import_status(request: Request, slug: str, pk: int) -> HttpResponse:
    """The live part of `import_detail`; the last answer tells htmx to stop asking."""
    project = get_project(request.user, slug, Role.REVIEWER)
    data_import = get_in_project(project, DataImport.objects.select_related("created_by"), pk)
    response = render(request, "feedback/_import_status.html", import_context(project, data_import))
    return response if data_import.going else HttpResponseStopPolling(response.content)


@require_GET
def import_errors(request: Request, slug: str, pk: int) -> HttpResponseBase:
    """Every bad row of the file, read once more: a page holds only the first hundred."""
    project = get_project(request.user, slug, Role.REVIEWER)
    data_import = get_in_project(project, DataImport.objects.all(), pk)
    if not data_import.format or not data_import.path.is_file():
        raise Http404
    body = streamed(request, (f"{bad}\n".encode() for bad in imports.bad_rows(data_import)))
    response = StreamingHttpResponse(body, content_type="text/plain; charset=utf-8")
    response["Content-Disposition"] = f'attachment; filename="import-{pk}-bad-rows.txt"'
    response["X-Content-Type-Options"] = "nosniff"
    return response


@require_POST
def import_cancel(request: Request, slug: str, pk: int) -> HttpResponse:
    project = get_project(request.user, slug, Role.ENGINEER)
    data_import = get_in_project(project, DataImport.objects.all(), pk)
    if not imports.cancel(data_import, actor=request.user):
        messages.info(request, _("The import had ended before it could be cancelled."))
    return redirect("import_detail", slug, pk)


@require_POST
def import_again(request: Request, slug: str, pk: int) -> HttpResponse:
    """Read the kept file of an import that failed once more, as the button says."""
    project = get_project(request.user, slug, Role.ENGINEER)
    data_import = get_in_project(project, DataImport.objects.all(), pk)
    wanted = request.POST.get("do", "")
    if wanted not in ("skip_bad_rows", "nameless"):
        return HttpResponse(status=400)
    new = imports.again(
        data_import,
        actor=request.user,
        skip_bad_rows=wanted == "skip_bad_rows",
        nameless=wanted == "nameless",
    )
    if new is None:
        messages.warning(
            request, _("The file is no longer kept, or the import did not fail: upload it again.")
        )
        return redirect("import_detail", slug, pk)
    transaction.on_commit(lambda: ring(new.pk))
    return redirect("import_detail", slug, new.pk)
