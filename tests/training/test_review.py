"""Blind review: a plan before looking, blind comparisons, a verdict by prompts, nothing shown half-way."""

from __future__ import annotations

import json
from collections.abc import Callable
from math import isclose
from typing import Any

import pytest

from feedback.models import AuditEntry, Comparison, Completion, Preference, Project, User
from tests import factories
from training import registry, review, supervisor
from training.core import protocol
from training.core.configs import ConfigError
from training.launch import launch
from training.models import ModelVersion, Review, ReviewItem, Run
from training.snapshots import NothingToFreeze

pytestmark = pytest.mark.django_db
Plan = Callable[..., Review]


@pytest.fixture
def plan(project: Project, engineer: User, fake_trainer: None) -> Plan:
    """A planned review of two versions that write texts of their own."""

    def make(prompts: int = 4, **fields: Any) -> Review:
        for _ in range(prompts - project.prompts.count()):
            factories.make_prompt(project=project)
        candidate, baseline = (factories.make_model_version(project=project) for _ in range(2))
        return review.plan(project, candidate, baseline, actor=engineer, prompts=prompts, **fields)

    return make


def sample(planned: Review) -> Review:
    """Let both runs write their completions, by the fake trainer."""
    for run in Run.objects.filter(kind="sample", state="queued"):
        supervisor.supervise(run.pk)
    planned.refresh_from_db()
    return planned


def judge(item: ReviewItem, score: float, **fields: Any) -> Preference:
    """A judgement for the candidate (1), the baseline (0), or a tie (0.5)."""
    position = item.comparison.candidates.get(completion=item.candidate_completion).position
    towards_candidate = 1 if position == 1 else -1
    strength = {1.0: 2 * towards_candidate, 0.0: -2 * towards_candidate, 0.5: 0}[score]
    return factories.make_preference(comparison=item.comparison, strength=strength, **fields)


def test_a_plan_starts_two_runs_on_the_same_prompts(plan: Plan, engineer: User) -> None:
    planned = plan(prompts=3, temperature=0.6, max_new_tokens=20, seed=4)
    runs = {run.purpose["role"]: run for run in Run.objects.all()}
    for role, version in (("candidate", planned.candidate), ("baseline", planned.baseline)):
        run = runs[role]
        assert run.inputs.get(name="policy").model_version == version
        assert (run.config["temperature"], run.config["max_new_tokens"]) == (0.6, 20)
        assert run.config["completions_per_prompt"] == 1
    assert (
        runs["candidate"].inputs.get(name="prompts").sha256
        == runs["baseline"].inputs.get(name="prompts").sha256
    )
    assert runs["candidate"].seed != runs["baseline"].seed
    assert planned.plan["prompts"] == 3 and planned.state == "sampling"
    assert AuditEntry.objects.get(action="review.plan").actor == engineer


def test_prompts_kept_from_training_come_first(plan: Plan, project: Project) -> None:
    aside = {factories.make_prompt(project=project, split=split).pk for split in ("review", "held_out")}
    for _ in range(9):
        factories.make_prompt(project=project)
    planned = plan(prompts=4)
    assert planned.plan["prompts_from"] == {"review": 1, "held_out": 1, "train": 2}
    snapshot = Run.objects.all()[0].inputs.get(name="prompts").snapshot
    assert snapshot is not None
    lines = [json.loads(line) for line in snapshot.path.read_text().splitlines()]
    assert {line["prompt_id"] for line in lines[:2]} == aside and len(lines) == 4


def test_a_review_without_prompts_is_refused(plan: Plan) -> None:
    with pytest.raises(NothingToFreeze):
        plan(prompts=0)
    assert not Review.objects.exists() and not Run.objects.exists()


