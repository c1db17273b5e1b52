"""Where a project stands in its loop, and the one sensible next action."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from django.db.models import Count, Q
from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from feedback.models import Comparison, ComparisonKind, Completion, Preference, Project, Prompt, Role
from training import review as reviews
from training.models import ModelVersion, PromotedVersion, Review, Run, RunInput
from training.snapshots import MINIMUM_PAIRS

DECIDED = (
    (Q(kind=ComparisonKind.PAIRWISE) & ~Q(strength=0))
    | Q(kind=ComparisonKind.RANKING)
    | Q(kind=ComparisonKind.RATING, ratings__1__isnull=False)
    | Q(corrects__isnull=False)
)
"""Judgements that say of two texts which is better; a ranking or rating that ties all is counted too."""
ENOUGH = 100
"""New judgements that make another reward model worth its time."""


class Named(NamedTuple):
    """A row that an action points to; of a run also its kind."""

    pk: int
    name: str
    kind: str = ""


class ReviewFacts(NamedTuple):
    """The newest review of the candidate beside the promoted version."""

    pk: int
    state: str
    complete: bool
    judged: int
    planned: int
    better: bool | None
    judges: str = "people"
    """Of a closed one: whose judgements it counts, see `review.who_judged`."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the next action depends on; judgements are those in force on training comparisons."""

    prompts: int = 0
    held_out: int = 0
    completions: int = 0
    open: int = 0
    """Training comparisons that wait for a judgement."""
    people: int = 0
    simulated: int = 0
    imported: int = 0
    fresh: int = 0
    """Judgements that came after the newest reward model's data were frozen."""
    fresh_simulated: int = 0
    decided: int = 0
    """Judgements that are no ties: what a reward model can be trained on."""
    newest: Named | None = None
    promoted: Named | None = None
    promoted_compared: int = 0
    """Training comparisons of completions by the promoted version."""
    reward_model: Named | None = None
    reward_model_used: bool = False
    candidate: Named | None = None
    """The newest policy, when it came after the last promotion and nobody promoted it yet."""
    rolled_back: Named | None = None
    """The version that the last promotion, a roll-back, withdrew."""
    review: ReviewFacts | None = None
    active_run: Named | None = None
    failed_run: Named | None = None
    """The newest run, if it failed."""

    @property
    def judgements(self) -> int:
        return self.people + self.simulated + self.imported


@dataclass(frozen=True)
class Action:
    """A thing to do: its button, why it comes next, the page, and the least role that may do it."""

    key: str
    label: str
    reason: str
    view: str
    args: dict[str, Any] = field(default_factory=dict)
    query: str = ""
    role: Role = Role.ENGINEER
    other: Action | None = None


# --- what to do next --------------------------------------------------------------------------------


def next_action(facts: Facts) -> Action:
    """The one sensible next action; the order of the steps is the order of the loop."""
    for step in (_prepare, _wait, _decide, _optimise, _learn, _judge):
        if action := step(facts):
            break
    else:
        action = _write(facts)
    return _after_failure(action, facts.failed_run) if facts.failed_run else action


def _after_failure(action: Action, run: Named) -> Action:
    """A failed run bars nothing: mostly its step is simply the next one again."""
    words = _("%(run)s failed; its page says why and what mends it.") % {"run": run.name}
    page = Action("failed", _("See what happened"), "", "run_detail", {"pk": run.pk}, role=Role.REVIEWER)
    return replace(action, reason=f"{words} {action.reason}", other=page)


def _prepare(facts: Facts) -> Action | None:
    if not facts.prompts:
        reason = _(
            "A loop begins with prompts. Import a file of prompts, or of preferences judged elsewhere."
        )
        return Action("import", _("Import prompts"), reason, "import_upload")
    if facts.newest is None:
        reason = _("There is no model version yet. An administrator of this machine registers the first one.")
        return Action("no_version", _("Versions"), reason, "version_list", role=Role.REVIEWER)
    if facts.promoted is None:
        reason = _("%(version)s waits to be promoted: the promoted version writes the completions.")
        return Action(
            "promote_first",
            _("Promote %(version)s") % {"version": facts.newest.name},
            reason % {"version": facts.newest.name},
            "version_promote",
            {"pk": facts.newest.pk},
            role=Role.ADMIN,
        )
    return None


