"""Gold comparisons: who is served which and how often, how they are graded, and that nobody can tell."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from feedback import gold, queue, queue_waiting, submitting, taking_back
from feedback.models import AuditEntry, Comparison, Preference, Project, User
from tests.factories import (
    make_comparison,
    make_completion,
    make_member,
    make_preference,
    make_project,
    make_prompt,
    put_up,
)

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


def make_gold(project: Project, strength: int = 2, **fields: object) -> Comparison:
    answer = {"strength": strength}
    return make_comparison(project=project, purpose="gold", gold_answer=answer, overlap=10_000, **fields)


def judge(project: Project, person: User, count: int) -> list[str]:
    """The purposes of what this person is served, each judged with candidate 1 better."""
    served = []
    for number in range(count):
        assignment = queue.claim(project, person)
        if assignment is None:
            break
        served.append(assignment.comparison.purpose)
        strength = 1 if assignment.shown_order == [0, 1] else -1
        submitting.submit(
            assignment, person, fencing_token=assignment.fencing_token, strength=strength,
            key=f"{person.pk}-{project.pk}-{number}-{len(served)}", body_hash="x",
        )  # fmt: skip
    return served


# --- the queue --------------------------------------------------------------------------------------


def test_gold_comes_at_about_the_set_rate() -> None:
    project = make_project(gold_rate=0.25)
    for _number in range(60):
        make_gold(project)
    for _number in range(160):
        make_comparison(project=project)
    served = judge(project, make_member(project=project), 160)
    share = served.count("gold") / len(served)
    assert 0.12 < share < 0.39  # four standard errors: 4 * sqrt(.25 * .75 / 160) = 0.137


def test_without_a_rate_no_gold_is_served() -> None:
    project = make_project()
    make_gold(project)
    make_comparison(project=project)
    assert judge(project, make_member(project=project), 5) == ["training"]


def test_each_person_meets_each_gold_once_and_never_gold_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedback.queue.gold_is_due", lambda project: True)
    project = make_project(gold_rate=0.5, overlap=2)
    standing = {make_gold(project).pk for _number in range(3)}
    for _number in range(2):
        make_comparison(project=project)
    for _person in range(2):
        person = make_member(project=project)
        assert judge(project, person, 9) == ["gold"] * 3 + ["training"] * 2
        met = Preference.objects.filter(annotator=person, comparison__purpose="gold")
        assert {row.comparison_id for row in met} == standing
    assert not Comparison.objects.filter(purpose="gold").exclude(state="open").exists()
    assert queue.claim(project, make_member(project=project)) is None, "no other work, no gold"


def test_gold_is_no_work_that_is_waited_for() -> None:
    project = make_project(gold_rate=0.5)
    make_gold(project)
    waiting = queue_waiting.waiting(project, make_member(project=project))
    assert (waiting.comparisons, waiting.done, waiting.mine, waiting.with_others) == (0, 0, 0, 0)


def test_withdrawn_gold_is_served_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedback.queue.gold_is_due", lambda project: True)
    project = make_project(gold_rate=0.5)
    gold.withdraw_gold(make_gold(project), actor=make_member(project=project))
    make_comparison(project=project)
    assert judge(project, make_member(project=project), 5) == ["training"]


def test_nobody_is_tested_with_what_they_judged_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ana judged what became gold, Ben parts of it and more, Cleo nothing; Dan took his judgement back."""
    monkeypatch.setattr("feedback.queue.gold_is_due", lambda project: True)
    project = make_project(gold_rate=0.5, overlap=9)
    ana, ben, cleo, dan = (make_member(project=project) for _number in range(4))
    prompt = make_prompt(project=project)
    one, two, three = (make_completion(prompt=prompt) for _number in range(3))
    original = put_up(prompt, [one, two])
    hers = make_preference(comparison=original, annotator=ana)
    undone = make_preference(comparison=original, annotator=dan)
    assert taking_back.undo(project, dan, assignment=undone.assignment) is not None
    for others in ([one, three], [one], [one, two, three]):
        kind = {1: "rating", 2: "pairwise", 3: "ranking"}[len(others)]
        said = {"rating": {"ratings": [{"helpful": 3}]}, "ranking": {"ranking": [[1], [0, 2]]}}
        make_preference(comparison=put_up(prompt, others, kind=kind), annotator=ben, **said.get(kind, {}))
    made = gold.make_gold(hers, actor=make_member(project=project, role="engineer"))
    twin = gold.make_gold(hers, actor=make_member(project=project, role="engineer"))
    make_comparison(project=project)  # other work, without which there is no gold
    met = {}
    for person in (ana, ben, cleo, dan):
        judge(project, person, 9)
        rows = Preference.objects.filter(annotator=person, comparison__purpose="gold")
        met[person] = set(rows.values_list("comparison", flat=True))
    both = {made.pk, twin.pk}
    assert met == {ana: set(), ben: both, cleo: both, dan: set()}


# --- grades -----------------------------------------------------------------------------------------


def test_grades_count_right_and_wrong_by_person() -> None:
    project = make_project()
    ann, ben = make_member(project=project), make_member(project=project)
    for number, (hers, his) in enumerate([(3, -1), (1, 1), (2, 0), (-2, -2)]):
        comparison = make_gold(project, 1)
        make_preference(comparison=comparison, annotator=ann, strength=hers)
        if number < 3:
            make_preference(comparison=comparison, annotator=ben, strength=his)
    found = gold.grades(project)
    hers, his = found.by_annotator[ann.pk], found.by_annotator[ben.pk]
    assert (hers.value, hers.total, his.value, his.total) == (0.75, 4, pytest.approx(1 / 3), 3)
    # Wilson's interval of 3 in 4, worked out by hand with z = 1.96: 0.3006 to 0.9544.
    assert (hers.low, hers.high) == (pytest.approx(0.3006, abs=1e-3), pytest.approx(0.9544, abs=1e-3))
    assert gold.share_in_words(hers) == "3 of 4 (30 to 95 %)"
    assert gold.share_in_words(None) == "–"


