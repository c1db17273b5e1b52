"""Model versions: the list, one with its lineage, two side by side, promote and roll back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from django.contrib import messages
from django.core.paginator import Paginator
from django.db.models import Exists, OuterRef, Prefetch
from django.http import HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from feedback.access import at_least, get_in_project, get_project
from feedback.models import Completion, Project, Prompt, Role
from feedback.word_diff import Part, word_diff
from rlhf_app.http import Request, whole_number
from training import headlines, registry
from training.core.configs import ConfigError
from training.forms_versions import ReasonForm
from training.launch import POLICY_KINDS
from training.models import ModelVersion, Promotion, Review, ReviewItem, Run, Snapshot
from training.review import COMPARED, write_missing
from training.snapshots import NothingToFreeze
from training.views.runs import LARGEST_READ, judges_of

PAGE = 25


def has_role(project: Project, role: Role) -> bool:
    return at_least(project.role, role)  # type: ignore[attr-defined]  # set by get_project


# --- list and one -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """A version in the list with the figures it is known by."""

    version: ModelVersion
    accuracy: headlines.Accuracy | None
    reward: headlines.Reward | None
    review: Review | None


@require_GET
def version_list(request: Request, slug: str) -> HttpResponse:
    """Every version, newest first, with what speaks for it."""
    project = get_project(request.user, slug, Role.REVIEWER)
    closed = Review.objects.filter(state=Review.State.CLOSED).select_related("baseline")
    versions = (
        ModelVersion.objects.filter(project=project)
        .select_related("parent", "run")
        .prefetch_related(Prefetch("reviews_as_candidate", closed))
    )
    page = Paginator(versions, PAGE).get_page(request.GET.get("page"))
    promoted = registry.promoted(project)
    policies = ModelVersion.objects.filter(project=project, kind__in=POLICY_KINDS).order_by("-number")
    context = {
        "project": project,
        "place": "versions",
        "page": page,
        "rows": [
            Row(
                version,
                headlines.accuracy(version) if version.kind == ModelVersion.Kind.REWARD else None,
                headlines.reward(version) if version.kind == ModelVersion.Kind.POLICY else None,
                next(iter(version.reviews_as_candidate.all()), None),
            )
            for version in page
        ],
        "promoted": promoted,
        "policies": policies[:50],
        **usual_pair(list(policies[:2]), promoted),
        "reviews": Review.objects.filter(project=project).select_related("candidate", "baseline")[:10],
        "may_review": has_role(project, Role.ENGINEER),
        "may_roll_back": has_role(project, Role.ADMIN) and registry.roll_back_target(project) is not None,
    }
    return render(request, "training/version_list.html", context)


def usual_pair(newest: list[ModelVersion], promoted: ModelVersion | None) -> dict[str, Any]:
    """What one mostly wants to compare: the newest policy and the promoted one, the older on the left."""
    other = next((version for version in newest if version != promoted), None)
    pair = sorted((version for version in (promoted, other) if version), key=lambda version: version.number)
    later = other is not None and promoted is not None and other.number > promoted.number
    return {"left": pair[0] if pair else None, "right": pair[-1] if pair else None, "unreviewed": later}


@require_GET
def version_detail(request: Request, slug: str, pk: int) -> HttpResponse:
    """Where a version came from, what it was used for, and what people said of it."""
    project = get_project(request.user, slug, Role.REVIEWER)
    version = get_in_project(project, ModelVersion.objects.select_related("parent", "run"), pk)
    lineage = registry.lineage(version)
    runs = Run.objects.filter(inputs__model_version=version).select_related("version").distinct()
    promoted = registry.promoted(project)
    target = registry.roll_back_target(project) if version == promoted else None
    context = {
        "project": project,
        "place": "versions",
        "version": version,
        "accuracy": headlines.accuracy(version) if version.kind == ModelVersion.Kind.REWARD else None,
        "reward": headlines.reward(version) if version.kind == ModelVersion.Kind.POLICY else None,
        "lineage": lineage,
        "judges": judges_behind([snapshot for link in lineage for snapshot in link.snapshots]),
        "runs": runs[:PAGE],
        "reviews": (version.reviews_as_candidate.all() | version.reviews_as_baseline.all())
        .select_related("candidate", "baseline")
        .distinct(),
        "promotions": version.promotions.select_related("by", "previous"),
        "completions": version.completions.count(),
        "promoted": promoted,
        "beside": beside(version, promoted, target),
        "roll_back_target": target if has_role(project, Role.ADMIN) else None,
        "metrics": sorted(version.metrics.items()),
        "may_promote": has_role(project, Role.ADMIN) and version.kind in POLICY_KINDS,
        "may_review": has_role(project, Role.ENGINEER) and version.kind in POLICY_KINDS,
    }
    return render(request, "training/version_detail.html", context)


def beside(
    version: ModelVersion, promoted: ModelVersion | None, before: ModelVersion | None
) -> ModelVersion | None:
    """What a policy is read beside: the promoted one; and that one beside what stood before it."""
    if version.kind not in POLICY_KINDS:
        return None
    return promoted if version != promoted else before or version.parent


def judges_behind(snapshots: list[Snapshot]) -> list[tuple[Snapshot, list[dict[str, Any]]]]:
    """For each frozen set of preferences in a lineage: who gave how many of its judgements."""
    frozen = {snapshot.pk: snapshot for snapshot in snapshots if snapshot.kind == Snapshot.Kind.PREFERENCES}
    return [
        (snapshot, judges_of(snapshot))
        for snapshot in frozen.values()
        if snapshot.path.is_file() and snapshot.path.stat().st_size <= LARGEST_READ
    ]


# --- side by side -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What one version wrote for the prompt, with its words marked when that was asked for."""

    completion: Completion
    parts: list[Part]

    @property
    def score(self) -> float | None:
        return cast(float | None, self.completion.sampling.get("score"))


