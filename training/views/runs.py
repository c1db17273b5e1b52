"""Runs: the list, the launch form, the live page of one, and the frozen data they read."""

from __future__ import annotations

import itertools
import shlex
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Max
from django.http import FileResponse, Http404, HttpResponse, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_http_methods, require_POST
from django_htmx.http import HttpResponseStopPolling

from feedback.access import at_least, get_in_project, get_project
from feedback.models import Preference, Project, Role, canonical_json
from rlhf_app.http import Request
from training import charts, names, supervisor
from training.core.configs import KINDS, ConfigError
from training.core.protocol import read_jsonl
from training.forms import LaunchForm, freezable, obstacles
from training.launch import SNAPSHOT_KINDS, launch
from training.models import Review, Run, RunMetric, RunSample, Snapshot
from training.snapshots import NothingToFreeze
from training.templatetags.figures import duration

PAGE = 25
LOG_LINES = 200
SAMPLE_PROMPTS = 4
SAMPLES = 200
CHART_STEPS = 2000
"""Steps sent in one answer; the script asks again for the rest."""
TABLE_STEPS = 500
LARGEST_READ = 64 * 1024 * 1024
"""Snapshot files above this are not read through to count who judged."""


# --- list -------------------------------------------------------------------------------------------


@require_GET
def run_list(request: Request, slug: str) -> HttpResponse:
    """Every run, newest first, by kind and state."""
    project = get_project(request.user, slug, Role.REVIEWER)
    runs = Run.objects.filter(project=project).select_related("created_by", "version")
    kind, state = request.GET.get("kind", ""), request.GET.get("state", "")
    if kind in KINDS:
        runs = runs.filter(kind=kind)
    if state in Run.State.values:
        runs = runs.filter(state=state)
    context = {
        "project": project,
        "place": "runs",
        "page": Paginator(runs, PAGE).get_page(request.GET.get("page")),
        "kinds": KINDS.values(),
        "states": Run.State.choices,
        "kind": kind,
        "state": state,
        "filtered": kind in KINDS or state in Run.State.values,
        "may_launch": may_launch(project),
    }
    return render(request, "training/run_list.html", context)


def may_launch(project: Project) -> bool:
    return at_least(project.role, Role.ENGINEER)  # type: ignore[attr-defined]  # set by get_project


# --- launch -----------------------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def run_launch(request: Request, slug: str, kind: str) -> HttpResponse:
    """Choose inputs and settings; a POST freezes the data first and then queues the run."""
    project = get_project(request.user, slug, Role.ENGINEER)
    if kind not in KINDS:
        raise Http404
    missing = obstacles(project, kind)
    if request.method == "GET":
        preset = request.GET.get("preset", "")
        form = LaunchForm(project=project, kind=kind, preset=preset, initial=named_inputs(request))
        return render(
            request, "training/run_launch.html", launch_context(project, kind, form, missing, preset)
        )
    form = LaunchForm(request.POST, project=project, kind=kind)
    if not missing and form.is_valid() and (run := start(form, request)):
        messages.success(request, _("%(run)s is queued. A worker takes it in a moment.") % {"run": run.title})
        return redirect("run_detail", slug, run.pk)
    return render(
        request, "training/run_launch.html", launch_context(project, kind, form, missing, ""), status=422
    )


def named_inputs(request: Request) -> dict[str, str]:
    """Inputs that a link chose, e.g. ?policy=3&data=now:review."""
    names = ("policy", "reference", "reward_model", "data")
    return {name: request.GET[name] for name in names if request.GET.get(name)}


def start(form: LaunchForm, request: Request) -> Run | None:
    """Freeze and launch; None when that was refused, with the reason in the form."""
    try:
        snapshot = form.freeze(request.user)
        return launch(
            form.project,
            form.kind,
            form.config_values(),
            actor=request.user,
            seed=form.cleaned_data["seed"],
            inputs=form.inputs(snapshot),
            purpose=form.purpose(),
        )
    except NothingToFreeze as refusal:
        form.add_error("data", str(refusal))
    except ConfigError as refused:
        data_names = {name for _kind, name in SNAPSHOT_KINDS}
        for name, problem in refused.problems.items():
            form.add_error("data" if name in data_names else name if name in form.fields else None, problem)
    return None


def launch_context(
    project: Project, kind: str, form: LaunchForm, missing: list[Any], preset: str
) -> dict[str, Any]:
    config = KINDS[kind]
    last = Run.objects.filter(
        project=project, kind=kind, state=Run.State.DONE, started_at__isnull=False
    ).first()
    return {
        "project": project,
        "place": "runs",
        "kind": kind,
        "config": config,
        "form": form,
        "obstacles": [
            {"words": one.words, "label": one.label, "url": reverse(one.view, args=[project.slug, *one.args])}
            for one in missing
        ],
        "preset": preset,
        "unknown_preset": preset if preset and preset not in config.presets else "",
        "freezable": freezable(project) if form.holds == Snapshot.Kind.PREFERENCES else None,
        "last": last,
        "last_seconds": seconds_of(last) if last else None,
    }