def test_a_judgement_taken_back_is_not_graded() -> None:
    project = make_project()
    row = make_preference(comparison=make_gold(project), strength=-3)
    taking_back.undo(project, row.annotator, assignment=row.assignment)
    assert gold.grades(project).by_annotator == {}


def test_rankings_and_ratings_are_graded_too() -> None:
    project = make_project()
    person = make_member(project=project)
    ranked = make_comparison(
        project=project, kind="ranking", texts=("a", "b", "c"), purpose="gold",
        gold_answer={"ranking": [[2], [0, 1]]}, overlap=99,
    )  # fmt: skip
    rated = make_comparison(
        project=project, kind="rating", texts=("a",), purpose="gold", gold_answer={"ratings": [{"kind": 2}]},
        overlap=99,
    )  # fmt: skip
    make_preference(comparison=ranked, annotator=person, ranking=[[2], [0], [1]])
    make_preference(comparison=rated, annotator=person, ratings=[{"kind": 3}])
    shares = gold.grades(project).by_comparison
    assert (shares[ranked.pk].value, shares[rated.pk].value) == (0, 1)


# --- pages ------------------------------------------------------------------------------------------


def test_a_judgement_becomes_gold_and_stops_being_it(
    project: Project, sign_in: SignIn, engineer: User
) -> None:
    row = make_preference(project=project, strength=-2)
    browser = sign_in(engineer)
    page = reverse("comparisons", args=[project.slug])
    assert "Make gold" in browser.get(page).content.decode()
    browser.post(reverse("gold_make", args=[project.slug, row.pk]))
    made = Comparison.objects.get(purpose="gold")
    assert (made.gold_answer, made.kind, made.state) == ({"strength": -2}, "pairwise", "open")
    places = [list(c.candidates.values_list("completion", "position")) for c in (made, row.comparison)]
    assert places[0] == places[1] and row.comparison.purpose == "training"
    assert "A better" in browser.get(page).content.decode()
    browser.post(reverse("gold_withdraw", args=[project.slug, made.pk]))
    made.refresh_from_db()
    assert made.state == "withdrawn"
    assert list(AuditEntry.objects.order_by("pk").values_list("action", flat=True)) == [
        "gold.made",
        "gold.withdrawn",
    ]


def test_what_is_no_answer_becomes_no_gold(project: Project, sign_in: SignIn, engineer: User) -> None:
    elsewhere = make_preference()
    imported = make_preference(project=project, imported=True)
    robots = make_preference(project=project, simulated=True)
    undone = make_preference(project=project)
    taking_back.undo(project, undone.annotator, assignment=undone.assignment)
    browser = sign_in(engineer)
    for row in (elsewhere, imported, robots, undone):
        browser.post(reverse("gold_make", args=[project.slug, row.pk]))
    assert not Comparison.objects.filter(purpose="gold").exists()
    with pytest.raises(gold.NoGold):
        gold.make_gold(Preference(kind="pairwise", withdrawn=True), actor=engineer)


@pytest.mark.parametrize("role", ["annotator", "reviewer"])
def test_gold_is_out_of_sight_for_those_who_judge(project: Project, sign_in: SignIn, role: str) -> None:
    standing, row = make_gold(project), make_preference(project=project)
    browser = sign_in(make_member(project=project, role=role))
    assert browser.get(reverse("comparisons", args=[project.slug])).status_code == 404
    for name, pk in (("gold_make", row.pk), ("gold_withdraw", standing.pk)):
        assert browser.post(reverse(name, args=[project.slug, pk])).status_code == 404
    assert browser.post(reverse("comparisons_put_up", args=[project.slug]), {"prompts": 5}).status_code == 404


def test_the_people_page_tells_how_often_gold_was_found(
    project: Project, sign_in: SignIn, admin: User
) -> None:
    person = make_member(project=project)
    for strength in (1, 2, 3, -1):
        make_preference(comparison=make_gold(project), annotator=person, strength=strength)
    page = sign_in(admin).get(reverse("people", args=[project.slug])).content.decode()
    assert "3 of 4 (30 to 95 %)" in page


def test_what_waits_is_put_up_by_the_kind_of_the_project(sign_in: SignIn) -> None:
    project = make_project(kind="ranking", candidates=3)
    browser = sign_in(make_member(project=project, role="engineer"))
    for count in (3, 2, 4):
        prompt = make_prompt(project=project)
        for _number in range(count):
            make_completion(prompt=prompt)
    make_completion(prompt=prompt, source="written")
    held_out = make_prompt(project=project, split="held_out")
    for _number in range(3):
        make_completion(prompt=held_out)
    url = reverse("comparisons_put_up", args=[project.slug])
    assert browser.post(url, {"prompts": 1}).status_code == 302
    assert Comparison.objects.count() == 1
    browser.post(url, {"prompts": 10})
    assert [row.candidates.count() for row in Comparison.objects.all()] == [3, 3]
    browser.post(url, {"prompts": 10})
    assert Comparison.objects.count() == 2
    Project.objects.update(kind="demonstration")
    browser.post(url, {"prompts": 2})
    assert Comparison.objects.filter(kind="demonstration").count() == 2
    assert browser.post(url, {"prompts": 0}).status_code == 422
