"""Reviews: the plan, no interim results, the verdict, and every comparison after closing."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.models import Completion, Preference
from tests import factories
from training import registry
from training.models import ModelVersion, Review, ReviewItem, Run, RunSample
from training.review import advance_all, close, plan


@pytest.fixture
def base(project: Any) -> ModelVersion:
    return factories.make_model_version(project=project, kind="base", number=0)


@pytest.fixture
def policy(project: Any, base: ModelVersion) -> ModelVersion:
    run = factories.make_run(project=project, inputs={"policy": base}, state="done", config={})
    return factories.make_model_version(project=project, kind="policy", number=1, parent=base, run=run)


@pytest.fixture
def promoted(base: ModelVersion, admin: Any) -> ModelVersion:
    registry.promote(base, actor=admin, reason="the first", expected=None)
    return base


def url(project: Any, rest: str) -> str:
    return f"/p/{project.slug}/{rest}"


def write(prompt: Any, version: ModelVersion, text: str, **facts: Any) -> Completion:
    return factories.make_completion(
        prompt=prompt, text=text, model_version=version, sampling=facts, token_count=len(text)
    )


# --- reviews ----------------------------------------------------------------------------------------


def judged_review(
    base: ModelVersion, policy: ModelVersion, *, wins: int, losses: int, open_: int = 0
) -> Review:
    """One prompt each; candidate 1 of a comparison is the policy's."""
    total = wins + losses + open_
    review = Review.objects.create(
        project=base.project,
        candidate=policy,
        baseline=base,
        state="judging",
        plan={
            "prompts": total,
            "overlap": 1,
            "temperature": 1.0,
            "max_new_tokens": 64,
            "seed": 0,
            "comparisons": total,
        },
    )
    for place in range(total):
        prompt = factories.make_prompt(project=base.project)
        theirs, ours = write(prompt, base, f"theirs {place}"), write(prompt, policy, f"ours {place}")
        comparison = factories.put_up(prompt, [theirs, ours], purpose="review")
        ReviewItem.objects.create(
            review=review, comparison=comparison, candidate_completion=ours, baseline_completion=theirs
        )
        if place < wins + losses:
            factories.make_preference(comparison=comparison, strength=2 if place < wins else -2)
    return review


def test_a_plan_starts_two_runs(
    project: Any, engineer: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    for _number in range(3):
        factories.make_prompt(project=project)
    browser = sign_in(engineer)
    form = browser.get(url(project, "reviews/new/")).context["form"]
    assert (form["candidate"].value(), form["baseline"].value()) == (policy.pk, promoted.pk)
    posted = {
        "candidate": policy.pk,
        "baseline": promoted.pk,
        "prompts": 2,
        "overlap": 1,
        "temperature": "0.7",
    }
    response = browser.post(url(project, "reviews/new/"), {**posted, "max_new_tokens": 32, "seed": 4})
    review = Review.objects.get()
    assert response.url == url(project, f"reviews/{review.pk}/")
    assert (review.plan["prompts"], review.plan["temperature"], review.state) == (2, 0.7, "sampling")
    assert sorted(run.purpose["role"] for run in Run.objects.filter(kind="sample")) == [
        "baseline",
        "candidate",
    ]
    page = browser.get(response.url).content.decode()
    assert "are writing their completions" in page and "every 2s" in page


def test_sample_sizes_are_those_of_the_table(project: Any, engineer: Any, sign_in: Any) -> None:
    """Simulated beforehand for 80 % power and 20 % ties: 626, 155 and 68 prompts."""
    sizes = dict(sign_in(engineer).get(url(project, "reviews/new/")).context["sizes"])
    assert (sizes[0.55], sizes[0.60], sizes[0.65]) == (626, 155, 68)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"baseline": "candidate"}, "two different versions"),
        ({"prompts": "1"}, "greater than or equal to 2"),
        ({"temperature": "0,7"}, "Enter a number"),
        ({"max_new_tokens": "0"}, "greater than or equal to 1"),
    ],
)
def test_bad_plans_are_refused(
    project: Any, engineer: Any, sign_in: Any, promoted: Any, policy: Any, changed: dict[str, str], words: str
) -> None:
    factories.make_prompt(project=project)
    posted = {"candidate": policy.pk, "baseline": promoted.pk, "prompts": 2, "overlap": 1, "temperature": 1}
    posted |= {"max_new_tokens": 64, "seed": 0, **changed}
    if posted["baseline"] == "candidate":
        posted["baseline"] = policy.pk
    response = sign_in(engineer).post(url(project, "reviews/new/"), posted)
    assert response.status_code == 422
    assert words in response.content.decode()
    assert not Review.objects.exists()


