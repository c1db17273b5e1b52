"""The figures of how people judge, against counts by hand and against the code that training reads."""

from __future__ import annotations

import random

import pytest
from django.db import connection

from feedback import quality
from feedback.agreement import directions
from feedback.models import (
    ComparisonKind,
    Preference,
    Project,
    User,
)
from feedback.ordering import order_of
from feedback.quality import Quality, quality_of
from feedback.quality_disagreements import disagreements
from feedback.quality_rows import ANSWERS, SCORES, latest, rows_of
from tests.factories import make_comparison, make_preference, make_project, make_user
from tests.feedback.deciding import judged_by

pytestmark = pytest.mark.django_db
PAIRWISE, RANKING, RATING = ComparisonKind.PAIRWISE, ComparisonKind.RANKING, ComparisonKind.RATING


def measured(project: Project, *, simulated: bool = False) -> Quality:
    return quality_of(project, rows_of(project, simulated=simulated), simulated=simulated)


def figures(project: Project, kind: ComparisonKind = PAIRWISE) -> dict[str, float | None]:
    (found,) = [row for row in measured(project).kinds if row.kind == kind]
    return {row.name: row.estimate.value for row in found.agreements}


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


@pytest.mark.skipif(connection.vendor != "sqlite", reason="reads the words of SQLite's planner")
@pytest.mark.parametrize("kind", ANSWERS)
def test_the_latest_of_a_kind_are_found_without_reading_the_others(
    project: Project, kind: ComparisonKind
) -> None:
    plan = latest(project, kind, simulated=False).explain()
    assert "SEARCH feedback_preference USING INDEX latest_of_a_kind (kind=?)" in plan
    assert "TEMP B-TREE" not in plan


def test_lengths_are_those_of_each_comparison_however_many_are_asked_for_at_once(
    project: Project, people: list[User], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [("a", "bb"), ("", "cccc", "d"), ("eee", "f")]
    asked = [make_comparison(project=project, texts=own, overlap=2) for own in texts]
    for comparison in asked[::2]:
        make_preference(comparison=comparison, annotator=people[0], strength=1)
    make_preference(comparison=asked[0], annotator=people[1], strength=1)
    found = rows_of(project, simulated=False)
    for at_once in (1, 5000):
        monkeypatch.setattr(quality, "IN_A_QUERY", at_once)
        assert quality.lengths_of(found) == {asked[0].pk: [1, 2], asked[2].pk: [3, 1]}