SORTS = ("prompt", "gain", "length")


@require_GET
def version_compare(request: Request, slug: str) -> HttpResponse:
    """Two versions on the prompts that both completed, one prompt at a time."""
    project = get_project(request.user, slug, Role.REVIEWER)
    policies = ModelVersion.objects.filter(project=project, kind__in=POLICY_KINDS)
    first, second = (chosen_version(request.GET, policies, name) for name in ("a", "b"))
    sort = request.GET.get("sort", "prompt")
    context: dict[str, Any] = {
        "project": project,
        "place": "versions",
        "policies": policies.order_by("-number"),
        "a": first,
        "b": second,
        "sort": sort if sort in SORTS else "prompt",
        "diff": request.GET.get("diff") == "1",
        "may_launch": has_role(project, Role.ENGINEER),
        "compared_count": COMPARED,
        "may_promote": has_role(project, Role.ADMIN),
        "promoted": registry.promoted(project),
    }
    if first and second and first != second:
        context |= compared(
            project, first, second, context["sort"], context["diff"], request.GET.get("n", "1")
        )
        context["sort"] = "prompt" if sort == "gain" and not context.get("scored") else context["sort"]
        context["review"] = Review.objects.filter(
            candidate__in=(first, second), baseline__in=(first, second), state=Review.State.CLOSED
        ).first()
    return render(request, "training/version_compare.html", context)


def chosen_version(sent: QueryDict, policies: Any, name: str) -> ModelVersion | None:
    """The version that was asked for; 404 when there is none of that number."""
    text = sent.get(name, "")
    pk = whole_number(text)
    return get_object_or_404(policies, pk=pk) if pk is not None else None


def compared(
    project: Project, first: ModelVersion, second: ModelVersion, sort: str, diff: bool, place: str
) -> dict[str, Any]:
    common, blind = common_pairs(project, first, second), prompts_kept_blind(project)
    pairs = [pair for pair in common if pair[0] not in blind]
    hidden = len(common) - len(pairs)
    scored = [gain for _prompt, _a, _b, gain, _length in pairs if gain is not None]
    if sort == "gain":
        pairs.sort(key=lambda pair: (pair[3] is None, -(pair[3] or 0.0), pair[0]))
    elif sort == "length":
        pairs.sort(key=lambda pair: (-abs(pair[4]), pair[0]))
    if not pairs:
        return {"total": 0, "hidden": hidden}
    n = min(max(whole_number(place) or 1, 1), len(pairs))
    prompt_id, a_id, b_id, gain, _length = pairs[n - 1]
    rows = Completion.objects.in_bulk([a_id, b_id])
    a, b = rows[a_id], rows[b_id]
    marked = word_diff(a.text, b.text) if diff else ([Part(a.text, True)], [Part(b.text, True)])
    return {
        "total": len(pairs),
        "hidden": hidden,
        "n": n,
        "prompt": Prompt.objects.get(pk=prompt_id),
        "left": Written(a, marked[0]),
        "right": Written(b, marked[1]),
        "gain": gain,
        "mean_gain": sum(scored) / len(scored) if scored else None,
        "scored": len(scored),
        "mean_length": sum(pair[4] for pair in pairs) / len(pairs),
    }


def prompts_kept_blind(project: Project) -> set[int]:
    """Prompts of open reviews, and those set aside for reviews until one has judged them.

    Whoever reads here who wrote what is no blind judge of them any more.
    """
    items = ReviewItem.objects.filter(review__project=project)
    judged = items.filter(review__state=Review.State.CLOSED).values("comparison__prompt")
    waiting = Prompt.objects.filter(project=project, split=Prompt.Split.REVIEW).exclude(pk__in=judged)
    judging = items.filter(review__state=Review.State.JUDGING)
    return {*waiting.values_list("pk", flat=True), *judging.values_list("comparison__prompt", flat=True)}


Pair = tuple[int, int, int, float | None, int]