def test_comparisons_go_up_when_both_runs_are_done(plan: Plan) -> None:
    planned = plan(prompts=12, overlap=2, seed=3)
    first = Run.objects.filter(kind="sample").order_by("pk").first()
    assert first is not None
    supervisor.supervise(first.pk)
    review.advance(planned)
    assert planned.state == "sampling" and not Comparison.objects.exists()
    sample(planned)
    assert planned.state == "judging"
    items = ReviewItem.objects.filter(review=planned)
    assert len(items) == 12
    first_is_candidate = 0
    for item in items:
        assert item.comparison.purpose == "review" and item.comparison.overlap == 2
        texts = [candidate.completion for candidate in item.comparison.candidates.all()]
        assert {texts[0], texts[1]} == {item.candidate_completion, item.baseline_completion}
        assert item.candidate_completion.model_version == planned.candidate
        assert item.baseline_completion.model_version == planned.baseline
        first_is_candidate += texts[0] == item.candidate_completion
    assert 0 < first_is_candidate < 12, "the canonical order is drawn"
    review.advance_all()
    review.advance(planned)
    assert ReviewItem.objects.count() == 12
    assert review.progress(planned) == (0, 24, 0)


def test_equal_texts_are_ties_that_nobody_judges(plan: Plan) -> None:
    planned = plan(prompts=4)
    same = Run.objects.filter(kind="sample").order_by("pk")
    prompt_ids = [row["prompt_id"] for row in protocol.read_jsonl(planned_snapshot(planned))]
    for run in same:
        texts = {str(pk): ["the same"] for pk in prompt_ids[:3]}
        Run.objects.filter(pk=run.pk).update(config={**run.config, "fake": {"texts": texts}})
    sample(planned)
    assert (planned.plan["comparisons"], planned.plan["same_text"]) == (1, 3)
    judge(ReviewItem.objects.get(), 1.0)
    found = review.verdict(planned)
    assert (found["win_rate"], found["prompts"], found["same_text"]) == ((3 * 0.5 + 1) / 4, 4, 3)
    assert (found["wins"], found["ties"]) == (1, 0) and "ties counted as half" in found["words"]


def planned_snapshot(planned: Review) -> Any:
    read = Run.objects.filter(purpose__review=planned.pk)[0].inputs.get(name="prompts")
    assert read.snapshot is not None
    return read.snapshot.path


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_review_fails_with_its_runs(plan: Plan, state: str) -> None:
    planned = plan()
    Run.objects.filter(pk=Run.objects.all()[0].pk).update(state=state)
    review.advance_all()
    planned.refresh_from_db()
    assert planned.state == "failed" and not review.verdict(planned)["complete"]