def _wait(facts: Facts) -> Action | None:
    if facts.active_run:
        reason = _("%(run)s is at work. Its page shows how it goes.") % {"run": facts.active_run.name}
        other = _judge_anyway() if facts.open else None
        args = {"pk": facts.active_run.pk}
        return Action("watch", _("Watch it"), reason, "run_detail", args, role=Role.REVIEWER, other=other)
    return None


def _decide(facts: Facts) -> Action | None:
    candidate, promoted, review = facts.candidate, facts.promoted, facts.review
    if candidate is None or promoted is None:
        return None
    names = {"candidate": candidate.name, "promoted": promoted.name}
    if review is None:
        reason = _("Nobody has compared %(candidate)s with %(promoted)s without knowing which is which.")
        label = _("Review %(candidate)s") % names
        query = f"candidate={candidate.pk}&baseline={promoted.pk}"
        other = _compare(candidate, promoted)
        return Action("review", label, reason % names, "review_create", query=query, other=other)
    if review.state != Review.State.CLOSED:
        return _go_on_with(review, names)
    if not review.better:
        return None
    reason = _("%(candidate)s is better than %(promoted)s: promote it, and it writes the next completions.")
    reason = reason % names + _by_whom(review)
    label = _("Promote %(candidate)s") % names
    args, other = {"pk": candidate.pk}, _compare(candidate, promoted)
    return Action("promote", label, reason, "version_promote", args, role=Role.ADMIN, other=other)


def _by_whom(review: ReviewFacts) -> str:
    """A sentence more where a verdict is not, or not only, that of people."""
    return {
        "people": "",
        "simulated": " " + _("Only simulated annotators judged that; nobody has asked people."),
        "both": " " + _("Simulated annotators judged a part of that."),
    }[review.judges]


def _go_on_with(review: ReviewFacts, names: dict[str, str]) -> Action:
    """What an open review waits for."""
    page = Action("verdict", _("The review"), "", "review_detail", {"pk": review.pk}, role=Role.REVIEWER)
    if review.state == Review.State.SAMPLING:
        reason = _("Both versions write the completions that the review of %(candidate)s compares.")
        return replace(page, reason=reason % names)
    if review.complete:
        reason = _(
            "All blind comparisons of %(candidate)s are judged: read the verdict and close the review."
        )
        return replace(page, label=_("Read the verdict"), reason=reason % names)
    reason = _("%(judged)d of %(planned)d blind judgements of %(candidate)s are in.")
    reason %= {**names, "judged": review.judged, "planned": review.planned}
    return Action("judge_review", _("Judge"), reason, "judge", role=Role.ANNOTATOR, other=page)


def _optimise(facts: Facts) -> Action | None:
    if facts.reward_model is None or facts.reward_model_used:
        return None
    reason = _("No policy has learned from %(reward_model)s yet.") % {"reward_model": facts.reward_model.name}
    other = _judge_anyway() if facts.open else None
    return Action("ppo", _("Optimise the policy"), reason, "run_launch", {"kind": "ppo"}, other=other)


def _learn(facts: Facts) -> Action | None:
    if facts.decided < MINIMUM_PAIRS or not facts.fresh:
        return None
    if facts.fresh >= ENOUGH:
        reason = _("%(fresh)d judgements are new since the last reward model.")
    elif not facts.open:
        reason = _("All comparisons are judged; %(fresh)d judgements are new.")
    else:
        return None
    if facts.reward_model is None:
        reason = _("%(fresh)d judgements are there: enough for a first reward model.")
    other = _judge_anyway() if facts.open else None
    return Action(
        "reward_model",
        _("Train a reward model"),
        _kept(facts) + reason % {"fresh": facts.fresh} + _of_them_simulated(facts),
        "run_launch",
        {"kind": "reward_model"},
        other=other,
    )


