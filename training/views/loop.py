"""A project's home: the loop as one picture, and the one sensible next action."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from django.db.models import Count, Q, QuerySet
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_GET

from feedback.access import at_least, get_project
from feedback.agreement import krippendorff_alpha
from feedback.models import Comparison, ComparisonKind, Preference, Project, Role
from rlhf_app.http import Request
from training import headlines
from training.core.configs import KINDS
from training.loop import Action, Facts, gather, next_action
from training.models import ModelVersion, PromotedVersion, Promotion, Review
from training.review import who_judged
from training.templatetags.figures import figure, percent, percent_number, signed

ROUNDS = 8


@dataclass
class Station:
    """One stop of the loop: its number, and in words how good it is."""

    name: str
    number: str
    words: list[str]
    url: str
    state: str = ""
    """done, now, or empty for what is still to come."""


@require_GET
def loop(request: Request, slug: str) -> HttpResponse:
    """Seven stations, the next action, the rounds so far. Annotators have one place to be: judging."""
    project = get_project(request.user, slug)
    if not at_least(project.role, Role.REVIEWER):  # type: ignore[attr-defined]  # set by get_project
        return redirect("judge", slug)
    facts = gather(project)
    action = next_action(facts)
    pointer = (
        PromotedVersion.objects.filter(project=project).select_related("version", "promotion__by").first()
    )
    rounds = rounds_of(project)
    context = {
        "project": project,
        "place": "loop",
        "facts": facts,
        "action": button(project, action),
        "other": button(project, action.other) if action.other else None,
        "reason": action.reason,
        "stations": stations(project, facts, action, pointer),
        "pointer": pointer,
        "promoting_review": promoting_review(pointer.version) if pointer else None,
        "rounds": rounds,
        "chart": review_chart(reviewed(project)),
    }
    return render(request, "training/loop.html", context)


def button(project: Project, action: Action) -> dict[str, Any]:
    url = reverse(action.view, kwargs={"slug": project.slug, **action.args})
    return {
        "label": action.label,
        "url": f"{url}?{action.query}" if action.query else url,
        "allowed": at_least(project.role, action.role),  # type: ignore[attr-defined]  # set by get_project
        "role": action.role.label,
    }


# --- stations ---------------------------------------------------------------------------------------

PLACE_OF = {"import": 0, "write": 1, "judge": 2, "reward_model": 3, "no_version": 4, "ppo": 4, "review": 5}
PLACE_OF |= {"judge_review": 5, "verdict": 5, "promote": 6, "promote_first": 6}
PLACE_OF_STATION = {"completions": 1, "reward_model": 3, "policy": 4}
"""The station at which an action or a run works, counted from 0; those before it are done."""


def place_of(action: Action, facts: Facts) -> int:
    if action.key == "watch" and facts.active_run:
        return PLACE_OF_STATION[KINDS[facts.active_run.kind].station]
    return PLACE_OF[action.key]


def stations(
    project: Project, facts: Facts, action: Action, pointer: PromotedVersion | None
) -> list[Station]:
    now = place_of(action, facts)
    found = [
        prompts_station(project, facts),
        completions_station(project, facts),
        judgements_station(project, facts),
        reward_model_station(project, facts),
        policy_station(project),
        review_station(project, facts),
        promoted_station(project, pointer),
    ]
    for place, station in enumerate(found):
        station.state = "done" if place < now else "now" if place == now else ""
    return found


def prompts_station(project: Project, facts: Facts) -> Station:
    words = [_("%(count)s set aside") % {"count": figure(facts.held_out)}] if facts.held_out else []
    return Station(_("Prompts"), figure(facts.prompts), words, reverse("data", args=[project.slug]))


def completions_station(project: Project, facts: Facts) -> Station:
    words = []
    if facts.promoted:
        words = [
            ngettext(
                "%(version)s is in %(count)s comparison",
                "%(version)s is in %(count)s comparisons",
                facts.promoted_compared,
            )
            % {"version": facts.promoted.name, "count": figure(facts.promoted_compared)}
        ]
    return Station(_("Completions"), figure(facts.completions), words, reverse("data", args=[project.slug]))


def judgements_station(project: Project, facts: Facts) -> Station:
    words = []
    if facts.people or not facts.judgements:
        words.append(_("%(count)s by people") % {"count": figure(facts.people)})
    agreed = agreement_of_people(project)
    if agreed is not None:
        words.append(_("agreement α %(alpha)s") % {"alpha": f"{agreed:.2f}"})
    if facts.simulated:
        words.append(_("%(count)s simulated") % {"count": figure(facts.simulated)})
    if facts.imported:
        words.append(_("%(count)s imported") % {"count": figure(facts.imported)})
    if facts.open:
        words.append(_("%(count)s comparisons open") % {"count": figure(facts.open)})
    return Station(_("Judgements"), figure(facts.judgements), words, reverse("judge", args=[project.slug]))


def agreement_of_people(project: Project) -> float | None:
    """Krippendorff's alpha of the people's pairwise judgements; None while no comparison has two of them."""
    rows = Preference.objects.filter(
        comparison__project=project,
        comparison__purpose=Comparison.Purpose.TRAINING,
        kind=ComparisonKind.PAIRWISE,
        comparison__overlap__gte=2,
    )
    units: dict[int, list[float]] = {}
    for comparison, strength in rows.by_people().current().values_list("comparison", "strength"):
        units.setdefault(comparison, []).append(float(strength or 0))
    return krippendorff_alpha(list(units.values())).value


def newest(project: Project, kind: str) -> ModelVersion | None:
    return ModelVersion.objects.filter(project=project, kind=kind).order_by("-number").first()


def reward_model_station(project: Project, facts: Facts) -> Station:
    version = newest(project, ModelVersion.Kind.REWARD)
    if version is None:
        return Station(_("Reward model"), "–", [_("none yet")], reverse("version_list", args=[project.slug]))
    words = [str(version)]
    known = headlines.accuracy(version)
    if known and known.low is not None:
        words.append(
            _("%(low)s to %(high)s %% of held-out pairs")
            % {"low": percent_number(known.low), "high": percent_number(known.high)}
        )
    if facts.fresh:
        newer = _("%(count)s judgements newer")
        if facts.fresh_simulated:
            newer = _("%(count)s judgements newer, %(simulated)s of them simulated")
        words.append(newer % {"count": figure(facts.fresh), "simulated": figure(facts.fresh_simulated)})
    url = reverse("version_detail", args=[project.slug, version.pk])
    return Station(_("Reward model"), percent(known.value) if known else str(version), words, url)


def policy_station(project: Project) -> Station:
    version = newest(project, ModelVersion.Kind.POLICY)
    if version is None:
        words = [_("none trained yet")]
        return Station(_("Policy"), "–", words, reverse("version_list", args=[project.slug]))
    earned = headlines.reward(version)
    words = [str(version)]
    if earned and earned.kl is not None:
        words = [_("reward of %(version)s at KL %(kl)s") % {"version": version, "kl": figure(earned.kl)}]
    url = reverse("version_detail", args=[project.slug, version.pk])
    return Station(_("Policy"), signed(earned.mean) if earned else str(version), words, url)


def review_station(project: Project, facts: Facts) -> Station:
    review = Review.objects.filter(project=project).select_related("candidate", "baseline").first()
    if review is None:
        return Station(_("Review"), "–", [_("none yet")], reverse("version_list", args=[project.slug]))
    words = [str(review)]
    number = "–"
    if review.state == Review.State.CLOSED and "win_rate" in review.verdict:
        number = percent(review.verdict["win_rate"])
        words.append(
            _("%(low)s to %(high)s %%")
            % {
                "low": percent_number(review.verdict["low"]),
                "high": percent_number(review.verdict["high"]),
            }
        )
        marks = {"people": [], "simulated": [_("simulated")], "both": [_("partly simulated")]}
        words += marks[who_judged(review.verdict)]
    elif facts.review and facts.review.pk == review.pk and review.state == Review.State.JUDGING:
        number = f"{figure(facts.review.judged)}/{figure(facts.review.planned)}"
    else:
        words.append(review.get_state_display().lower())
    url = reverse("review_detail", args=[project.slug, review.pk])
    return Station(_("Review"), number, words, url)


def promoted_station(project: Project, pointer: PromotedVersion | None) -> Station:
    if pointer is None:
        return Station(_("Promoted"), "–", [_("none yet")], reverse("version_list", args=[project.slug]))
    since = date_format(pointer.promotion.at, "j M")
    by = pointer.promotion.by
    words = (
        _("since %(day)s by %(who)s") % {"day": since, "who": by}
        if by
        else _("since %(day)s") % {"day": since}
    )
    url = reverse("version_detail", args=[project.slug, pointer.version.pk])
    return Station(_("Promoted"), str(pointer.version), [words], url)


# --- what came of it --------------------------------------------------------------------------------


def promoting_review(version: ModelVersion) -> Review | None:
    """The closed review that spoke for a version, for the line below the heading."""
    found = Review.objects.filter(candidate=version, state=Review.State.CLOSED, verdict__has_key="win_rate")
    return found.select_related("baseline").first()


@dataclass(frozen=True)
class Round:
    """What happened between two promotions."""

    number: int
    judged: int
    simulated: int
    """How many of these were simulated annotators' judgements."""
    accuracy: headlines.Accuracy | None
    review: Review | None
    promoted: ModelVersion | None
    """The version whose promotion ended the round; None in the one that goes on."""
    rolled_back: bool