def common_pairs(project: Project, first: ModelVersion, second: ModelVersion) -> list[Pair]:
    """(prompt, completion of `first`, of `second`, reward gain, length gain) for each prompt both completed.

    Of several completions by one version the newest counts. A gain needs scores by the same reward model.
    """
    found: list[dict[int, tuple[int, dict[str, Any], int]]] = []
    for version, other in ((first, second), (second, first)):
        both = Completion.objects.filter(model_version=other, prompt=OuterRef("prompt"))
        rows = Completion.objects.filter(Exists(both), model_version=version, prompt__project=project)
        values = rows.order_by("pk").values_list("prompt", "pk", "sampling", "token_count")
        found.append({prompt: (pk, sampling, tokens or 0) for prompt, pk, sampling, tokens in values})
    pairs: list[Pair] = []
    for prompt in sorted(found[0].keys() & found[1].keys()):
        (a, a_facts, a_length), (b, b_facts, b_length) = found[0][prompt], found[1][prompt]
        same_scorer = a_facts.get("reward_model") == b_facts.get("reward_model")
        before, after = a_facts.get("score"), b_facts.get("score")
        gain = after - before if same_scorer and before is not None and after is not None else None
        pairs.append((prompt, a, b, gain, b_length - a_length))
    return pairs


@require_POST
def version_write(request: Request, slug: str) -> HttpResponse:
    """Let two versions complete the prompts that they have not completed yet, to be read side by side."""
    project = get_project(request.user, slug, Role.ENGINEER)
    policies = ModelVersion.objects.filter(project=project, kind__in=POLICY_KINDS)
    pair = [version for name in ("a", "b") if (version := chosen_version(request.POST, policies, name))]
    if len(pair) != 2 or pair[0] == pair[1]:
        messages.error(request, _("Choose two different versions."))
        return redirect("version_compare", slug)
    try:
        runs = write_missing(project, *pair, actor=request.user)
    except (NothingToFreeze, ConfigError) as refused:
        messages.error(request, str(refused))
        runs = []
    else:
        words = ngettext(
            "%(n)d run is queued to write them.", "%(n)d runs are queued to write them.", len(runs)
        )
        done = _("Both have written completions of these prompts already.")
        messages.success(request, words % {"n": len(runs)} if runs else done)
    return redirect("run_detail", slug, runs[0].pk) if len(runs) == 1 else redirect("run_list", slug)


# --- promote and roll back --------------------------------------------------------------------------


@require_http_methods(["GET", "POST"])
def version_promote(request: Request, slug: str, pk: int) -> HttpResponse:
    """Make a version the one that writes the next completions, with a reason, in sight of its review."""
    project = get_project(request.user, slug, Role.ADMIN)
    version = get_in_project(project, ModelVersion.objects.exclude(kind=ModelVersion.Kind.REWARD), pk)
    promoted = registry.promoted(project)
    context = {
        "project": project,
        "place": "versions",
        "version": version,
        "promoted": promoted,
        "review": review_of(version, promoted),
        "under_way": Review.objects.filter(candidate=version)
        .exclude(state__in=(Review.State.CLOSED, Review.State.FAILED))
        .first(),
    }
    if request.method == "GET":
        context["form"] = ReasonForm(initial={"expected": promoted.pk if promoted else None})
        return render(request, "training/version_promote.html", context)
    form = context["form"] = ReasonForm(request.POST)
    if not form.is_valid():
        return render(request, "training/version_promote.html", context, status=422)
    expected = ModelVersion.objects.filter(project=project, pk=form.cleaned_data["expected"]).first()
    try:
        registry.promote(version, actor=request.user, reason=form.cleaned_data["reason"], expected=expected)
    except registry.Refused as refused:
        form.add_error(None, str(refused))
        return render(request, "training/version_promote.html", context, status=409)
    messages.success(
        request, _("%(version)s is promoted: it writes the next completions.") % {"version": version}
    )
    return redirect("loop", slug)


def review_of(version: ModelVersion, baseline: ModelVersion | None) -> Review | None:
    """The newest closed review of a version, one beside the promoted version before others."""
    closed = Review.objects.filter(candidate=version, state=Review.State.CLOSED).select_related("baseline")
    return closed.filter(baseline=baseline).first() or closed.first()


@require_http_methods(["GET", "POST"])
def version_rollback(request: Request, slug: str) -> HttpResponse:
    """Go back to the version that was promoted before this one."""
    project = get_project(request.user, slug, Role.ADMIN)
    promoted, target = registry.promoted(project), registry.roll_back_target(project)
    form = ReasonForm(request.POST or None)
    context = {"project": project, "place": "versions", "form": form, "promoted": promoted, "target": target}
    context["standing"] = Promotion.objects.filter(project=project).select_related("version", "by").first()
    if request.method == "GET":
        form.initial["expected"] = promoted.pk if promoted else None
        return render(request, "training/version_rollback.html", context)
    if not form.is_valid():
        return render(request, "training/version_rollback.html", context, status=422)
    if promoted and form.cleaned_data["expected"] not in (None, promoted.pk):
        form.add_error(
            None, _("Somebody else promoted %(version)s in the meantime: look again.") % {"version": promoted}
        )
        return render(request, "training/version_rollback.html", context, status=409)
    try:
        promotion = registry.roll_back(project, actor=request.user, reason=form.cleaned_data["reason"])
    except registry.Refused as refused:
        form.add_error(None, str(refused))
        return render(request, "training/version_rollback.html", context, status=409)
    messages.success(request, _("%(version)s is promoted again.") % {"version": promotion.version})
    return redirect("loop", slug)
