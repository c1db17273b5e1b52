"""Versions: list, lineage, side by side, promote, roll back; who may and who may not."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.models import AuditEntry, Completion
from feedback.word_diff import word_diff
from tests import factories
from training import registry
from training.models import ModelVersion, Promotion, Review, ReviewItem, Run, RunInput


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


# --- who may ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rest", "method", "least"),
    [
        ("versions/", "get", "reviewer"),
        ("versions/compare/", "get", "reviewer"),
        ("versions/write/", "post", "engineer"),
        ("versions/{version}/", "get", "reviewer"),
        ("versions/{version}/promote/", "get", "admin"),
        ("versions/{version}/promote/", "post", "admin"),
        ("versions/roll-back/", "get", "admin"),
        ("versions/roll-back/", "post", "admin"),
        ("reviews/new/", "get", "engineer"),
        ("reviews/new/", "post", "engineer"),
        ("reviews/{review}/", "get", "reviewer"),
        ("reviews/{review}/status/", "get", "reviewer"),
        ("reviews/{review}/close/", "post", "engineer"),
    ],
)
def test_roles(
    request: Any,
    project: Any,
    outsider: Any,
    sign_in: Any,
    promoted: Any,
    policy: Any,
    rest: str,
    method: str,
    least: str,
) -> None:
    review = Review.objects.create(
        project=project, candidate=policy, baseline=promoted, plan={"prompts": 1, "overlap": 1}
    )
    path = url(project, rest.format(version=policy.pk, review=review.pk))
    roles = ["annotator", "reviewer", "engineer", "admin"]
    for role in roles:
        response = getattr(sign_in(request.getfixturevalue(role)), method)(path)
        allowed = roles.index(role) >= roles.index(least)
        assert (response.status_code != 404) == allowed, role
    assert getattr(sign_in(outsider), method)(path).status_code == 404


def test_versions_of_another_project_are_not_found(project: Any, admin: Any, sign_in: Any, base: Any) -> None:
    foreign = factories.make_model_version(number=1)
    browser = sign_in(admin)
    assert browser.get(url(project, f"versions/{foreign.pk}/")).status_code == 404
    assert browser.post(url(project, f"versions/{foreign.pk}/promote/"), {"reason": "x"}).status_code == 404
    assert browser.get(url(project, f"versions/compare/?a={base.pk}&b={foreign.pk}")).status_code == 404


# --- list and lineage -------------------------------------------------------------------------------


def test_the_list_names_what_speaks_for_a_version(
    project: Any, reviewer: Any, sign_in: Any, promoted: Any
) -> None:
    accuracy = {"held_out/accuracy": 0.712, "held_out/accuracy_low": 0.64, "held_out/accuracy_high": 0.77}
    factories.make_model_version(project=project, kind="reward", number=1, metrics=accuracy)
    earned = {"reward/mean": 0.8, "kl/reference": 6.1}
    factories.make_model_version(project=project, kind="policy", number=1, metrics=earned)
    page = sign_in(reviewer).get(url(project, "versions/")).content.decode()
    assert "71 %" in page and "(64–77)" in page
    assert "+0.8" in page and "KL 6.1" in page
    assert "Plan a review" not in page and "Roll back" not in page


def test_list_queries_do_not_grow(
    project: Any, admin: Any, sign_in: Any, promoted: Any, django_assert_max_num_queries: Any
) -> None:
    browser = sign_in(admin)

    def add(first: int, count: int) -> None:
        for number in range(first, first + count):
            run = factories.make_run(project=project, state="done", config={})
            version = factories.make_model_version(project=project, number=number, run=run, parent=promoted)
            verdict = {"win_rate": 0.6, "low": 0.5, "high": 0.7}
            Review.objects.create(
                project=project,
                candidate=version,
                baseline=promoted,
                plan={},
                state="closed",
                verdict=verdict,
            )

    add(1, 2)
    with django_assert_max_num_queries(25) as few:
        browser.get(url(project, "versions/"))
    add(3, 8)
    with django_assert_max_num_queries(len(few)):
        browser.get(url(project, "versions/"))


def test_lineage_reaches_the_judgements(project: Any, reviewer: Any, sign_in: Any, base: Any) -> None:
    person = factories.make_member(project=project)
    judged = [factories.make_preference(project=project, annotator=person) for _number in range(3)]
    rows = "".join(f'{{"prompt": [], "preference_id": {preference.pk}}}\n' for preference in judged)
    snapshot = factories.make_snapshot(project=project, text=rows, counts={"pairs": 3})
    learned = factories.make_run(
        project=project,
        kind="reward_model",
        inputs={"policy": base, "snapshot": snapshot},
        state="done",
        config={},
    )
    reward = factories.make_model_version(project=project, kind="reward", number=1, run=learned)
    optimised = factories.make_run(
        project=project, inputs={"policy": base, "reward_model": reward}, state="done", config={}
    )
    policy = factories.make_model_version(project=project, number=1, run=optimised, parent=base)
    response = sign_in(reviewer).get(url(project, f"versions/{policy.pk}/"))
    page = response.content.decode()
    for words in (
        "v0",
        "rm-1",
        f"PPO {optimised.pk}",
        f"Reward model {learned.pk}",
        str(snapshot),
        "3 pairs",
        policy.content_hash,
    ):
        assert words in page
    assert [(str(frozen), rows) for frozen, rows in response.context["judges"]] == [
        (str(snapshot), [{"annotator": person.username, "simulated": False, "imported": False, "count": 3}])
    ]
    used = sign_in(reviewer).get(url(project, f"versions/{reward.pk}/")).content.decode()
    assert f"PPO {optimised.pk}" in used, "and forward: what used it"


def test_a_version_is_one_click_from_what_it_is_read_beside(
    project: Any, admin: Any, reviewer: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    browser = sign_in(admin)
    page = lambda version: browser.get(url(project, f"versions/{version.pk}/")).content.decode()  # noqa: E731
    assert "Beside v0" in page(policy) and "Roll back" not in page(policy)
    assert "Beside" not in page(promoted) and "Base, a model to start from" in page(promoted)
    registry.promote(policy, actor=admin, reason="forward", expected=promoted)
    assert "Beside v0" in page(policy) and "Roll back to v0" in page(policy)
    assert "Beside v1" in page(promoted) and "Roll back" not in page(promoted)
    theirs = sign_in(reviewer).get(url(project, f"versions/{policy.pk}/")).content.decode()
    assert "Beside v0" in theirs and "Roll back" not in theirs


# --- side by side -----------------------------------------------------------------------------------


def write(prompt: Any, version: ModelVersion, text: str, **facts: Any) -> Completion:
    return factories.make_completion(
        prompt=prompt, text=text, model_version=version, sampling=facts, token_count=len(text)
    )


def test_only_prompts_that_both_answered(
    project: Any, reviewer: Any, sign_in: Any, base: Any, policy: Any
) -> None:
    both, alone = factories.make_prompt(project=project), factories.make_prompt(project=project)
    write(both, base, "Please wait.")
    write(both, policy, "Your parcel comes <today>.")
    write(alone, base, "Nobody answers beside me.")
    page = (
        sign_in(reviewer).get(url(project, f"versions/compare/?a={base.pk}&b={policy.pk}")).content.decode()
    )
    assert "Prompt 1 of 1" in page
    assert "Please wait." in page and "Your parcel comes &lt;today&gt;." in page
    assert "Nobody answers" not in page


def test_sorted_by_reward_gain(project: Any, reviewer: Any, sign_in: Any, base: Any, policy: Any) -> None:
    for gain in (0.25, 2.0, -1.0):
        prompt = factories.make_prompt(project=project)
        write(prompt, base, f"before {gain}", score=0.5, reward_model=1)
        write(prompt, policy, f"after {gain}", score=0.5 + gain, reward_model=1)
    prompt = factories.make_prompt(project=project)
    write(prompt, base, "before, by another judge", score=-9.0, reward_model=1)
    write(prompt, policy, "after, by another judge", score=9.0, reward_model=2)
    browser = sign_in(reviewer)
    texts = []
    for place in range(1, 5):
        query = f"?a={base.pk}&b={policy.pk}&sort=gain&n={place}"
        texts.append(browser.get(url(project, f"versions/compare/{query}")).context["right"].completion.text)
    assert texts == ["after 2.0", "after 0.25", "after -1.0", "after, by another judge"]
    context = browser.get(url(project, f"versions/compare/?a={base.pk}&b={policy.pk}&n=99")).context
    assert context["n"] == 4 and context["scored"] == 3
    assert context["mean_gain"] == pytest.approx((0.25 + 2.0 - 1.0) / 3)


def test_differences_on_demand(project: Any, reviewer: Any, sign_in: Any, base: Any, policy: Any) -> None:
    prompt = factories.make_prompt(project=project)
    write(prompt, base, "Please wait a week.")
    write(prompt, policy, "Please wait a day.")
    plain = (
        sign_in(reviewer).get(url(project, f"versions/compare/?a={base.pk}&b={policy.pk}")).content.decode()
    )
    marked = (
        sign_in(reviewer)
        .get(url(project, f"versions/compare/?a={base.pk}&b={policy.pk}&diff=1"))
        .content.decode()
    )
    assert "<ins>" not in plain
    assert "<del>week</del>" in marked and "<ins>day</ins>" in marked


def test_gain_is_offered_only_where_both_are_scored(
    project: Any, reviewer: Any, sign_in: Any, base: Any, policy: Any
) -> None:
    """The base wrote before there was a reward model."""
    first, second = factories.make_prompt(project=project), factories.make_prompt(project=project)
    for prompt in (first, second):
        write(prompt, base, "Please wait.")
        write(prompt, policy, "It comes today.", score=1.0, reward_model=1)
    browser, path = sign_in(reviewer), url(project, f"versions/compare/?a={base.pk}&b={policy.pk}&sort=gain")
    response = browser.get(path)
    assert "reward gain</option>" not in response.content.decode()
    assert "No reward gain here" in response.content.decode() and response.context["sort"] == "prompt"
    write(first, base, "Please wait a day.", score=0.5, reward_model=1)
    response = browser.get(path)
    assert "reward gain</option>" in response.content.decode() and response.context["sort"] == "gain"
    assert "No reward gain here" not in response.content.decode()


@pytest.mark.parametrize(
    ("old", "new", "removed", "added"),
    [
        ("a b c", "a x c", ["b"], ["x"]),
        ("a b c", "a b c", [], []),
        ("", "new", [], ["new"]),
        ("one two three", "four five", ["one two three"], ["four five"]),
        ("Wait.", "Wait, please.", [], [", please"]),
    ],
)
def test_word_diff(old: str, new: str, removed: list[str], added: list[str]) -> None:
    ours, theirs = word_diff(old, new)
    assert "".join(part.text for part in ours) == old
    assert "".join(part.text for part in theirs) == new
    assert [part.text for part in ours if not part.kept] == removed
    assert [part.text for part in theirs if not part.kept] == added


def test_nothing_in_common_offers_to_write(
    project: Any, engineer: Any, reviewer: Any, sign_in: Any, base: Any, policy: Any
) -> None:
    path = url(project, f"versions/compare/?a={base.pk}&b={policy.pk}")
    page = sign_in(engineer).get(path).content.decode()
    assert "Empty so far" in page and "no completions of the same prompts" in page
    assert ">Let both write</button>" in page and "reward gain" not in page
    page = sign_in(reviewer).get(path).content.decode()
    assert ">Let both write</button>" not in page and "role engineer" in page


def test_prompts_set_aside_are_hidden_until_a_review_has_judged_them(
    project: Any, admin: Any, sign_in: Any, base: Any, policy: Any
) -> None:
    """Somebody let both versions answer a review prompt by hand; the other prompt is anybody's to read."""
    aside, other = (factories.make_prompt(project=project, split=split) for split in ("review", "train"))
    texts = {}
    for prompt in (aside, other):
        for version in (base, policy):
            texts[prompt, version] = write(prompt, version, f"{version} on {prompt.split}")
    browser = sign_in(admin)
    path = url(project, f"versions/compare/?a={base.pk}&b={policy.pk}")
    page = browser.get(path).content.decode()
    assert "v1 on train" in page and "Prompt 1 of 1" in page and "1 prompt is hidden" in page
    comparison = factories.make_comparison(prompt=aside, purpose="review")
    review = Review.objects.create(
        project=project, candidate=policy, baseline=base, state="judging", plan={"prompts": 1, "overlap": 1}
    )
    ReviewItem.objects.create(
        review=review,
        comparison=comparison,
        candidate_completion=texts[aside, policy],
        baseline_completion=texts[aside, base],
    )
    assert "v1 on review" not in browser.get(path).content.decode()
    Review.objects.update(state="closed")
    page = browser.get(path).content.decode()
    assert "v1 on review" in page and "Prompt 1 of 2" in page and "hidden until" not in page