def test_a_plan_offers_as_many_prompts_as_there_are(
    project: Any, engineer: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    """By default those that no training reads; more may be asked for, but not more than all."""
    for split, count in (("train", 9), ("review", 4), ("held_out", 2)):
        for _number in range(count):
            factories.make_prompt(project=project, split=split)
    browser = sign_in(engineer)
    response = browser.get(url(project, "reviews/new/"))
    assert response.context["form"]["prompts"].value() == 6
    page = response.content.decode()
    assert 'max="15"' in page and "of 15 prompts. 6 that are set aside from training come first." in page
    posted = {"candidate": policy.pk, "baseline": promoted.pk, "overlap": 1, "temperature": 1}
    posted |= {"max_new_tokens": 64, "seed": 0}
    assert browser.post(url(project, "reviews/new/"), {**posted, "prompts": 16}).status_code == 422
    assert browser.post(url(project, "reviews/new/"), {**posted, "prompts": 15}).status_code == 302
    assert Review.objects.get().plan["prompts_from"] == {"review": 4, "held_out": 2, "train": 9}


def test_a_plan_in_a_large_project_asks_for_a_hundred(
    project: Any, engineer: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    for _number in range(120):
        factories.make_prompt(project=project, split="train")
    form = sign_in(engineer).get(url(project, "reviews/new/")).context["form"]
    assert form["prompts"].value() == 100 and form.fields["prompts"].max_value == 120


def test_no_prompts_no_review(project: Any, engineer: Any, sign_in: Any, promoted: Any, policy: Any) -> None:
    posted = {"candidate": policy.pk, "baseline": promoted.pk, "prompts": 2, "overlap": 1, "temperature": 1}
    response = sign_in(engineer).post(
        url(project, "reviews/new/"), {**posted, "max_new_tokens": 64, "seed": 0}
    )
    assert response.status_code == 422
    assert "no prompts yet" in response.content.decode()


def test_no_interim_result_while_judging(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    review = judged_review(promoted, policy, wins=3, losses=0, open_=2)
    page = sign_in(admin).get(url(project, f"reviews/{review.pk}/")).content.decode()
    assert "3/5" in page and "3 of 5 judged" in page
    assert "ours 0" not in page and "100 %" not in page and "verdict-bar" not in page
    status = sign_in(admin).get(url(project, f"reviews/{review.pk}/status/?state=judging&complete=0"))
    assert b"100 %" not in status.content and b"every 2s" in status.content


def test_nobody_reads_who_wrote_what_while_judging(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    review = judged_review(promoted, policy, wins=1, losses=0, open_=1)
    purpose = {"review": review.pk, "role": "candidate"}
    run = factories.make_run(project=project, kind="sample", state="done", purpose=purpose, config={})
    RunSample.objects.create(run=run, step=1, index=0, messages=[], completion="ours 0")
    pages = (f"versions/compare/?a={promoted.pk}&b={policy.pk}", f"runs/{run.pk}/")
    browser = sign_in(admin)
    for page in pages:
        assert "ours 0" not in browser.get(url(project, page)).content.decode()
    assert "2 prompts are hidden" in browser.get(url(project, pages[0])).content.decode()
    judged, _open = review.items.order_by("pk")
    prompt_page = f"data/prompts/{judged.comparison.prompt_id}/"
    assert "judged blind in a review" in browser.get(url(project, prompt_page)).content.decode()
    close(review, actor=admin)
    assert "judged blind in a review" not in browser.get(url(project, prompt_page)).content.decode()
    for page in pages:
        assert "ours 0" in browser.get(url(project, page)).content.decode()


def test_the_page_refreshes_when_all_is_judged(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    review = judged_review(promoted, policy, wins=4, losses=1)
    status = sign_in(admin).get(url(project, f"reviews/{review.pk}/status/?state=judging&complete=0"))
    assert status.headers["HX-Refresh"] == "true"


def test_the_verdict_and_every_comparison_after_closing(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    review = judged_review(promoted, policy, wins=9, losses=1)
    browser = sign_in(admin)
    response = browser.post(url(project, f"reviews/{review.pk}/close/"), follow=True)
    page = response.content.decode()
    review.refresh_from_db()
    assert review.state == "closed"
    assert "90 %" in page and "v1 preferred" in page and "ours 0" in page
    widths = [part["width"] for part in response.context["bar"]]
    assert widths == [864.0, 0.0, 96.0], "90, 0 and 10 % of 960"
    assert "Promote v1" in page
    promote_page = browser.get(url(project, f"versions/{policy.pk}/promote/")).content.decode()
    assert "people prefer v1 in 90 % of 10 blind comparisons (67 to 100)" in promote_page
    again = browser.post(url(project, f"reviews/{review.pk}/close/"), follow=True)
    assert "not open for judging" in again.content.decode()


def test_work_handed_in_after_closing_is_kept_and_not_counted(
    project: Any, admin: Any, annotator: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    """Nine of ten said the candidate is better; the tenth had the comparison open when it was closed."""
    review = judged_review(promoted, policy, wins=9, losses=0, open_=1)
    browser = sign_in(annotator)
    shown = browser.get(url(project, "judge/")).context
    close(review, actor=admin)
    verdict = Review.objects.get().verdict
    posted = {
        "assignment": shown["assignment"].pk,
        "fencing_token": 1,
        "key": "handed-in-late",
        "strength": 3,
    }
    answer = browser.post(url(project, "judge/"), posted, headers={"hx-request": "true"})
    assert "taken back meanwhile" in answer.content.decode()
    late = Preference.objects.get(annotator=annotator)
    assert late.late and late.comparison.state == "withdrawn"
    assert Review.objects.get().verdict == verdict and verdict["judged"] == 9
    page = sign_in(admin).get(url(project, f"reviews/{review.pk}/")).content.decode()
    assert page.count("after closing, not counted") == 1
    assert page.index("ours 9") < page.index("after closing, not counted")


def test_a_failed_review_is_planned_again_from_its_run(
    project: Any, engineer: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    factories.make_prompt(project=project)
    plan(project, policy, promoted, actor=engineer, prompts=1)
    run = Run.objects.filter(kind="sample").earliest("pk")
    Run.objects.filter(kind="sample").update(state="failed")
    advance_all()
    review = Review.objects.get()
    browser = sign_in(engineer)
    again = f"{url(project, 'reviews/new/')}?candidate={policy.pk}&amp;baseline={promoted.pk}"
    assert again in browser.get(url(project, "")).content.decode(), "the loop goes on"
    page = browser.get(url(project, f"runs/{run.pk}/")).content.decode()
    assert url(project, f"reviews/{review.pk}/") in page and "Launch another" not in page
    page = browser.get(url(project, f"reviews/{review.pk}/")).content.decode()
    assert "could not be written" in page and again in page


def test_review_queries_do_not_grow(
    project: Any, reviewer: Any, sign_in: Any, promoted: Any, policy: Any, django_assert_max_num_queries: Any
) -> None:
    review = close(judged_review(promoted, policy, wins=2, losses=0), actor=None)
    browser = sign_in(reviewer)
    with django_assert_max_num_queries(25) as few:
        browser.get(url(project, f"reviews/{review.pk}/"))
    other = factories.make_model_version(project=project, number=2)
    more = close(judged_review(promoted, other, wins=9, losses=0), actor=None)
    with django_assert_max_num_queries(len(few)):
        browser.get(url(project, f"reviews/{more.pk}/"))
