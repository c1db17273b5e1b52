"""The figures of how people judge, against counts by hand and against the code that training reads."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from feedback.agreement import directions
from feedback.models import (
    Assignment,
    Candidate,
    Comparison,
    ComparisonKind,
    Completion,
    Preference,
    Project,
    Prompt,
    User,
)
from feedback.ordering import order_of
from feedback.quality import Quality, quality_of
from feedback.quality_disagreements import disagreements
from feedback.quality_rows import ANSWERS, SCORES, rows_of
from feedback.views.quality_charts import number, shade
from tests.factories import make_comparison, make_member, make_preference, make_project, make_user

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]
PAIRWISE, RANKING, RATING = ComparisonKind.PAIRWISE, ComparisonKind.RANKING, ComparisonKind.RATING


def measured(project: Project, *, simulated: bool = False) -> Quality:
    return quality_of(project, rows_of(project, simulated=simulated), simulated=simulated)


def figures(project: Project, kind: ComparisonKind = PAIRWISE) -> dict[str, float | None]:
    (found,) = [row for row in measured(project).kinds if row.kind == kind]
    return {row.name: row.estimate.value for row in found.agreements}


def judged_by(people: list[User], project: Project, *said: int, **fields: Any) -> Comparison:
    comparison = make_comparison(project=project, overlap=len(said), **fields)
    for person, strength in zip(people, said, strict=False):
        make_preference(comparison=comparison, annotator=person, strength=strength)
    return comparison


@pytest.fixture
def people(project: Project) -> list[User]:
    return [make_member(project=project) for _ in range(3)]


@pytest.fixture
def only_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages look at the latest three judgements of a kind."""
    for name in ("feedback.quality_rows.LATEST", "feedback.quality.LATEST", "feedback.views.quality.LATEST"):
        monkeypatch.setattr(name, 3)


@pytest.mark.usefixtures("only_three")
def test_pages_say_what_they_leave_out_only_when_they_do(
    project: Project, people: list[User], sign_in: SignIn
) -> None:
    client = sign_in(make_member(project=project, role="reviewer"))
    judged_by(people, project, 1, -1, 2)  # three: all of them are looked at
    listed, figures = reverse("disagreements", args=[project.slug]), reverse("quality", args=[project.slug])
    assert "latest 3 judgements" not in client.get(listed).content.decode()
    assert "latest 3 judgements" not in client.get(figures).content.decode()
    judged_by(people, project, 1)
    assert "earlier disagreements are not listed" in client.get(listed).content.decode()
    assert "latest 3 judgements" in client.get(figures).content.decode()
    decided = client.get(f"{listed}?show=decided").content.decode()
    assert "not listed" not in decided  # of decisions there all are