def test_both_write_what_is_missing(
    project: Any, engineer: Any, sign_in: Any, base: Any, policy: Any
) -> None:
    prompts = [factories.make_prompt(project=project, split="train") for _number in range(3)]
    write(prompts[0], base, "There already.")
    response = sign_in(engineer).post(url(project, "versions/write/"), {"a": base.pk, "b": policy.pk})
    assert response.url == url(project, "runs/")
    asked = {
        read.model_version: read.run.inputs.get(name="prompts").snapshot.counts["prompts"]
        for read in RunInput.objects.filter(run__kind="sample", name="policy")
    }
    assert asked == {base: 2, policy: 3}
    assert not Run.objects.filter(kind="sample").exclude(purpose={}).exists(), (
        "nothing is put up for judgement"
    )


def test_one_version_beside_itself_writes_nothing(
    project: Any, engineer: Any, sign_in: Any, base: Any
) -> None:
    response = sign_in(engineer).post(
        url(project, "versions/write/"), {"a": base.pk, "b": base.pk}, follow=True
    )
    assert "Choose two different versions." in response.content.decode()
    assert not Run.objects.exists()


# --- promote and roll back --------------------------------------------------------------------------


def test_promote_warns_without_a_review(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    page = sign_in(admin).get(url(project, f"versions/{policy.pk}/promote/")).content.decode()
    assert "has never been reviewed" in page


def test_promote_needs_a_reason_and_moves_the_pointer(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    browser = sign_in(admin)
    path = url(project, f"versions/{policy.pk}/promote/")
    for reason in ("", "   "):
        assert browser.post(path, {"reason": reason, "expected": promoted.pk}).status_code == 422
    assert registry.promoted(project) == promoted
    response = browser.post(path, {"reason": "shorter and kinder", "expected": promoted.pk})
    assert response.url == url(project, "")
    assert registry.promoted(project) == policy
    promotion = Promotion.objects.first()
    assert promotion is not None and (promotion.reason, promotion.by) == ("shorter and kinder", admin)
    assert AuditEntry.objects.filter(action="version.promote", actor=admin).exists()


def test_promote_against_a_stale_page(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    other = factories.make_model_version(project=project, number=2)
    registry.promote(other, actor=None, reason="first come", expected=promoted)
    response = sign_in(admin).post(
        url(project, f"versions/{policy.pk}/promote/"), {"reason": "mine", "expected": promoted.pk}
    )
    assert response.status_code == 409
    assert "Somebody else promoted v2" in response.content.decode()
    assert registry.promoted(project) == other


def test_a_damaged_version_is_refused(
    project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any
) -> None:
    (policy.path / "config.json").write_text("other")
    response = sign_in(admin).post(
        url(project, f"versions/{policy.pk}/promote/"), {"reason": "why not", "expected": promoted.pk}
    )
    assert response.status_code == 409
    assert "is damaged" in response.content.decode()
    assert registry.promoted(project) == promoted


def test_a_reward_model_cannot_be_promoted(project: Any, admin: Any, sign_in: Any) -> None:
    reward = factories.make_model_version(project=project, kind="reward", number=1)
    assert sign_in(admin).get(url(project, f"versions/{reward.pk}/promote/")).status_code == 404


def test_roll_back(project: Any, admin: Any, sign_in: Any, promoted: Any, policy: Any) -> None:
    browser = sign_in(admin)
    path = url(project, "versions/roll-back/")
    assert "no earlier version" in browser.get(path).content.decode()
    assert browser.post(path, {"reason": "back"}).status_code == 409
    registry.promote(policy, actor=admin, reason="forward", expected=promoted)
    assert "Roll back to v0" in browser.get(path).content.decode()
    assert browser.post(path, {"reason": "back", "expected": promoted.pk}).status_code == 409
    browser.post(path, {"reason": "it was rude", "expected": policy.pk})
    assert registry.promoted(project) == promoted
    assert "v1 rolled back" in browser.get(url(project, "")).content.decode()