def rounds_of(project: Project) -> list[Round]:
    """The newest rounds first: each begins with a promotion and ends with the next one."""
    promotions = list(Promotion.objects.filter(project=project).select_related("version").order_by("pk"))
    forward = [promotion for promotion in promotions if not promotion.roll_back]
    withdrawn = {promotion.previous_id for promotion in promotions if promotion.roll_back}
    ends = [*forward[1:], None]
    starts = [None, *(promotion.at for promotion in forward[1:])]
    numbered = list(enumerate(zip(starts, ends, strict=True), start=1))[-ROUNDS:]
    spans = {number: _between(start, end.at if end else None) for number, (start, end) in numbered}
    judged = Preference.objects.filter(
        comparison__project=project, comparison__purpose=Comparison.Purpose.TRAINING
    )
    counts = judged.current().aggregate(
        **{f"round_{number}": Count("pk", filter=span) for number, span in spans.items()},
        **{f"sim_{number}": Count("pk", filter=span & Q(simulated=True)) for number, span in spans.items()},
    )
    rewards = ModelVersion.objects.filter(project=project, kind=ModelVersion.Kind.REWARD).order_by("number")
    reviews = Review.objects.filter(project=project, state=Review.State.CLOSED).order_by("pk")
    rounds = []
    for number, (start, end) in reversed(numbered):
        until = end.at if end else None
        rounds.append(
            Round(
                number=number,
                judged=counts[f"round_{number}"],
                simulated=counts[f"sim_{number}"],
                accuracy=headlines.accuracy(last_within(rewards, start, until)),
                review=last_within(reviews, start, until),
                promoted=end.version if end else None,
                rolled_back=end is not None and end.version_id in withdrawn,
            )
        )
    return rounds