def _of_them_simulated(facts: Facts) -> str:
    simulated = facts.fresh_simulated
    words = ngettext("%(n)d of them is simulated.", "%(n)d of them are simulated.", simulated)
    return " " + words % {"n": simulated} if simulated else ""


def _judge(facts: Facts) -> Action | None:
    if not facts.open or (not facts.promoted_compared and facts.promoted and facts.reward_model):
        return None
    train = Action("train_anyway", _("Train now anyway"), "", "run_launch", {"kind": "reward_model"})
    other = train if facts.fresh and facts.decided >= MINIMUM_PAIRS else None
    reason = _kept(facts) + _why_judge(facts)
    return Action("judge", _("Judge"), reason, "judge", role=Role.ANNOTATOR, other=other)


def _why_judge(facts: Facts) -> str:
    """How many judgements are still wanted; beside a reward model, what it has learned from is not new."""
    missing = max(1, ENOUGH - facts.fresh)
    if facts.reward_model is None:
        wanted = min(missing, facts.open)
        words = ngettext(
            "%(n)d more judgement, then a reward model can learn from them.",
            "%(n)d more judgements, then a reward model can learn from them.",
            wanted,
        )
        return words % {"n": wanted}
    words = _("Of %(all)d judgements %(fresh)d are new since %(reward_model)s.")
    there = words % {
        "all": facts.judgements,
        "fresh": facts.fresh,
        "reward_model": facts.reward_model.name,
    }
    if facts.open < missing:
        words = ngettext("%(n)d comparison is still open.", "%(n)d comparisons are still open.", facts.open)
        return f"{there} {words % {'n': facts.open}}"
    words = ngettext(
        "%(n)d more judgement makes another reward model worth its time.",
        "%(n)d more judgements make another reward model worth its time.",
        missing,
    )
    return f"{there} {words % {'n': missing}}"


def _write(facts: Facts) -> Action:
    assert facts.promoted is not None  # _prepare came first
    if facts.promoted_compared:
        reason = _("Everything %(version)s wrote is judged.") % {"version": facts.promoted.name}
    else:
        reason = _("%(version)s has written nothing to judge yet. Judgements of its own texts teach it most.")
        reason %= {"version": facts.promoted.name}
    other = _judge_anyway() if facts.open else None
    return Action(
        "write", _("Write completions"), _kept(facts) + reason, "run_launch", {"kind": "sample"}, other=other
    )


def _judge_anyway() -> Action:
    return Action("judge_anyway", _("Judge"), "", "judge", role=Role.ANNOTATOR)


def _compare(candidate: Named, promoted: Named) -> Action:
    query = f"a={promoted.pk}&b={candidate.pk}"
    return Action("compare", _("Side by side"), "", "version_compare", query=query, role=Role.REVIEWER)


def _kept(facts: Facts) -> str:
    """What became of a version that was rolled back, or of a candidate that is not found better."""
    if facts.rolled_back and facts.promoted and facts.candidate is None:
        names = {"withdrawn": facts.rolled_back.name, "promoted": facts.promoted.name}
        return _("%(withdrawn)s was rolled back, %(promoted)s stands again.") % names + " "
    if facts.candidate is None or facts.promoted is None or facts.review is None:
        return ""
    names = {"candidate": facts.candidate.name, "promoted": facts.promoted.name}
    if facts.review.better is False:
        words = _("%(candidate)s is worse than %(promoted)s, which stays.")
    else:
        words = _("%(candidate)s is not shown to be better than %(promoted)s, which stays.")
    return words % names + _by_whom(facts.review) + " "


# --- what is there ----------------------------------------------------------------------------------