def seconds_of(run: Run) -> float | None:
    """How long a run has taken so far."""
    if run.started_at is None:
        return None
    return ((run.finished_at or timezone.now()) - run.started_at).total_seconds()


# --- one run ----------------------------------------------------------------------------------------


def get_run(project: Project, pk: int) -> Run:
    return get_in_project(project, Run.objects.select_related("created_by", "version"), pk)


@require_GET
def run_detail(request: Request, slug: str, pk: int) -> HttpResponse:
    """What the run reads, what it is doing, whether it goes well, what it made."""
    project = get_project(request.user, slug, Role.REVIEWER)
    run = get_run(project, pk)
    newest = list(
        RunMetric.objects.filter(run=run).order_by("-step").values_list("step", "values")[:TABLE_STEPS]
    )
    drawn = charts.charts_of(run, reversed(newest))
    context = {
        **status_context(project, run),
        **facts_context(project, run),
        "charts": drawn[: charts.HEADLINES],
        "more_charts": drawn[charts.HEADLINES :],
        "chart_spec": [chart.spec() for chart in drawn],
        "samples": samples_of(run),
        "log": run.log.order_by("-id")[:LOG_LINES],
        "settings": names.settings_of(run),
        "repeat": repeat_by_hand(run),
    }
    return render(request, "training/run_detail.html", context)


@require_GET
def run_status(request: Request, slug: str, pk: int) -> HttpResponse:
    """What has changed: always the status, and the parts whose counts differ from those the page has."""
    project = get_project(request.user, slug, Role.REVIEWER)
    run = get_run(project, pk)
    context = status_context(project, run)
    changed = {name for name, known in context["known"].items() if request.GET.get(name) != str(known)}
    context["fresh"] = changed
    if "samples" in changed:
        context["samples"] = samples_of(run)
    if "log" in changed:
        context["log"] = run.log.order_by("-id")[:LOG_LINES]
    if "state" in changed or "attempt" in changed:
        context |= facts_context(project, run)
    answer = render(request, "training/_run_poll.html", context)
    return HttpResponseStopPolling(answer.content) if run.ended else answer


def status_context(project: Project, run: Run) -> dict[str, Any]:
    log, samples = run.log.aggregate(n=Max("id"))["n"], run.samples.aggregate(n=Max("id"))["n"]
    return {
        "project": project,
        "place": "runs",
        "run": run,
        "config": KINDS[run.kind],
        "progress": progress_of(run),
        "heartbeat": (timezone.now() - run.heartbeat_at).total_seconds() if run.heartbeat_at else None,
        "known": {"state": run.state, "attempt": run.attempt, "log": log or 0, "samples": samples or 0},
        "may_launch": may_launch(project),
    }


def progress_of(run: Run) -> str:
    """How far it is and how long it takes: "step 3 of 16 · 2 min 10 s left · for 40 s"."""
    if run.state == Run.State.QUEUED:
        parts = [_("waiting for a worker")]
        parts += [_("after attempt %(n)d") % {"n": run.attempt}] if run.attempt else []
        return " · ".join(parts)
    parts, seconds = [], seconds_of(run)
    if run.total_steps:
        parts.append(_("step %(step)d of %(total)d") % {"step": run.step, "total": run.total_steps})
    elif run.state == Run.State.RUNNING:
        parts.append(_("the first step is not reached yet"))
    if run.state == Run.State.RUNNING and run.seconds_left is not None:
        parts.append(_("%(time)s left") % {"time": duration(run.seconds_left)})
    if seconds is not None:
        parts.append((_("took %(time)s") if run.ended else _("for %(time)s")) % {"time": duration(seconds)})
    if run.attempt > 1:
        parts.append(_("attempt %(n)d") % {"n": run.attempt})
    return " · ".join(parts)


def facts_context(project: Project, run: Run) -> dict[str, Any]:
    return {
        "inputs": run.inputs.select_related("model_version", "snapshot"),
        "written": run_completions(run) if run.kind == "sample" and run.ended else None,
        "last_metrics": run.metrics.order_by("-step").first(),
    }


def run_completions(run: Run) -> int:
    read = run.inputs.filter(name="policy").select_related("model_version").first()
    version = read.model_version if read else None
    return version.completions.filter(sampling__run=run.pk).count() if version else 0


def samples_of(run: Run) -> list[tuple[RunSample, list[RunSample]]]:
    """By prompt: its first row, and its texts step by step. `sample` runs have a new prompt each time.

    Texts that people judge blind in a review stay hidden until it is closed.
    """
    judged_blind = Review.objects.filter(pk=run.purpose.get("review"), project=run.project_id)
    if judged_blind.filter(state__in=(Review.State.SAMPLING, Review.State.JUDGING)).exists():
        return []
    newest = RunSample.objects.filter(run=run).order_by("-step", "index")[:SAMPLES]
    by_prompt: dict[str, list[RunSample]] = {}
    for row in sorted(newest, key=lambda row: (row.index, row.step)):
        by_prompt.setdefault(f"{row.index} {canonical_json(row.messages)}", []).append(row)
    return [(texts[0], texts) for texts in by_prompt.values()][-SAMPLE_PROMPTS:]


