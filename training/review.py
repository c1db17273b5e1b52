"""Blind review of two versions: plan the sample before looking, put up comparisons, read the verdict.

Both versions complete the same prompts; where their texts differ, people compare them through the same queue
as any other comparison, without learning which version wrote what. The plan is fixed when the review starts,
and no result is shown before the planned judgements are in, so nobody can stop at a lucky moment unseen.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.db import transaction
from django.db.models import Count
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback.models import AuditEntry, Comparison, Completion, Preference, Project, Prompt, User
from feedback.putting_up import create_comparisons
from training import sampled, snapshots
from training.launch import LARGEST_TYPED_SEED, Input, default_versions, launch
from training.models import ModelVersion, Review, ReviewItem, Run
from training.statistics import win_rate

SPLITS = (Prompt.Split.REVIEW, Prompt.Split.HELD_OUT, Prompt.Split.TRAIN)
"""Prompts that no version was optimised on are taken first."""
NOT_FOR_REVIEWS = (Prompt.Split.HELD_OUT, Prompt.Split.TRAIN)
PRIORITY = 10
"""Review comparisons come before training ones in the queue."""


class Progress(NamedTuple):
    """Judgements in, and judgements planned; prompts with equal texts need none."""

    judged: int
    planned: int
    same_text: int

    @property
    def complete(self) -> bool:
        return self.judged >= self.planned


# --- plan -------------------------------------------------------------------------------------------


def plan(
    project: Project,
    candidate: ModelVersion,
    baseline: ModelVersion,
    *,
    actor: User | None,
    prompts: int = 100,
    overlap: int = 1,
    temperature: float = 1.0,
    max_new_tokens: int = 64,
    seed: int = 0,
) -> Review:
    """Fix the plan and start the two `sample` runs that write the completions.

    Raises NothingToFreeze without prompts, and ConfigError for versions or settings that no run accepts.
    """
    chosen, split_counts = _choose_prompts(project, prompts, seed, unread=(candidate, baseline))
    filter = {"review_of": [candidate.pk, baseline.pk], "seed": seed}
    frozen = snapshots.freeze_prompt_ids(project, chosen, actor=actor, filter=filter)
    scorer = _scorer(project, candidate, baseline)
    config = {"completions_per_prompt": 1, "temperature": temperature, "max_new_tokens": max_new_tokens}
    with transaction.atomic():
        review = Review.objects.create(
            project=project,
            candidate=candidate,
            baseline=baseline,
            created_by=actor,
            plan={
                "prompts": len(chosen),
                "prompts_from": split_counts,
                "snapshot": frozen.pk,
                "overlap": overlap,
                "temperature": temperature,
                "max_new_tokens": max_new_tokens,
                "seed": seed,
                "metric": "win_rate",
            },
        )
        for role, version in (("candidate", candidate), ("baseline", baseline)):
            launch(
                project,
                "sample",
                config,
                actor=actor,
                seed=_seed_of(review, role),
                inputs={"policy": version, "prompts": frozen, **scorer},
                purpose={"review": review.pk, "role": role},
            )
        AuditEntry.record(actor, "review.plan", review, candidate=str(candidate), baseline=str(baseline))
    return review


def _seed_of(review: Review, role: str) -> int:
    """A seed that nobody types: else a run of the same prompts could write the very texts, and under a name.

    Each version has its own, so that they draw independently, as they would for two people asking.
    """
    digest = hashlib.sha256(f"review {review.pk} {review.plan['seed']}".encode()).digest()
    drawn = int.from_bytes(digest[:4], "big") % 2**30
    return LARGEST_TYPED_SEED + 1 + (drawn ^ (role == "baseline"))


def _scorer(project: Project, *versions: ModelVersion) -> dict[str, ModelVersion]:
    """The newest reward model, if it grew from the same base as these versions: then it reads their tokens.

    Its scores stand beside the verdict; judges never see them.
    """
    reward_model = default_versions(project, "sample").get("reward_model")
    if reward_model is None or len({_root(version).pk for version in (reward_model, *versions)}) > 1:
        return {}
    return {"reward_model": reward_model}


def _root(version: ModelVersion) -> ModelVersion:
    while version.parent is not None:
        version = version.parent
    return version


def _choose_prompts(
    project: Project,
    wanted: int,
    seed: int,
    splits: Sequence[str] = SPLITS,
    *,
    unread: Sequence[ModelVersion] = (),
) -> tuple[list[int], dict[str, int]]:
    """Prompt ids in the order drawn by `seed`, those of the first split first; the count of each split.

    Of a split, prompts that no version in `unread` has completed come first: there is nothing to have read.
    """
    completed = set(Completion.objects.filter(model_version__in=unread).values_list("prompt", flat=True))
    chosen = Prompt.objects.filter(project=project, split__in=splits)
    rows = chosen.values_list("pk", "content_hash", "split")

    def place(row: tuple[int, str, str]) -> tuple[int, bool, str]:
        pk, content_hash, split = row
        return splits.index(split), pk in completed, snapshots.drawn_order(content_hash, seed)

    ordered = sorted(rows, key=place)[:wanted]
    counts = {str(split): sum(row[2] == split for row in ordered) for split in SPLITS}
    return [row[0] for row in ordered], counts


# --- beside each other, without a review -------------------------------------------------------------

COMPARED = 60
"""Prompts that two versions complete to be read side by side."""


def write_missing(project: Project, *versions: ModelVersion, actor: User | None) -> list[Run]:
    """Let each version complete those of some prompts that it has not completed yet.

    Prompts that are set aside for reviews are not among them: who reads completions under a version's name
    cannot judge them blind any more. Raises NothingToFreeze in a project without other prompts.
    """
    chosen, _split_counts = _choose_prompts(project, COMPARED, 0, NOT_FOR_REVIEWS)
    if not chosen:
        raise snapshots.NothingToFreeze(
            _("There are no prompts but those set aside for reviews: import some for training, or held out.")
        )
    scorer = _scorer(project, *versions)
    runs = []
    for version in versions:
        written = Completion.objects.filter(model_version=version, prompt__in=chosen)
        done = set(written.values_list("prompt", flat=True))
        missing = [pk for pk in chosen if pk not in done]
        if missing:
            filter = {"missing_for": version.pk}
            frozen = snapshots.freeze_prompt_ids(project, missing, actor=actor, filter=filter)
            inputs: dict[str, Input] = {"policy": version, "prompts": frozen, **scorer}
            runs.append(launch(project, "sample", {"completions_per_prompt": 1}, actor=actor, inputs=inputs))
    return runs


# --- put up -----------------------------------------------------------------------------------------


def advance(review: Review) -> Review:
    """Put up the comparisons once both runs are done; call it as often as you like."""
    if review.state != Review.State.SAMPLING:
        return review
    runs = {run.purpose["role"]: run for run in _runs(review)}
    if any(run.state in (Run.State.FAILED, Run.State.CANCELLED) for run in runs.values()):
        Review.objects.filter(pk=review.pk, state=Review.State.SAMPLING).update(
            state=Review.State.FAILED, closed_at=timezone.now()
        )
    elif len(runs) == 2 and all(run.state == Run.State.DONE for run in runs.values()):
        _put_up(review, runs["candidate"], runs["baseline"])
    review.refresh_from_db()
    return review


def advance_all() -> None:
    for review in Review.objects.filter(state=Review.State.SAMPLING):
        advance(review)


def _runs(review: Review) -> list[Run]:
    return list(Run.objects.filter(project=review.project_id, kind="sample", purpose__review=review.pk))


def _put_up(review: Review, candidate_run: Run, baseline_run: Run) -> None:
    """Rows and comparisons appear together: there is no moment in which a text can be read under a name."""
    with transaction.atomic():
        sampling = Review.objects.filter(pk=review.pk, state=Review.State.SAMPLING)
        if not list(sampling.select_for_update().values_list("pk")):
            return  # somebody put them up just now
        candidates = sampled.completions_of(candidate_run)
        baselines = sampled.completions_of(baseline_run)
        both = [
            (pk, candidates[pk][0], baselines[pk][0]) for pk in sorted(candidates.keys() & baselines.keys())
        ]
        differing = [row for row in both if row[1].text != row[2].text]
        facts = {"comparisons": len(differing), "same_text": len(both) - len(differing)}
        sampling.update(state=Review.State.JUDGING, plan={**review.plan, **facts})
        _compare(review, differing)


def _compare(review: Review, texts: list[tuple[int, Completion, Completion]]) -> None:
    """The comparisons of (prompt id, the candidate's completion, the baseline's), canonical order drawn."""
    draw = random.Random(review.plan["seed"])
    planned: list[tuple[Comparison, list[Completion]]] = []
    items: list[ReviewItem] = []
    for prompt_id, ours, theirs in texts:
        comparison = Comparison(
            project_id=review.project_id,
            prompt_id=prompt_id,
            purpose=Comparison.Purpose.REVIEW,
            overlap=review.plan["overlap"],
            priority=PRIORITY,
        )
        planned.append((comparison, [ours, theirs] if draw.random() < 0.5 else [theirs, ours]))
        items.append(
            ReviewItem(
                review=review, comparison=comparison, candidate_completion=ours, baseline_completion=theirs
            )
        )
    create_comparisons(planned)
    ReviewItem.objects.bulk_create(items)


# --- read -------------------------------------------------------------------------------------------


def progress(review: Review) -> Progress:
    overlap = review.plan["overlap"]
    planned = review.plan.get("comparisons", review.plan["prompts"]) * overlap
    # A late extra judgement of one comparison does not stand for a missing one of another.
    counts = _judgements(review).values_list("comparison").annotate(n=Count("pk"))
    judged = sum(min(n, overlap) for _comparison, n in counts)
    return Progress(judged, planned, review.plan.get("same_text", 0))


def _judgements(review: Review) -> Any:
    return Preference.objects.filter(comparison__review_item__review=review).current()


def verdict(review: Review) -> dict[str, Any]:
    """The verdict of a closed review or of one whose judgements are all in; until then only the count.

    Keys: words, complete, judged, planned; once complete also win_rate, low, high (shares of prompts, ties
    count half, 95 % prompt-clustered t interval), wins, ties, losses, neither (judgements), same_text,
    prompts, simulated (judgements by simulated annotators), better: True, False or None for no evidence.
    """
    if review.state == Review.State.CLOSED:
        return dict(review.verdict)
    if review.state == Review.State.FAILED:
        return {"words": _("The completions could not be written."), "complete": False}
    if review.state == Review.State.SAMPLING:
        return {"words": _("The versions are writing their completions."), "complete": False}
    done = progress(review)
    if not done.complete:
        words = _("%(judged)d of %(planned)d judged") % {"judged": done.judged, "planned": done.planned}
        return {"words": words, "complete": False, "judged": done.judged, "planned": done.planned}
    return compute(review)


def compute(review: Review) -> dict[str, Any]:
    """Wins, ties, losses and the win rate of the judgements that are in."""
    done = progress(review)
    tally = {"wins": 0, "ties": 0, "losses": 0, "neither": 0, "simulated": 0}
    scores: dict[int, list[float]] = {-place - 1: [0.5] for place in range(done.same_text)}
    items = {item.comparison_id: item for item in ReviewItem.objects.filter(review=review)}
    judgements = _judgements(review).prefetch_related("comparison__candidates")
    for preference in judgements.order_by("pk"):
        score = score_of(preference, items[preference.comparison_id])
        scores.setdefault(preference.comparison_id, []).append(score)
        tally["wins" if score == 1.0 else "losses" if score == 0.0 else "ties"] += 1
        tally["neither"] += preference.acceptability == Preference.Acceptability.NEITHER
        tally["simulated"] += preference.simulated
    rate = win_rate(scores)
    better = True if rate.low > 0.5 else False if rate.high < 0.5 else None
    facts = {
        **tally,
        "win_rate": rate.mean,
        "low": rate.low,
        "high": rate.high,
        "better": better,
        "prompts": len(scores),
        "same_text": done.same_text,
        "judged": done.judged,
        "planned": done.planned,
        "complete": done.complete,
    }
    return {**facts, "words": _words(review, facts)}


def score_of(preference: Preference, item: ReviewItem) -> float:
    """1 when the candidate's completion was preferred, 0 when the baseline's was, 0.5 for a tie."""
    if not preference.strength:
        return 0.5
    candidates = list(preference.comparison.candidates.all())
    preferred = candidates[1 if preference.strength > 0 else 0]
    return float(preferred.completion_id == item.candidate_completion_id)


def who_judged(verdict: dict[str, Any]) -> str:
    """Whose judgements a verdict counts: of "people", of "simulated" annotators alone, or of "both"."""
    simulated = verdict.get("simulated", 0)
    everybody = sum(verdict.get(name, 0) for name in ("wins", "ties", "losses"))
    return "people" if not simulated else "simulated" if simulated == everybody else "both"


def _words(review: Review, facts: dict[str, Any]) -> str:
    if facts["judged"] == 0 and facts["same_text"] == 0:
        return _("closed without a judgement")
    judges = {
        "people": _("people prefer"),
        "simulated": _("simulated annotators prefer"),
        "both": _("people and simulated annotators prefer"),
    }[who_judged(facts)]
    head = {True: _("better"), False: _("worse"), None: _("no evidence of a difference")}[facts["better"]]
    words = _(
        "%(head)s: %(judges)s %(version)s in %(rate)d %% of %(prompts)d blind comparisons"
        " (%(low)d to %(high)d)"
    ) % {
        "head": head,
        "judges": judges,
        "version": review.candidate,
        "rate": round(100 * facts["win_rate"]),
        "prompts": facts["prompts"],
        "low": round(100 * facts["low"]),
        "high": round(100 * facts["high"]),
    }
    if facts["ties"] or facts["same_text"]:
        words += _(", ties counted as half")
    if not facts["complete"]:
        words += _("; closed early after %(judged)d of %(planned)d judgements") % facts
    return words


# --- close ------------------------------------------------------------------------------------------


def close(review: Review, *, actor: User | None) -> Review:
    """Write the verdict down and take its comparisons back; closing early is part of the verdict."""
    with transaction.atomic():
        judging = Review.objects.filter(pk=review.pk, state=Review.State.JUDGING)
        if judging.update(state=Review.State.CLOSED):
            # All of them, the judged too: an undo afterwards would contradict the verdict that is written.
            Comparison.objects.filter(review_item__review=review).update(state=Comparison.State.WITHDRAWN)
            facts = compute(review)
            # Their locks are held by now: what the verdict counts is older than this, and all else is newer.
            Review.objects.filter(pk=review.pk).update(verdict=facts, closed_at=timezone.now())
            AuditEntry.record(
                actor, "review.close", review, words=facts["words"], early=not facts["complete"]
            )
    review.refresh_from_db()
    return review