def test_the_sweep_moves_a_review_on(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    planned = plan()
    advance_all = review.advance_all
    monkeypatch.setattr(review, "advance_all", lambda: None)  # as if the worker had died right after its run
    sample(planned)
    assert planned.state == "sampling"
    monkeypatch.setattr(review, "advance_all", advance_all)
    supervisor.sweep()
    planned.refresh_from_db()
    assert planned.state == "judging"


# --- the verdict ------------------------------------------------------------------------------------


def judged(plan: Plan, scores: list[float], **fields: Any) -> Review:
    planned = sample(plan(prompts=len(scores)))
    for item, score in zip(planned.items.order_by("pk"), scores, strict=True):
        judge(item, score, **fields)
    return planned


def test_nothing_is_shown_before_the_plan_is_fulfilled(plan: Plan) -> None:
    planned = sample(plan(prompts=4))
    items = list(planned.items.all())
    for item in items[:3]:
        judge(item, 1.0)
    found = review.verdict(planned)
    assert found == {"words": "3 of 4 judged", "complete": False, "judged": 3, "planned": 4}
    judge(items[3], 1.0)
    assert review.verdict(planned)["win_rate"] == 1.0


def test_the_verdict_by_hand(plan: Plan) -> None:
    """7 wins, 2 ties, 1 loss: mean 0.8; deviations 7 x 0.04 + 2 x 0.09 + 0.64 = 1.1; t(9) = 2.2622."""
    planned = judged(plan, [1.0] * 7 + [0.5] * 2 + [0.0])
    found = review.verdict(planned)
    half = 2.2622 * (1.1 / 9) ** 0.5 / 10**0.5
    assert (found["wins"], found["ties"], found["losses"], found["prompts"]) == (7, 2, 1, 10)
    assert isclose(found["win_rate"], 0.8)
    assert isclose(found["low"], 0.8 - half, abs_tol=1e-3) and found["high"] == 1.0
    version = str(planned.candidate)
    assert found["words"] == (
        f"better: people prefer {version} in 80 % of 10 blind comparisons (55 to 100), ties counted as half"
    )


@pytest.mark.parametrize(
    ("scores", "better", "head"),
    [
        ([1.0] * 12, True, "better: people prefer"),
        ([0.0] * 12, False, "worse: people prefer"),
        ([1.0, 0.0] * 6, None, "no evidence of a difference: people prefer"),
    ],
)
def test_three_verdicts(plan: Plan, scores: list[float], better: bool | None, head: str) -> None:
    found = review.verdict(judged(plan, scores))
    assert found["better"] is better and found["words"].startswith(head)


def test_the_verdict_says_who_judged(plan: Plan) -> None:
    planned = judged(plan, [1.0] * 6, simulated=True)
    assert "simulated annotators prefer" in review.verdict(planned)["words"]
    Preference.objects.filter(pk__in=Preference.objects.values_list("pk")[:2]).update(simulated=False)
    found = review.verdict(planned)
    assert "people and simulated annotators prefer" in found["words"] and found["simulated"] == 4


def test_a_simulated_extra_judgement_does_not_bring_people_in(plan: Plan) -> None:
    """Three planned judgements and a late fourth, all simulated: four simulated of three planned."""
    planned = judged(plan, [1.0] * 3, simulated=True)
    judge(planned.items.all()[0], 1.0, simulated=True, late=True)
    found = review.verdict(planned)
    assert (found["simulated"], found["judged"]) == (4, 3)
    assert "people" not in found["words"] and review.who_judged(found) == "simulated"


def test_both_bad_is_counted_apart(plan: Plan) -> None:
    found = review.verdict(judged(plan, [0.5, 0.5, 0.5], acceptability="neither"))
    assert (found["ties"], found["neither"]) == (3, 3)


def test_several_judgements_of_a_prompt_are_one_vote(plan: Plan) -> None:
    planned = sample(plan(prompts=2, overlap=3))
    one, two = planned.items.all()
    for score in (1.0, 1.0, 0.0):
        judge(one, score)
        judge(two, 0.0)
    found = review.verdict(planned)
    assert isclose(found["win_rate"], (2 / 3 + 0) / 2) and (found["wins"], found["losses"]) == (2, 4)


# --- closing ----------------------------------------------------------------------------------------


def test_closing_freezes_the_verdict(plan: Plan, engineer: User) -> None:
    planned = judged(plan, [1.0] * 6)
    review.close(planned, actor=engineer)
    before = review.verdict(planned)
    assert planned.state == "closed" and before["complete"] and "closed early" not in before["words"]
    Preference.objects.update(strength=0)
    assert review.verdict(planned) == before
    review.close(planned, actor=engineer)
    assert AuditEntry.objects.filter(action="review.close").count() == 1


def test_closing_early_is_part_of_the_verdict(plan: Plan, engineer: User) -> None:
    planned = sample(plan(prompts=5))
    for item in list(planned.items.all())[:2]:
        judge(item, 1.0)
    review.close(planned, actor=engineer)
    found = review.verdict(planned)
    assert found["words"].endswith("; closed early after 2 of 5 judgements") and not found["complete"]
    states = sorted(Comparison.objects.values_list("state", flat=True))
    assert states == ["withdrawn"] * 5  # the judged too: nobody can take one back under the verdict
    assert AuditEntry.objects.get(action="review.close").detail["early"] is True


def test_closing_at_once(plan: Plan, engineer: User) -> None:
    planned = sample(plan(prompts=2))
    review.close(planned, actor=engineer)
    assert review.verdict(planned)["words"] == "closed without a judgement"


def test_only_two_versions_of_the_project_can_be_reviewed(project: Project, engineer: User) -> None:
    factories.make_prompt(project=project)
    version = factories.make_model_version(project=project)
    reward = factories.make_model_version(project=project, kind=ModelVersion.Kind.REWARD)
    for candidate, baseline in ((reward, version), (version, factories.make_model_version())):
        with pytest.raises(ValueError, match="policy"):
            review.plan(project, candidate, baseline, actor=engineer)
    assert not Review.objects.exists() and registry.promoted(project) is None


# --- nothing of a review can be read under a name ----------------------------------------------------


def prompts_of(run: Run) -> set[int]:
    read = run.inputs.get(name="prompts").snapshot
    assert read is not None
    return {row["prompt_id"] for row in protocol.read_jsonl(read.path)}


def test_side_by_side_and_review_read_different_prompts(project: Project, engineer: User) -> None:
    for split in ("review", "review", "held_out", "train"):
        factories.make_prompt(project=project, split=split)
    candidate, baseline = (factories.make_model_version(project=project) for _ in range(2))
    named = review.write_missing(project, candidate, baseline, actor=engineer)
    planned = review.plan(project, candidate, baseline, actor=engineer, prompts=2)
    blind = Run.objects.filter(purpose__review=planned.pk)
    assert len(named) == len(blind) == 2
    assert not set.union(*map(prompts_of, named)) & set.union(*map(prompts_of, blind))


def test_where_they_share_prompts_the_review_s_texts_are_draws_of_their_own(
    project: Project, engineer: User, fake_trainer: None
) -> None:
    """The fake trainer's text depends on version, prompt and seed alone: equal seeds would be equal texts."""
    factories.make_prompt(project=project, split="held_out")
    candidate, baseline = (factories.make_model_version(project=project) for _ in range(2))
    for run in review.write_missing(project, candidate, baseline, actor=engineer):
        supervisor.supervise(run.pk)
    read = set(Completion.objects.values_list("pk", flat=True))
    planned = sample(review.plan(project, candidate, baseline, actor=engineer, prompts=1))
    assert len(read) == 2 and planned.plan["comparisons"] == 1
    item = planned.items.get()
    assert not {item.candidate_completion_id, item.baseline_completion_id} & read


def test_no_seed_of_a_review_can_be_typed(plan: Plan, project: Project, engineer: User) -> None:
    """2^30 seeds are for people, the 2^30 above them for reviews; both of a review differ."""
    seeds = []
    for seed in range(8):
        runs = Run.objects.filter(purpose__review=plan(seed=seed).pk)
        seeds.append({run.seed for run in runs})
    assert all(len(pair) == 2 and min(pair) >= 2**30 and max(pair) < 2**31 for pair in seeds)
    policy = factories.make_model_version(project=project)
    prompts = factories.make_snapshot(project=project, kind="prompts")
    inputs: dict[str, Any] = {"policy": policy, "prompts": prompts}
    with pytest.raises(ConfigError, match="between 0 and 1073741823"):
        launch(project, "sample", {}, actor=engineer, seed=min(seeds[0]), inputs=inputs)


def test_prompts_that_neither_version_has_answered_come_first(project: Project, engineer: User) -> None:
    prompts = [factories.make_prompt(project=project, split="review") for _ in range(6)]
    candidate, baseline = (factories.make_model_version(project=project) for _ in range(2))
    for prompt, version in zip(prompts[:4], (candidate, baseline, candidate, baseline), strict=True):
        factories.make_completion(prompt=prompt, model_version=version)
    planned = review.plan(project, candidate, baseline, actor=engineer, prompts=2)
    assert prompts_of(Run.objects.filter(purpose__review=planned.pk)[0]) == {p.pk for p in prompts[4:]}


def test_one_version_s_texts_wait_for_the_other_s(plan: Plan) -> None:
    """Between the two runs there is no comparison yet that would keep names away from the texts."""
    planned = plan(prompts=3)
    first, second = Run.objects.filter(purpose__review=planned.pk).order_by("pk")
    supervisor.supervise(first.pk)
    first.refresh_from_db()
    assert first.state == "done" and not Completion.objects.exists()
    supervisor.supervise(second.pk)
    assert Completion.objects.count() == 6 and Comparison.objects.count() == 3


def test_side_by_side_leaves_a_project_of_review_prompts_alone(project: Project, engineer: User) -> None:
    factories.make_prompt(project=project, split="review")
    versions = [factories.make_model_version(project=project) for _ in range(2)]
    with pytest.raises(NothingToFreeze, match="set aside for reviews"):
        review.write_missing(project, *versions, actor=engineer)


def test_a_review_is_named_in_the_reader_s_language(loud: None, plan: Plan) -> None:
    review = plan()
    assert str(review) == f"{review.candidate} BESIDE {review.baseline}"