def repeat_by_hand(run: Run) -> str:
    """Shell commands that do a started run again in a folder beside its own, without web or worker.

    In its own folder the trainer would see that all is done. Links among the inputs are relative: they hold
    in a neighbour, too.
    """
    again = shlex.quote(f"{run.directory}-again")
    spec, inputs = (shlex.quote(str(run.directory / name)) for name in ("spec.json", "inputs"))
    return "\n".join(
        (
            f"cd {shlex.quote(str(settings.BASE_DIR))}",
            f"mkdir {again}",
            f"cp -RP {spec} {inputs} {again}",
            f"{shlex.join(settings.TRAINER_COMMAND)} {again}",
            f"grep content_hash {again}/output/manifest.json",
        )
    )


@require_GET
def run_metrics(request: Request, slug: str, pk: int) -> JsonResponse:
    """Metrics after step `since` for the charts: {"steps": [..], "values": {path: [..]}, "ended", "more"}."""
    project = get_project(request.user, slug, Role.REVIEWER)
    run = get_in_project(project, Run.objects.all(), pk)
    try:
        since = int(request.GET.get("since", "-1"))
    except ValueError:
        return JsonResponse({"error": _("since: wanted a whole number")}, status=400)
    rows = list(run.metrics.filter(step__gt=since).values_list("step", "values")[: CHART_STEPS + 1])
    shown = rows[:CHART_STEPS]
    paths = sorted({path for _step, values in shown for path in values})
    return JsonResponse(
        {
            "steps": [step for step, _values in shown],
            "values": {path: [values.get(path) for _step, values in shown] for path in paths},
            "total_steps": run.step if run.ended else run.total_steps,
            "ended": run.ended,
            "more": len(rows) > CHART_STEPS,
        }
    )


@require_POST
def run_cancel(request: Request, slug: str, pk: int) -> HttpResponse:
    """Ask a run to stop at its next safe point; a queued one is cancelled at once."""
    project = get_project(request.user, slug, Role.ENGINEER)
    run = get_in_project(project, Run.objects.all(), pk)
    if not supervisor.request_cancel(run, actor=request.user):
        messages.info(request, _("%(run)s had ended already.") % {"run": run.title})
    elif run.state == Run.State.CANCELLED:
        messages.success(request, _("%(run)s is cancelled.") % {"run": run.title})
    else:
        messages.success(request, _("%(run)s stops at its next safe point.") % {"run": run.title})
    return redirect("run_detail", slug, pk)


# --- snapshots --------------------------------------------------------------------------------------


@require_GET
def snapshot_detail(request: Request, slug: str, pk: int) -> HttpResponse:
    """What is frozen, how much of it, who judged, and which runs read it."""
    project = get_project(request.user, slug, Role.REVIEWER)
    snapshot = get_in_project(project, Snapshot.objects.select_related("created_by"), pk)
    there = snapshot.path.is_file()
    readable = there and snapshot.path.stat().st_size <= LARGEST_READ
    preferences = snapshot.kind == Snapshot.Kind.PREFERENCES
    context = {
        "project": project,
        "place": "runs",
        "snapshot": snapshot,
        "size": snapshot.path.stat().st_size if there else None,
        "judges": judges_of(snapshot) if preferences and readable else [],
        "first_rows": list(itertools.islice(read_jsonl(snapshot.path), 3)) if there else [],
        "runs": Run.objects.filter(inputs__snapshot=snapshot).select_related("version").distinct(),
        "may_launch": may_launch(project),
    }
    return render(request, "training/snapshot_detail.html", context)


def judges_of(snapshot: Snapshot) -> list[dict[str, Any]]:
    """How many of the frozen judgements each gave: [{"annotator", "simulated", "imported", "count"}]."""
    ids = [row["preference_id"] for row in read_jsonl(snapshot.path) if "preference_id" in row]
    counts: dict[tuple[str, bool, bool], int] = {}
    for first in range(0, len(ids), 500):
        rows = Preference.objects.filter(pk__in=ids[first : first + 500])
        for key in rows.values_list("annotator__username", "simulated", "imported"):
            counts[key] = counts.get(key, 0) + 1
    ranked = sorted(counts.items(), key=lambda item: -item[1])
    names = ("annotator", "simulated", "imported")
    return [{**dict(zip(names, key, strict=True)), "count": count} for key, count in ranked]


@require_GET
def snapshot_file(request: Request, slug: str, pk: int) -> FileResponse:
    """The frozen file itself."""
    project = get_project(request.user, slug, Role.ENGINEER)
    snapshot = get_in_project(project, Snapshot.objects.all(), pk)
    if not snapshot.path.is_file():
        raise Http404
    name = f"{project.slug}-{snapshot}.jsonl"
    return FileResponse(
        snapshot.path.open("rb"), as_attachment=True, filename=name, content_type="application/jsonl"
    )