def _between(start: datetime | None, end: datetime | None) -> Q:
    span = Q(created_at__gt=start) if start else Q(created_at__isnull=False)
    return span & Q(created_at__lte=end) if end else span


M = TypeVar("M", ModelVersion, Review)


def last_within(rows: QuerySet[M], start: datetime | None, end: datetime | None) -> M | None:
    """The newest row created in a span; the rows are few and are read once."""
    found = None
    for row in rows:
        if (not start or row.created_at > start) and (not end or row.created_at <= end):
            found = row
    return found


@dataclass(frozen=True)
class Point:
    """A closed review in the chart; places in the units of its view box."""

    review: Review
    reward: headlines.Reward | None
    name: str
    simulated: bool
    x: float
    rate: float
    low: float
    high: float


WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 640, 226, 48, 12, 182


def review_chart(reviews: list[Review]) -> dict[str, Any] | None:
    """Win rates with their intervals, one review beside the other, on a scale from 0 to 100 %."""
    if not reviews:
        return None
    newest = reviews[-1]
    step = (WIDTH - LEFT - 20) / len(reviews)

    def height(share: float) -> float:
        return round(BOTTOM - share * (BOTTOM - TOP), 1)

    points = [
        Point(
            review=review,
            reward=headlines.reward(review.candidate),
            name=str(review.candidate),
            simulated=bool(review.verdict.get("simulated")),
            x=round(LEFT + step * (place + 0.5), 1),
            rate=height(review.verdict["win_rate"]),
            low=height(review.verdict["low"]),
            high=height(review.verdict["high"]),
        )
        for place, review in enumerate(reviews)
    ]
    right = WIDTH - 20
    return {
        "points": points,
        "width": WIDTH,
        "height": HEIGHT,
        "right": right,
        "better": newest.verdict["better"],
        "judges": who_judged(newest.verdict),
    }


def reviewed(project: Project) -> list[Review]:
    """Closed reviews with a win rate, oldest first: did people like what the reward model likes?"""
    found = Review.objects.filter(project=project, state=Review.State.CLOSED, verdict__has_key="win_rate")
    return list(found.select_related("candidate", "baseline").order_by("-pk")[:ROUNDS])[::-1]
