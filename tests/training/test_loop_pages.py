"""The loop: what comes next, by table; and the page that shows it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from feedback.models import Comparison, Prompt
from tests import factories
from training import registry
from training.loop import Facts, Named, ReviewFacts, gather, next_action
from training.models import ModelVersion, PromotedVersion, Promotion, Review

V0, V1, RM1 = Named(1, "v0"), Named(2, "v1"), Named(3, "rm-1")
START: dict[str, Any] = {"prompts": 300, "newest": V0, "promoted": V0}
ASKED = {**START, "open": 150, "promoted_compared": 150}
LEARNED = {**ASKED, "people": 200, "decided": 180, "reward_model": RM1, "reward_model_used": True}


def review(state: str, *, judged: int = 0, planned: int = 100, better: bool | None = None) -> ReviewFacts:
    return ReviewFacts(9, state, judged >= planned, judged, planned, better)


@pytest.mark.parametrize(
    ("facts", "key"),
    [
        ({}, "import"),
        ({"prompts": 3}, "no_version"),
        ({"prompts": 3, "newest": V0}, "promote_first"),
        (START, "write"),
        (ASKED, "judge"),
        ({**ASKED, "people": 40, "fresh": 40, "decided": 40}, "judge"),
        ({**ASKED, "people": 100, "fresh": 100, "decided": 90}, "reward_model"),
        # all comparisons judged, few as they are: learn from them if any reward model can
        ({**ASKED, "open": 0, "people": 30, "fresh": 30, "decided": 30}, "reward_model"),
        ({**ASKED, "open": 0, "people": 9, "fresh": 9, "decided": 9}, "write"),
        # only ties teach nothing
        ({**ASKED, "people": 200, "fresh": 200, "decided": 0}, "judge"),
        # judgements imported with a file are enough, whoever wrote the texts
        ({**START, "imported": 1369, "fresh": 1369, "decided": 1369}, "reward_model"),
        ({**LEARNED, "reward_model_used": False}, "ppo"),
        ({**LEARNED, "candidate": V1}, "review"),
        ({**LEARNED, "candidate": V1, "review": review("sampling")}, "verdict"),
        ({**LEARNED, "candidate": V1, "review": review("judging", judged=40)}, "judge_review"),
        ({**LEARNED, "candidate": V1, "review": review("judging", judged=100)}, "verdict"),
        ({**LEARNED, "candidate": V1, "review": review("closed", judged=100, better=True)}, "promote"),
        # no evidence, or worse: the promoted version stays, and the loop goes on
        ({**LEARNED, "candidate": V1, "review": review("closed", judged=100, better=None)}, "judge"),
        (
            {**LEARNED, "candidate": V1, "open": 0, "review": review("closed", judged=9, better=False)},
            "write",
        ),
        # promoted just now: its own texts first, although older ones wait
        ({**LEARNED, "promoted": V1, "promoted_compared": 0}, "write"),
        ({**LEARNED, "active_run": Named(5, "PPO 5", "ppo")}, "watch"),
        # a failed run bars nothing: what it was for is still the next thing to do
        ({**LEARNED, "reward_model_used": False, "failed_run": Named(5, "PPO 5", "ppo")}, "ppo"),
        ({**LEARNED, "candidate": V1, "failed_run": Named(5, "Write completions 5", "sample")}, "review"),
        ({**START, "failed_run": Named(5, "Write completions 5", "sample")}, "write"),
        ({"active_run": Named(5, "PPO 5", "ppo")}, "import"),
    ],
)
def test_next_action(facts: dict[str, Any], key: str) -> None:
    action = next_action(Facts(**facts))
    assert action.key == key
    assert action.reason and action.label


def test_judging_says_how_many_more() -> None:
    action = next_action(Facts(**{**ASKED, "people": 60, "fresh": 60, "decided": 60}))
    assert "40 more judgements" in action.reason
    assert action.other is not None and action.other.key == "train_anyway"


ROLLED_BACK = {**LEARNED, "promoted": V0, "rolled_back": V1, "open": 11, "people": 228, "decided": 228}


def test_after_a_roll_back_it_tells_what_stands_and_what_is_new() -> None:
    """A reward model has learned from all 228; that 11 comparisons are open does not make 11 enough."""
    action = next_action(Facts(**ROLLED_BACK))
    assert action.key == "judge" and "more judgement" not in action.reason
    assert action.reason == (
        "v1 was rolled back, v0 stands again. Of 228 judgements 0 are new since rm-1."
        " 11 comparisons are still open."
    )
    action = next_action(Facts(**{**ROLLED_BACK, "open": 150, "fresh": 60, "decided": 60}))
    assert "Of 228 judgements 60 are new since rm-1. 40 more judgements make another" in action.reason


def test_a_failed_run_is_told_and_one_click_away() -> None:
    action = next_action(Facts(**{**LEARNED, "failed_run": Named(5, "PPO 5", "ppo")}))
    assert action.reason.startswith("PPO 5 failed") and "more judgements" in action.reason
    assert action.other is not None and (action.other.view, action.other.args) == ("run_detail", {"pk": 5})


@pytest.mark.parametrize(
    ("judges", "said"),
    [
        ("people", "it writes the next completions."),
        ("simulated", "Only simulated annotators judged that; nobody has asked people."),
        ("both", "Simulated annotators judged a part of that."),
    ],
)
def test_the_next_action_says_whose_verdict_it_follows(judges: str, said: str) -> None:
    for better in (True, None, False):
        closed = review("closed", judged=9, better=better)._replace(judges=judges)
        reason = next_action(Facts(**{**LEARNED, "candidate": V1, "review": closed})).reason
        if better or judges != "people":
            assert said in reason
        assert ("imulated" in reason) == (judges != "people")


def test_the_next_action_says_how_many_new_judgements_are_simulated() -> None:
    fresh = {**ASKED, "simulated": 130, "fresh": 130, "fresh_simulated": 120, "decided": 120}
    assert "120 of them are simulated." in next_action(Facts(**fresh)).reason


def test_a_lost_review_is_told() -> None:
    lost = {**LEARNED, "candidate": V1, "review": review("closed", judged=100, better=False)}
    assert "v1 is worse than v0" in next_action(Facts(**lost)).reason


# --- gathered from rows -----------------------------------------------------------------------------


def promote(version: ModelVersion, previous: ModelVersion | None = None, *, days: float = 0) -> Promotion:
    promotion = Promotion.objects.create(
        project=version.project, version=version, previous=previous, reason="so"
    )
    Promotion.objects.filter(pk=promotion.pk).update(at=timezone.now() - timedelta(days=days))
    pointer = {"version": version, "promotion": promotion}
    PromotedVersion.objects.update_or_create(project=version.project, defaults=pointer)
    return promotion


def test_it_gathers_facts(project: Any) -> None:
    base = factories.make_model_version(project=project, kind="base", number=0)
    promote(base, days=2)
    factories.make_prompt(project=project, split=Prompt.Split.HELD_OUT)
    comparison = factories.make_comparison(project=project)
    comparison.completions.update(model_version=base)
    factories.make_comparison(project=project, purpose=Comparison.Purpose.REVIEW)
    factories.make_preference(project=project, strength=0)
    factories.make_preference(project=project, simulated=True)
    factories.make_preference(comparison=factories.make_comparison(project=project, purpose="review"))
    facts = gather(project)
    assert (facts.prompts, facts.held_out, facts.open) == (6, 1, 1)
    assert (facts.people, facts.simulated, facts.imported, facts.decided, facts.fresh) == (1, 1, 0, 1, 2)
    assert facts.fresh_simulated == 1
    assert facts.promoted == Named(base.pk, "v0")
    assert facts.promoted_compared == 1
    assert facts.candidate is None
    factories.make_model_version(project=project, kind="policy", number=1)
    facts = gather(project)
    assert facts.candidate is not None and facts.candidate.name == "v1"


def test_a_roll_back_is_gathered(project: Any, admin: Any) -> None:
    base = factories.make_model_version(project=project, kind="base", number=0)
    policy = factories.make_model_version(project=project, kind="policy", number=1)
    registry.promote(base, actor=admin, reason="first", expected=None)
    registry.promote(policy, actor=admin, reason="better", expected=base)
    assert gather(project).rolled_back is None
    registry.roll_back(project, actor=admin, reason="it was not")
    facts = gather(project)
    assert facts.rolled_back == Named(policy.pk, "v1") and facts.promoted == Named(base.pk, "v0")


def test_judgements_after_the_frozen_data_are_fresh(project: Any) -> None:
    factories.make_preference(project=project)
    snapshot = factories.make_snapshot(project=project)
    base = factories.make_model_version(project=project, kind="base", number=0)
    run = factories.make_run(
        project=project, kind="reward_model", inputs={"policy": base, "snapshot": snapshot}
    )
    factories.make_model_version(project=project, kind="reward", number=1, run=run)
    assert gather(project).fresh == 0
    factories.make_preference(project=project)
    assert gather(project).fresh == 1


# --- the page ---------------------------------------------------------------------------------------


def test_an_annotator_is_sent_to_judge(project: Any, annotator: Any, sign_in: Any) -> None:
    response = sign_in(annotator).get(f"/p/{project.slug}/")
    assert response.status_code == 302
    assert response.url == f"/p/{project.slug}/judge/"


def test_an_outsider_finds_nothing(project: Any, outsider: Any, sign_in: Any) -> None:
    assert sign_in(outsider).get(f"/p/{project.slug}/").status_code == 404


def test_an_empty_project_says_import(project: Any, engineer: Any, sign_in: Any) -> None:
    page = sign_in(engineer).get(f"/p/{project.slug}/").content.decode()
    assert "Import prompts" in page and "/data/import/" in page


def test_a_reviewer_sees_who_may_act(project: Any, reviewer: Any, sign_in: Any) -> None:
    page = sign_in(reviewer).get(f"/p/{project.slug}/").content.decode()
    assert "/data/import/" not in page
    assert "members with the role Engineer" in page


def test_simulated_judgements_are_counted_apart(project: Any, engineer: Any, sign_in: Any) -> None:
    factories.make_preference(project=project)
    for _number in range(2):
        factories.make_preference(project=project, simulated=True)
    page = sign_in(engineer).get(f"/p/{project.slug}/").content.decode()
    assert "1 by people" in page and "2 simulated" in page


def test_rounds_end_with_promotions(project: Any, engineer: Any, sign_in: Any) -> None:
    base = factories.make_model_version(project=project, kind="base", number=0)
    policy = factories.make_model_version(project=project, kind="policy", number=1)
    promote(base, days=3)
    judged = factories.make_preference(project=project)
    type(judged).objects.filter(pk=judged.pk).update(created_at=timezone.now() - timedelta(days=2))
    promote(policy, base, days=1)
    factories.make_preference(project=project)
    factories.make_preference(project=project)
    response = sign_in(engineer).get(f"/p/{project.slug}/")
    found = [(round.number, round.judged, str(round.promoted)) for round in response.context["rounds"]]
    assert found == [(2, 2, "None"), (1, 1, "v1")]


def test_agreement_of_people_alone(project: Any, engineer: Any, sign_in: Any) -> None:
    """Two people agree on two comparisons, each way once: alpha is 1, whatever a program says."""
    for strength in (2, -2):
        comparison = factories.make_comparison(project=project, overlap=3)
        factories.make_preference(comparison=comparison, strength=strength)
        factories.make_preference(comparison=comparison, strength=strength)
        factories.make_preference(comparison=comparison, strength=-strength, simulated=True)
    page = sign_in(engineer).get(f"/p/{project.slug}/").content.decode()
    assert "agreement α 1.00" in page


def test_queries_do_not_grow(
    project: Any, engineer: Any, sign_in: Any, django_assert_max_num_queries: Any
) -> None:
    base = factories.make_model_version(project=project, kind="base", number=0)
    promote(base)
    for number in range(1, 4):
        policy = factories.make_model_version(project=project, kind="policy", number=number)
        Review.objects.create(
            project=project,
            candidate=policy,
            baseline=base,
            plan={"prompts": 1, "overlap": 1},
            state="closed",
            verdict={"win_rate": 0.6, "low": 0.5, "high": 0.7, "better": None},
        )
        factories.make_preference(project=project)
    browser = sign_in(engineer)
    with django_assert_max_num_queries(40) as few:
        browser.get(f"/p/{project.slug}/")
    for number in range(4, 10):
        factories.make_model_version(project=project, kind="policy", number=number)
        factories.make_preference(project=project)
    with django_assert_max_num_queries(len(few)):
        browser.get(f"/p/{project.slug}/")


# --- simulated annotators are never taken for people -------------------------------------------------


@pytest.mark.parametrize(
    ("simulated", "said", "unsaid"),
    [
        (4, "Simulated annotators prefer the newest version", "People prefer the newest version"),
        (1, "People and simulated annotators together prefer", "People prefer the newest version"),
        (0, "People prefer the newest version", "nnotators prefer"),
    ],
)
def test_the_loop_says_who_prefers_the_newest_version(
    project: Any, reviewer: Any, sign_in: Any, simulated: int, said: str, unsaid: str
) -> None:
    candidate, baseline = (factories.make_model_version(project=project) for _ in range(2))
    verdict = {
        "win_rate": 0.8, "low": 0.6, "high": 0.9, "better": True, "judged": 4, "simulated": simulated,
        "wins": 3, "ties": 1, "losses": 0, "prompts": 4, "words": "better", "complete": True,
    }  # fmt: skip
    Review.objects.create(
        project=project, candidate=candidate, baseline=baseline, plan={}, state="closed", verdict=verdict
    )
    factories.make_preference(project=project, simulated=True)
    page = sign_in(reviewer).get(f"/p/{project.slug}/").content.decode()
    assert said in page and unsaid not in page
    assert "(1 simulated)" in page
    tags = {4: "simulated", 1: "partly simulated"}
    for number, words in tags.items():
        assert (f'<span class="tag">{words}</span>' in page) is (number == simulated)
        assert (f">{words}</p>" in page) is (number == simulated), "at the station"