def test_reasons_are_translated_where_they_are_shown(
    project: Project, people: list[User], sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(people, project, 1, 1)
    client = sign_in(make_member(project=project, role="reviewer"))
    page = reverse("quality", args=[project.slug])
    assert "everybody always gave the same one answer" in client.get(page).content.decode()
    monkeypatch.setattr("feedback.views.quality._", lambda words: f"<{words}>")
    assert "&lt;everybody always gave the same one answer&gt;" in client.get(page).content.decode()


# --- agreement --------------------------------------------------------------------------------------


def test_the_order_is_the_one_that_training_reads() -> None:
    """`feedback.ordering` decides what a judgement becomes; here it is read again, faster."""
    draw = random.Random(5)
    for _case in range(300):
        count = draw.randrange(2, 7)
        ranks = [draw.randrange(4) for _ in range(count)]
        groups = [[place for place in range(count) if ranks[place] == rank] for rank in sorted(set(ranks))]
        ratings = [{"helpful": draw.randrange(1, 6), "honest": draw.randrange(1, 6)} for _ in range(count)]
        for kind, said in ((PAIRWISE, draw.randrange(-3, 4)), (RANKING, groups), (RATING, ratings)):
            signs = directions(SCORES[kind](said))
            trained = order_of({ANSWERS[kind]: said})
            assert signs == [
                0 if pair.tie else 1 if pair.better < pair.worse else -1 for pair in trained
            ]  # fmt: skip


def test_pairwise_figures_by_hand(project: Project, people: list[User]) -> None:
    """Four comparisons by two people: on the direction they say 00, 11, 01, tie tie."""
    for said in ((-3, -1), (2, 2), (-2, 1), (0, 0)):
        judged_by(people, project, *said)
    found = figures(project)
    assert found["Raw agreement"] == 3 / 4
    # Directions: better 0 is said 3 times, better 1 three times, tie twice, of 8.
    expected = (9 + 9 + 4) / 64
    assert found["Fleiss' kappa"] == pytest.approx((3 / 4 - expected) / (1 - expected))
    # Ordinal, values -3 -2 -1 0 0 1 2 2; halves below: .5 1.5 2.5 4 4 5.5 7 7.
    middle = {-3: 0.5, -2: 1.5, -1: 2.5, 0: 4, 1: 5.5, 2: 7}
    values = [-3, -2, -1, 0, 0, 1, 2, 2]
    observed = 2 * ((middle[-3] - middle[-1]) ** 2 + (middle[-2] - middle[1]) ** 2)
    everything = sum((middle[a] - middle[b]) ** 2 for a in values for b in values) / 7
    assert found["Krippendorff's alpha"] == pytest.approx(1 - observed / everything)
    (of_kind,) = measured(project).kinds
    assert (of_kind.judged, of_kind.comparisons, of_kind.prompts) == (8, 4, 4)
    (cell,) = of_kind.cells.values()
    # Cohen: the first says 2 x better 0, 1 x better 1, 1 tie; the second 1, 2, 1.
    chance = (2 * 1 + 1 * 2 + 1 * 1) / 16
    assert cell.estimate.value == pytest.approx((3 / 4 - chance) / (1 - chance)) and cell.comparisons == 4


def test_agreement_is_on_completions_and_never_on_sides(project: Project, people: list[User]) -> None:
    """Both press A, but were shown opposite orders: they disagree."""
    for _number in range(3):
        comparison = make_comparison(project=project, overlap=2)
        for person, order in zip(people, ([0, 1], [1, 0]), strict=False):
            strength = -2 if order == [0, 1] else 2
            make_preference(comparison=comparison, annotator=person, strength=strength, shown_order=order)
    assert figures(project)["Raw agreement"] == 0
    overall = measured(project).position.overall
    assert (overall.value, overall.total) == (1, 6)


def test_fleiss_takes_the_number_of_judgements_that_most_have(project: Project, people: list[User]) -> None:
    for said in ((1, 1), (2, 1), (-1, -1), (1, 1, 1)):
        judged_by(people, project, *said)
    (of_kind,) = measured(project).kinds
    fleiss = next(row for row in of_kind.agreements if row.name == "Fleiss' kappa")
    assert "2 judgements each" in fleiss.meaning
    assert fleiss.estimate.value == pytest.approx(1)


def test_undefined_says_why(project: Project, people: list[User]) -> None:
    for _number in range(6):
        judged_by(people, project, 2, 2)
    (of_kind,) = measured(project).kinds
    by_name = {row.name: row.estimate for row in of_kind.agreements}
    for name in ("Fleiss' kappa", "Krippendorff's alpha"):
        assert by_name[name].value is None and "same one answer" in by_name[name].reason
    assert by_name["Raw agreement"].value == 1


def test_ranking_figures_by_hand(project: Project, people: list[User]) -> None:
    """Of three pairs each: 0>1>2 against 0>2>1 agree on two; [0]>[1,2] against itself on all three."""
    for rankings in (([[0], [1], [2]], [[0], [2], [1]]), ([[0], [1, 2]], [[0], [1, 2]])):
        comparison = make_comparison(project=project, kind="ranking", texts=("a", "b", "c"), overlap=2)
        for person, ranking in zip(people, rankings, strict=False):
            make_preference(comparison=comparison, annotator=person, ranking=ranking)
    found = figures(project, RANKING)
    assert found["Raw agreement"] == 5 / 6
    assert found["Kendall's tau-b"] == pytest.approx((1 / 3 + 1) / 2)


def test_rating_figures_are_by_criterion(project: Project, people: list[User]) -> None:
    """On helpful they always say the same, on honest the opposite, on harmless always 3."""
    for low, high in ((1, 5), (2, 4), (5, 1)):
        comparison = make_comparison(project=project, kind="rating", overlap=2)
        for person, honest in zip(people, (low, high), strict=False):
            ratings = [
                {"helpful": low, "harmless": 3, "honest": honest},
                {"helpful": high, "harmless": 3, "honest": honest},
            ]
            make_preference(comparison=comparison, annotator=person, ratings=ratings)
    found = figures(project, RATING)
    assert found["Krippendorff's alpha: helpful"] == 1
    assert found["Krippendorff's alpha: harmless"] is None
    assert (found["Krippendorff's alpha: honest"] or 0) < 0
    assert found["Raw agreement"] == 1


def test_ratings_of_one_completion_agree_by_criterion_alone(project: Project, people: list[User]) -> None:
    comparison = make_comparison(project=project, kind="rating", texts=("a",), overlap=2)
    for person, given in zip(people, (2, 4), strict=False):
        make_preference(comparison=comparison, annotator=person, ratings=[{"helpful": given}])
    found = figures(project, RATING)
    assert found["Raw agreement"] is None
    assert found["Krippendorff's alpha: helpful"] == pytest.approx(0)
    assert disagreements(rows_of(project, simulated=False))[0].spread == 0.5


def test_what_does_not_count(project: Project, people: list[User]) -> None:
    """Simulated, imported, replaced, taken back; gold and review; other projects."""
    first, second, third = people
    comparison = judged_by([first], project, 2)
    robot = make_user(simulated=True)
    make_preference(comparison=comparison, annotator=robot, strength=-2, simulated=True)
    make_preference(comparison=comparison, annotator=second, strength=-2, imported=True)
    before = make_preference(comparison=comparison, annotator=third, strength=-3)
    later = {"assignment": before.assignment, "comparison": comparison, "annotator": third}
    Preference.objects.create(
        **later, supersedes=before, strength=3, shown_order=[0, 1], idempotency_key="later", body_hash=""
    )
    for fields in ({"purpose": "gold", "gold_answer": {"strength": 1}}, {"purpose": "review"}):
        judged_by(people, project, -3, 3, **fields)
    judged_by(people, make_project(), -3, 3)
    found = measured(project)
    (of_kind,) = found.kinds
    assert (of_kind.judged, of_kind.comparisons) == (2, 1)
    assert figures(project)["Raw agreement"] == 1
    assert set(found.paces) == {first.pk, third.pk}
    simulated = measured(project, simulated=True)
    assert (simulated.pace.judged, set(simulated.paces)) == (1, {robot.pk})


# --- what sways, and time ---------------------------------------------------------------------------


def test_position_and_length_by_hand(project: Project, people: list[User]) -> None:
    first, second, _third = people
    cases = [
        # texts, shown, strength: the first of the screen? the longer one?
        (first, ("long one", "short"), [0, 1], -2),  # yes, yes
        (first, ("long one", "short"), [1, 0], -2),  # no, yes
        (first, ("short", "long one"), [0, 1], -1),  # yes, no
        (first, ("same", "size"), [0, 1], -1),  # yes, of one length
        (second, ("short", "long one"), [1, 0], 3),  # yes, yes
        (second, ("short", "long one"), [1, 0], 0),  # a tie
    ]
    for person, texts, shown, strength in cases:
        comparison = make_comparison(project=project, texts=texts)
        make_preference(comparison=comparison, annotator=person, strength=strength, shown_order=shown)
    found = measured(project)
    position, length = found.position, found.length
    assert (position.overall.value, position.overall.total) == (4 / 5, 5)
    assert (length.overall.value, length.overall.total) == (3 / 4, 4)
    assert {person: (share.value, share.total) for person, share in position.by_annotator.items()} == {
        first.pk: (3 / 4, 4), second.pk: (1, 1)
    }  # fmt: skip
    assert {person: (share.value, share.total) for person, share in length.by_annotator.items()} == {
        first.pk: (2 / 3, 3), second.pk: (1, 1)
    }  # fmt: skip


def test_a_ranking_is_swayed_by_every_two_of_its_completions(project: Project, people: list[User]) -> None:
    """Shown 2, 0, 1; ranked 0 > 2 > 1. First shown preferred: of (0,1) and (2,1), not of (0,2)."""
    comparison = make_comparison(project=project, kind="ranking", texts=("aaa", "a", "aa"))
    make_preference(
        comparison=comparison, annotator=people[0], ranking=[[0], [2], [1]], shown_order=[2, 0, 1]
    )
    found = measured(project)
    assert (found.position.overall.value, found.position.overall.total) == (2 / 3, 3)
    assert found.length.overall.value == 1


def test_time_is_active_time_in_quartiles(project: Project, people: list[User]) -> None:
    for active_ms in (1000, 2000, 3000, 4000, None):
        make_preference(project=project, annotator=people[0], active_ms=active_ms)
    pace = measured(project).paces[people[0].pk]
    assert pace.seconds == (1.75, 2.5, 3.25)
    assert (pace.judged, pace.measured) == (5, 4)


# --- disagreement -----------------------------------------------------------------------------------


def test_disagreements_widest_first(project: Project, people: list[User]) -> None:
    narrow = judged_by(people, project, 1, 2)
    widest = judged_by(people, project, -3, 3)
    judged_by(people, project, 2, 2)
    three = judged_by(people, project, -1, 0, 2)
    judged_by(people, project, 3)
    found = disagreements(rows_of(project, simulated=False))
    # Mean distance of every two, of the six steps there are: 6/6; (1 + 3 + 2)/3/6; 1/6.
    assert [(row.comparison, row.spread) for row in found] == [
        (widest.pk, 1.0), (three.pk, round(2 / 6, 6)), (narrow.pk, round(1 / 6, 6))
    ]  # fmt: skip


def test_reversed_rankings_and_ratings_are_as_far_apart_as_can_be(
    project: Project, people: list[User]
) -> None:
    ranking = make_comparison(project=project, kind="ranking", texts=("a", "b", "c"), overlap=2)
    rating = make_comparison(project=project, kind="rating", overlap=2)
    for person, groups, ratings in (
        (people[0], [[0], [1], [2]], [{"helpful": 1}, {"helpful": 5}]),
        (people[1], [[2], [1], [0]], [{"helpful": 5}, {"helpful": 1}]),
    ):
        make_preference(comparison=ranking, annotator=person, ranking=groups)
        make_preference(comparison=rating, annotator=person, ratings=ratings)
    assert [row.spread for row in disagreements(rows_of(project, simulated=False))] == [1, 1]


# --- the pages --------------------------------------------------------------------------------------


def page(client: Client, project: Project, name: str = "quality", query: str = "") -> Any:
    return client.get(reverse(name, args=[project.slug]) + query)


def test_reviewers_and_above(
    project: Project, annotator: User, reviewer: User, engineer: User, sign_in: SignIn
) -> None:
    for name in ("quality", "disagreements"):
        assert page(sign_in(annotator), project, name).status_code == 404
        for person in (reviewer, engineer):
            assert page(sign_in(person), project, name).status_code == 200
    assert reverse("quality", args=[project.slug]) in page(sign_in(reviewer), project).content.decode()


def test_an_empty_project_says_what_to_do(project: Project, reviewer: User, sign_in: SignIn) -> None:
    client = sign_in(reviewer)
    assert "Nobody has judged here yet" in page(client, project).content.decode()
    assert "Nothing by simulated" in page(client, project, query="?by=simulated").content.decode()
    assert "People agree" in page(client, project, "disagreements").content.decode()
    assert (
        "Nothing is decided yet" in page(client, project, "disagreements", "?show=decided").content.decode()
    )


def test_the_page_has_each_figure_in_words_and_drawn(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn
) -> None:
    draw = random.Random(1)
    for _number in range(20):
        better = draw.choice((-2, 2))
        judged_by(people, project, better, better, draw.randrange(-3, 4))
    html = page(sign_in(reviewer), project).content.decode()
    for words in ("Raw agreement", "Fleiss&#x27; kappa", "Krippendorff&#x27;s alpha", "Who agrees with whom"):
        assert words in html
    # Every drawing has its words, and none needs a style attribute or a script. Three figures; all and
    # three people by position, by length where lengths differ, and by time.
    drawn = 3 + 4 + 4 + (4 if "Longer preferred" in html else 0)
    assert html.count("<svg") == html.count('role="img" aria-label="') == drawn
    assert " style=" not in html
    assert "People disagree on" in html


def test_people_and_simulated_annotators_are_never_mixed(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn
) -> None:
    comparison = judged_by(people, project, 1, 1)
    robot = make_user(username="the-robot", simulated=True)
    make_preference(comparison=comparison, annotator=robot, strength=-3, simulated=True)
    client = sign_in(reviewer)
    ours = page(client, project)
    assert ours.context["judged"] == 2 and "the-robot" not in ours.content.decode()
    theirs = page(client, project, query="?by=simulated")
    assert theirs.context["judged"] == 1 and "not people" in theirs.content.decode()
    assert people[0].username not in theirs.content.decode()


def test_disagreements_are_in_pages_and_leave_when_decided(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn
) -> None:
    for _number in range(12):
        judged_by(people, project, -1, 2)
    client = sign_in(reviewer)
    first = page(client, project, "disagreements")
    assert (len(first.context["rows"]), first.context["undecided"]) == (10, 12)
    assert len(page(client, project, "disagreements", "?page=2").context["rows"]) == 2
    pk = first.context["rows"][0]["comparison"].pk
    client.post(reverse("adjudication", args=[project.slug, pk]), {"since": "", "strength": "1"})
    after = page(client, project, "disagreements")
    assert (after.context["undecided"], after.context["decided"]) == (11, 1)
    (row,) = page(client, project, "disagreements", "?show=decided").context["rows"]
    assert row["comparison"].pk == pk and row["decision"]["words"] == "B slightly"
    assert [said["words"] for said in row["said"]] == ["A slightly", "B better"]


@pytest.mark.parametrize("name", ["quality", "disagreements"])
def test_the_number_of_queries_does_not_grow(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn, name: str
) -> None:
    client = sign_in(reviewer)
    judged_by(people, project, -1, 2)
    with CaptureQueriesContext(connection) as few:
        page(client, project, name)
    for kind in ("pairwise", "ranking", "rating"):
        fill(project, people, 8, kind=kind)
    with CaptureQueriesContext(connection) as many:
        assert page(client, project, name).status_code == 200
    assert len(many) == len(few) <= 16


@pytest.mark.parametrize("name", ["quality", "disagreements"])
@pytest.mark.parametrize("kind", ["pairwise", "ranking", "rating"])
def test_twice_the_judgements_are_at_most_twice_the_work(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn, kind: str, name: str
) -> None:
    """Counted in calls of functions, which no busy machine changes; a square would be four times as many."""
    client = sign_in(reviewer)
    fill(project, people, 200, kind=kind)
    page(client, project, name)  # what is read once in a process
    first = calls_of(lambda: page(client, project, name))
    fill(project, people, 200, kind=kind, begin=200)
    assert calls_of(lambda: page(client, project, name)) < 2.1 * first


def calls_of(work: Callable[[], object]) -> int:
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def fill(project: Project, people: list[User], comparisons: int, *, kind: str, begin: int = 0) -> None:
    """Comparisons of this kind, each judged by three people at random."""
    draw, now, count = random.Random(2), timezone.now(), 4 if kind == "ranking" else 2
    prompts = Prompt.objects.bulk_create(
        Prompt(project=project, messages=[{"role": "user", "content": str(n)}], content_hash=f"{kind} {n}")
        for n in range(begin, begin + comparisons)
    )
    texts = Completion.objects.bulk_create(
        Completion(prompt=prompt, text="word " * draw.randrange(2, 90), text_hash=str(n), source="imported")
        for prompt in prompts
        for n in range(count)
    )
    made = Comparison.objects.bulk_create(
        Comparison(project=project, prompt=prompt, kind=kind, overlap=3, missing=0, shuffle=n)
        for n, prompt in enumerate(prompts)
    )
    Candidate.objects.bulk_create(
        Candidate(comparison=row, completion=texts[n * count + place], position=place)
        for n, row in enumerate(made)
        for place in range(count)
    )
    held = Assignment.objects.bulk_create(
        Assignment(
            comparison=row, annotator=person, state="judged", lease_expires_at=now,
            shown_order=draw.sample(range(count), count),
        )
        for row in made
        for person in draw.sample(people, 3)
    )  # fmt: skip
    Preference.objects.bulk_create(
        Preference(
            assignment=row, comparison=row.comparison, annotator=row.annotator, kind=kind,
            shown_order=row.shown_order, idempotency_key=f"{kind} {begin} {n}", body_hash="",
            active_ms=draw.randrange(2000, 60_000), **said_of(project, kind, count, draw),
        )
        for n, row in enumerate(held)
    )  # fmt: skip


def said_of(project: Project, kind: str, count: int, draw: random.Random) -> dict[str, Any]:
    if kind == "pairwise":
        return {"strength": draw.randrange(-3, 4)}
    if kind == "ranking":
        return {"ranking": [[place] for place in draw.sample(range(count), count)]}
    return {"ratings": [{name: draw.randrange(1, 6) for name in project.criteria} for _ in range(count)]}


# --- numbers ----------------------------------------------------------------------------------------


def test_numbers_and_shades() -> None:
    assert [number(value) for value in (None, 0.5, -0.25, -0.001)] == ["–", "0.50", "−0.25", "0.00"]
    assert [shade(value) for value in (None, -0.3, 0.1, 0.2, 0.59, 0.7, 1)] == [0, 0, 1, 2, 3, 4, 5]