def gather(project: Project) -> Facts:
    """The facts of a project, in a fixed number of queries."""
    versions = ModelVersion.objects.filter(project=project)
    policies = versions.exclude(kind=ModelVersion.Kind.REWARD).order_by("-number")
    newest = policies.filter(state=ModelVersion.State.READY).first()
    reward = versions.filter(kind=ModelVersion.Kind.REWARD).order_by("-number").first()
    pointer = (
        PromotedVersion.objects.filter(project=project)
        .select_related("version", "promotion__previous")
        .first()
    )
    promoted = pointer.version if pointer else None
    candidate = None
    if pointer:
        later = policies.filter(kind=ModelVersion.Kind.POLICY, created_at__gt=pointer.promotion.at)
        candidate = later.filter(promotions=None, state=ModelVersion.State.READY).first()
    runs = Run.objects.filter(project=project)
    last = runs.first()
    active = runs.filter(state__in=(Run.State.RUNNING, Run.State.QUEUED)).order_by("-state", "id").first()
    review = _review_facts(candidate, promoted)
    completions = Completion.objects.filter(prompt__project=project)
    waiting = Comparison.objects.filter(project=project, purpose=Comparison.Purpose.TRAINING)
    return Facts(
        **Prompt.objects.filter(project=project).aggregate(
            prompts=Count("pk"), held_out=Count("pk", filter=~Q(split=Prompt.Split.TRAIN))
        ),
        completions=completions.count(),
        open=waiting.open().count(),
        **count_judgements(project, since=frozen_at(reward)),
        newest=_named(newest),
        promoted=_named(promoted),
        promoted_compared=waiting.filter(completions__model_version=promoted).distinct().count()
        if promoted
        else 0,
        reward_model=_named(reward),
        reward_model_used=reward is not None
        and reward.used_by.filter(name="reward_model", run__state=Run.State.DONE)
        .exclude(run__kind="sample")
        .exists(),
        candidate=_named(candidate),
        rolled_back=_named(pointer.promotion.previous) if pointer and pointer.promotion.roll_back else None,
        review=review,
        active_run=Named(active.pk, active.title, active.kind) if active else None,
        failed_run=Named(last.pk, last.title, last.kind) if last and last.state == Run.State.FAILED else None,
    )


def _named(version: ModelVersion | None) -> Named | None:
    return Named(version.pk, str(version)) if version else None


def frozen_at(reward_model: ModelVersion | None) -> datetime | None:
    """When the preferences that this reward model learned from were frozen."""
    if reward_model is None:
        return None
    read = (
        RunInput.objects.filter(run=reward_model.run_id, name="snapshot").select_related("snapshot").first()
    )
    return read.snapshot.created_at if read and read.snapshot else reward_model.created_at


def count_judgements(project: Project, *, since: datetime | None) -> dict[str, int]:
    """Judgements on training comparisons that train, by who gave them; `fresh` are those after `since`.

    A reviewer's decision is one of them, and what it overrules is none, but for a correction: see `pairs()`.
    """
    found = Preference.objects.filter(
        comparison__project=project, comparison__purpose=Comparison.Purpose.TRAINING
    ).deciding()
    found = found.exclude(overruled=True, corrects=None)  # type: ignore[misc]  # deciding() brings it
    after = Q(created_at__gt=since) if since else Q()
    counted = found.aggregate(
        n_people=Count("pk", filter=Q(simulated=False, imported=False)),
        n_simulated=Count("pk", filter=Q(simulated=True)),
        n_imported=Count("pk", filter=Q(imported=True, simulated=False)),
        n_decided=Count("pk", filter=DECIDED),
        n_fresh=Count("pk", filter=after),
        n_fresh_simulated=Count("pk", filter=after & Q(simulated=True)),
    )
    return {name.removeprefix("n_"): count for name, count in counted.items()}


def _review_facts(candidate: ModelVersion | None, promoted: ModelVersion | None) -> ReviewFacts | None:
    if candidate is None or promoted is None:
        return None
    found = Review.objects.filter(candidate=candidate, baseline=promoted).exclude(state=Review.State.FAILED)
    review = found.first()
    if review is None:
        return None
    done = reviews.progress(review)
    verdict = review.verdict if review.state == Review.State.CLOSED else {}
    facts = (review.pk, review.state, done.complete, done.judged, done.planned, verdict.get("better"))
    return ReviewFacts(*facts, judges=reviews.who_judged(verdict))
