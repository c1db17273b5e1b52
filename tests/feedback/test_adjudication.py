"""A reviewer's decision: it wins in training and exports, counts in no statistic, takes nobody's place."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from feedback import adjudication, guards, imports, queue
from feedback.exports import ExportFormat, Selection, export
from feedback.models import Assignment, AuditEntry, Comparison, Preference, Project, User
from feedback.quality import quality_of
from feedback.quality_disagreements import disagreements
from feedback.quality_rows import rows_of
from tests.factories import (
    make_comparison,
    make_completion,
    make_member,
    make_preference,
    make_project,
    make_prompt,
    put_up,
)
from training import snapshots
from training.forms import freezable
from training.guards import ALL
from training.loop import count_judgements

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


@pytest.fixture
def disputed(project: Project) -> Comparison:
    """Two people, opposite ways."""
    comparison = make_comparison(project=project, texts=("left", "right"), overlap=2)
    for strength in (-3, 2):
        make_preference(comparison=comparison, strength=strength)
    return comparison


def decide(comparison: Comparison, reviewer: User, strength: int = 1, **said: Any) -> Preference:
    last = adjudication.adjudications(comparison).first()
    return adjudication.adjudicate(
        comparison, reviewer, {"strength": strength, **said}, since=last and last.pk
    )


def told(project: Project, format: ExportFormat = ExportFormat.TRL) -> list[Any]:
    text = b"".join(export(project, format, Selection())).decode()
    return (
        json.loads(text) if format == ExportFormat.LABEL_STUDIO else list(map(json.loads, text.splitlines()))
    )


def chosen(project: Project) -> list[tuple[str, float]]:
    return [(row["chosen"][0]["content"], row["margin"]) for row in told(project)]


# --- what trains ------------------------------------------------------------------------------------


def test_the_decision_alone_says_the_order(project: Project, disputed: Comparison, reviewer: User) -> None:
    assert chosen(project) == [("left", 3.0), ("right", 2.0)]
    decide(disputed, reviewer, 1)
    assert chosen(project) == [("right", 1.0)]
    decide(disputed, reviewer, -2)
    assert chosen(project) == [("left", 2.0)]
    adjudication.withdraw(disputed, reviewer, since=adjudication.adjudications(disputed)[0].pk)
    assert chosen(project) == [("left", 3.0), ("right", 2.0)]
    # What happened stays: two decisions, one withdrawal, each superseding the one before.
    rows = list(adjudication.adjudications(disputed))
    assert [row.withdrawn for row in rows] == [True, False, False]
    assert [row.supersedes_id for row in rows] == [rows[1].pk, rows[2].pk, None]


def test_pairs_of_a_single_row_know_it_too(disputed: Comparison, reviewer: User) -> None:
    decide(disputed, reviewer)
    found = {row.adjudication: len(row.pairs()) for row in disputed.preferences.all()}
    assert found == {False: 0, True: 1}


def test_a_decided_tie_is_no_pair_of_an_export(
    project: Project, disputed: Comparison, reviewer: User
) -> None:
    decide(disputed, reviewer, 0, acceptability="neither")
    assert chosen(project) == []


def test_what_annotators_wrote_stays(project: Project, reviewer: User) -> None:
    """A correction is no opinion on the order: a decision on that leaves it alone."""
    prompt = make_prompt(project=project)
    pair = [make_completion(prompt=prompt, text=text) for text in ("a", "b")]
    comparison = put_up(prompt, pair, overlap=2)
    mended = make_completion(prompt=prompt, text="a, mended", source="corrected", corrected_from=pair[0])
    make_preference(
        comparison=comparison, strength=-3, written=mended, corrects=pair[0], acceptability="both"
    )
    make_preference(comparison=comparison, strength=3)
    decide(comparison, reviewer, 2)
    assert chosen(project) == [("a, mended", 1.0), ("b", 2.0)]
    unpaired = told(project, ExportFormat.UNPAIRED)
    said = [(row["completion"][0]["content"], row["label"]) for row in unpaired]
    # "both are good enough" was overruled with the rest; that the mended one is better was not.
    assert said == [("a", False), ("a, mended", True), ("a", False), ("b", True)]
    assert len(told(project, ExportFormat.DEMONSTRATIONS)) == 1
    assert len(told(project, ExportFormat.LABEL_STUDIO)) == 1


def test_rankings_and_ratings_are_decided_alike(project: Project, reviewer: User) -> None:
    ranking = make_comparison(project=project, kind="ranking", texts=("a", "b", "c"), overlap=2)
    for groups in ([[0], [1], [2]], [[2], [1], [0]]):
        make_preference(comparison=ranking, ranking=groups)
    row = adjudication.adjudicate(ranking, reviewer, {"ranking": [[1], [0, 2]]}, since=None)
    assert [(pair.chosen.text, pair.rejected.text) for pair in row.pairs() if not pair.tie] == [
        ("b", "a"), ("b", "c")
    ]  # fmt: skip
    rating = make_comparison(project=project, kind="rating", texts=("d", "e"), overlap=2)
    for ratings in ([{"helpful": 5}, {"helpful": 1}], [{"helpful": 1}, {"helpful": 5}]):
        make_preference(comparison=rating, ratings=ratings)
    decided = [{"helpful": 4}, {"helpful": 2}]
    row = adjudication.adjudicate(rating, reviewer, {"ratings": decided}, since=None)
    assert [(pair.chosen.text, pair.margin) for pair in row.pairs()] == [("d", 2.0)]
    assert sorted(chosen(project)) == [("b", 1.0), ("b", 1.0), ("d", 2.0)]


def test_a_snapshot_holds_the_decision(project: Project, disputed: Comparison, reviewer: User) -> None:
    for _number in range(12):
        make_preference(project=project)
    before = snapshots.freeze_preferences(project, actor=None)
    row = decide(disputed, reviewer, 1)
    after = snapshots.freeze_preferences(project, actor=None)
    assert (before.counts["pairs"], after.counts["pairs"]) == (14, 13)
    assert (before.counts["preferences"], after.counts["preferences"]) == (14, 13)
    lines = [json.loads(line) for line in after.path.read_text().splitlines()]
    (own,) = [line for line in lines if line["preference_id"] == row.pk]
    assert (own["chosen"], own["margin"]) == ("right", 1.0)
    # Nobody's habit and nobody's agreement: it is no annotator's opinion.
    assert "annotator" not in own and "agreement" not in own
    counted = freezable(project)
    assert (counted.pairs, counted.decided) == (13, after.counts["pairs"] - after.counts["ties"])


def test_everything_says_which_rows_are_decisions_and_which_are_overruled(
    project: Project, disputed: Comparison, reviewer: User
) -> None:
    decide(disputed, reviewer, 1, comment="The left one is rude.")
    rows = told(project, ExportFormat.JUDGEMENTS)
    facts = [
        (row["adjudication"], row["overruled"], row["in_force"], row["opened_at"] is None) for row in rows
    ]
    assert facts == [(False, True, True, False), (False, True, True, False), (True, False, True, True)]
    assert rows[2]["comment"] == "The left one is rude."


def test_an_export_asks_no_more_with_decisions(project: Project, reviewer: User) -> None:
    comparisons = [make_comparison(project=project, overlap=2) for _ in range(20)]
    for comparison in comparisons:
        make_preference(comparison=comparison, strength=1)
    with CaptureQueriesContext(connection) as before:
        told(project)
    for comparison in comparisons:
        decide(comparison, reviewer, -1)
    with CaptureQueriesContext(connection) as after:
        assert len(told(project)) == 20
    assert len(after) == len(before)


# --- what it leaves alone ---------------------------------------------------------------------------


def test_it_counts_in_no_statistic(project: Project, disputed: Comparison, reviewer: User) -> None:
    found = rows_of(project, simulated=False)
    before = quality_of(project, found, simulated=False)
    apart = disagreements(found)
    decide(disputed, reviewer, 3)
    found = rows_of(project, simulated=False)
    assert quality_of(project, found, simulated=False) == before
    assert disagreements(found) == apart
    assert Preference.objects.filter(comparison=disputed).current().count() == 2
    assert Preference.objects.filter(comparison=disputed).in_force().by_people().count() == 2


def test_the_loop_counts_what_trains(project: Project, disputed: Comparison, reviewer: User) -> None:
    """Against `pairs()` of every row: what a decision overrules is not waited for and not counted."""

    def by_pairs() -> int:
        rows = Preference.objects.deciding().filter(comparison__project=project)
        return sum(any(not pair.tie for pair in row.pairs()) for row in rows)

    def counted() -> tuple[int, int]:
        found = count_judgements(project, since=None)
        assert found["fresh"] == found["people"] + found["simulated"] + found["imported"]
        return found["people"], found["decided"]

    prompt = disputed.prompt
    original = disputed.candidates.get(position=0).completion
    mended = make_completion(prompt=prompt, text="mended", source="corrected", corrected_from=original)
    make_preference(comparison=disputed, strength=0, written=mended, corrects=original)
    assert counted() == (3, by_pairs()) == (3, 3)
    decide(disputed, reviewer, 2)
    # The decision, and the correction of whom it overrules.
    assert counted() == (2, by_pairs()) == (2, 2)
    decide(disputed, reviewer, 0)
    assert counted() == (2, by_pairs()) == (2, 1)
    adjudication.withdraw(disputed, reviewer, since=adjudication.adjudications(disputed)[0].pk)
    assert counted() == (3, by_pairs()) == (3, 3)


def test_it_takes_nobody_s_place(project: Project, reviewer: User) -> None:
    """Two judgements are wanted and one is there: decided or not, one more person is asked."""
    comparison = make_comparison(project=project, overlap=2)
    make_preference(comparison=comparison, strength=1)
    decide(comparison, reviewer, -1)
    comparison.refresh_from_db()
    assert comparison.state == Comparison.State.OPEN
    assert Assignment.objects.filter(comparison=comparison).count() == 1
    claimed = queue.claim(project, make_member(project=project))
    assert claimed is not None and claimed.comparison == comparison
    # The reviewer may judge it as well: they hold no assignment of it.
    assert queue.claim(project, reviewer) is None  # but the overlap is full now
    assert not Assignment.objects.filter(annotator=reviewer).exists()


def test_a_reviewer_s_own_progress_has_no_decisions(
    project: Project, disputed: Comparison, reviewer: User, sign_in: SignIn
) -> None:
    decide(disputed, reviewer)
    response = sign_in(reviewer).get(reverse("progress", args=[project.slug]))
    assert response.context["total"] == 0


# --- two at once, and what the database refuses -----------------------------------------------------


def test_the_second_of_two_reviewers_is_told(disputed: Comparison, reviewer: User) -> None:
    first = decide(disputed, reviewer, 1)
    with pytest.raises(adjudication.Overtaken):
        adjudication.adjudicate(disputed, reviewer, {"strength": 2}, since=None)
    assert adjudication.in_force(disputed) == first
    with pytest.raises(adjudication.Overtaken):
        adjudication.withdraw(disputed, reviewer, since=None)
    assert adjudication.withdraw(disputed, reviewer, since=first.pk) is not None
    assert adjudication.withdraw(disputed, reviewer, since=None) is None


@pytest.mark.django_db(transaction=True)
def test_of_many_at_once_one_decides(reviewer: User) -> None:
    comparison = make_comparison(project=reviewer.projects.get())
    ready, said = threading.Barrier(4), []

    def decide_at_once(strength: int) -> None:
        try:
            ready.wait()
            adjudication.adjudicate(comparison, reviewer, {"strength": strength}, since=None)
            said.append(strength)
        except adjudication.Overtaken:
            said.append(None)
        finally:
            connection.close()

    threads = [threading.Thread(target=decide_at_once, args=(strength,)) for strength in range(-2, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (row,) = Preference.objects.filter(comparison=comparison)
    assert sorted(said, key=str).count(None) == 3 and row.strength in said
    assert AuditEntry.objects.filter(action="comparison.adjudicated").count() == 1


def test_the_database_wants_an_assignment_of_everything_else(disputed: Comparison, reviewer: User) -> None:
    row = disputed.preferences.first()
    assert row is not None
    for changes in ({"assignment": None}, {"adjudication": True}):
        with pytest.raises(IntegrityError), transaction.atomic():
            Preference.objects.filter(pk=row.pk).update(**changes)
    decide(disputed, reviewer)
    with pytest.raises(IntegrityError), transaction.atomic():
        Preference.objects.create(
            comparison=disputed, annotator=reviewer, adjudication=True, strength=1, shown_order=[0, 1],
            idempotency_key="second", body_hash="",
        )  # fmt: skip


def test_the_guards_stand_after_the_migrations() -> None:
    """tests/conftest.py looked before it took them away; the migration rebuilt the table."""
    from tests.conftest import LEFT_OUT

    assert LEFT_OUT == []
    assert {guards.PREFERENCES, *guards.PREFERENCES_STAY} <= set(ALL)


# --- the pages --------------------------------------------------------------------------------------


def address(comparison: Comparison, name: str = "adjudication") -> str:
    return reverse(name, args=[comparison.project.slug, comparison.pk])


def test_only_reviewers_and_above_decide(
    disputed: Comparison, annotator: User, reviewer: User, engineer: User, sign_in: SignIn
) -> None:
    for name in ("adjudication", "adjudication_withdraw"):
        assert sign_in(annotator).post(address(disputed, name)).status_code == 404
    assert sign_in(annotator).get(address(disputed)).status_code == 404
    for person in (reviewer, engineer):
        assert sign_in(person).get(address(disputed)).status_code == 200


def test_what_a_reviewer_may_yet_judge_shows_nobody_s_answer(
    project: Project, reviewer: User, sign_in: SignIn
) -> None:
    """Open with two of three judgements: out of sight until this reviewer has judged it, or it is done."""
    comparison = make_comparison(project=project, texts=("left", "right"), overlap=3)
    for strength in (-3, 2):
        make_preference(comparison=comparison, strength=strength)
    pages, listed = sign_in(reviewer), reverse("disagreements", args=[project.slug])

    def seen() -> tuple[bool, int]:
        return address(comparison) in pages.get(listed).content.decode(), pages.get(
            address(comparison)
        ).status_code

    assert seen() == (False, 404)
    assignment = queue.claim(project, reviewer)
    assert assignment is not None and assignment.comparison_id == comparison.pk
    queue.submit(
        assignment, reviewer, fencing_token=assignment.fencing_token, strength=1, acceptability="both",
        key="own", body_hash="own",
    )  # fmt: skip
    assert seen() == (True, 200)
    other = sign_in(make_member(project=project, role="reviewer"))
    assert other.get(address(comparison)).status_code == 200, "it is done"


def test_a_reviewer_decides_changes_and_takes_back(
    project: Project, disputed: Comparison, reviewer: User, sign_in: SignIn
) -> None:
    client = sign_in(reviewer)
    page = client.get(address(disputed))
    assert page.context["since"] == "" and "A much better" in page.content.decode()
    fields = {"since": "", "strength": "2", "acceptability": "one", "comment": "It says when."}
    assert client.post(address(disputed), fields).status_code == 302
    first = adjudication.in_force(disputed)
    assert first is not None and (first.strength, first.acceptability) == (2, "one")
    assert (first.comment, first.annotator, first.shown_order) == ("It says when.", reviewer, [0, 1])
    assert first.guideline == project.guideline()
    # A stale page does not overwrite; it shows what was typed.
    stale = client.post(address(disputed), {**fields, "strength": "-1"})
    assert stale.status_code == 409 and adjudication.in_force(disputed) == first
    page = client.get(address(disputed))
    assert page.context["since"] == first.pk
    assert [step["value"] for step in page.context["steps"] if step["checked"]] == [2]
    client.post(address(disputed), {**fields, "strength": "-1", "since": str(first.pk)})
    second = adjudication.in_force(disputed)
    assert second is not None and second.strength == -1 and second.supersedes == first
    client.post(address(disputed, "adjudication_withdraw"))
    assert adjudication.in_force(disputed) is None
    entries = AuditEntry.objects.filter(project=project).order_by("pk")
    assert list(entries.values_list("action", flat=True)) == [
        "comparison.adjudicated", "comparison.adjudicated", "adjudication.withdrawn"
    ]  # fmt: skip
    assert entries[0].detail == {"judgement": first.pk, "answer": {"strength": 2}}
    assert "taken back" in client.get(address(disputed)).content.decode()


def test_a_decision_leads_to_the_next_disagreement(
    project: Project, disputed: Comparison, reviewer: User, sign_in: SignIn
) -> None:
    """The widest apart first, round to the first again, past what is decided, and last to the list."""
    narrow = make_comparison(project=project, overlap=2)
    for strength in (1, -1):
        make_preference(comparison=narrow, strength=strength)
    client, listed = sign_in(reviewer), reverse("disagreements", args=[project.slug])

    def after(comparison: Comparison) -> str:
        return client.get(address(comparison, "adjudication_next"))["Location"]

    assert (after(disputed), after(narrow)) == (address(narrow), address(disputed))
    response = client.post(address(disputed), {"since": "", "strength": "2"}, follow=True)
    assert response.redirect_chain[-1][0] == address(narrow)
    assert (after(disputed), after(narrow)) == (address(narrow), listed)


@pytest.mark.parametrize("fields", [{}, {"strength": "4"}, {"strength": "0", "acceptability": "one"}])
def test_no_decision_without_a_sound_one(
    disputed: Comparison, reviewer: User, sign_in: SignIn, fields: dict[str, str]
) -> None:
    response = sign_in(reviewer).post(address(disputed), {"since": "", **fields})
    assert response.status_code == 422
    assert adjudication.in_force(disputed) is None


def test_rankings_and_ratings_by_page(project: Project, reviewer: User, sign_in: SignIn) -> None:
    client = sign_in(reviewer)
    ranking = make_comparison(project=project, kind="ranking", texts=("a", "b", "c"))
    client.post(address(ranking), {"rank_0": "2", "rank_1": "1", "rank_2": "2"})
    row = adjudication.in_force(ranking)
    assert row is not None and row.ranking == [[1], [0, 2]]
    rating = make_comparison(project=project, kind="rating")
    given = {f"rating_{place}_{n}": str(place + n + 1) for place in range(2) for n in range(3)}
    client.post(address(rating), given)
    row = adjudication.in_force(rating)
    assert row is not None
    assert row.ratings == [
        {"helpful": 1, "harmless": 2, "honest": 3}, {"helpful": 2, "harmless": 3, "honest": 4}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [{"purpose": "review"}, {"purpose": "gold", "gold_answer": {"strength": 1}}, {"kind": "demonstration"}],
    ids=["review", "gold", "demonstration"],
)
def test_reviews_gold_and_demonstrations_are_not_decided(
    project: Project, reviewer: User, sign_in: SignIn, fields: dict[str, Any]
) -> None:
    """Gold has its answer; a review is blind until it is closed, and this page would show what was said."""
    comparison = make_comparison(project=project, **fields)
    client = sign_in(reviewer)
    assert client.get(address(comparison)).status_code == 404
    assert client.post(address(comparison), {"strength": "1"}).status_code == 404
    assert not Preference.objects.exists()


def test_a_ranking_of_more_than_fits_on_a_page_is_not_decided(
    project: Project, reviewer: User, sign_in: SignIn
) -> None:
    client = sign_in(reviewer)
    for count, status in ((8, 200), (9, 404)):
        texts = tuple(f"text {number}" for number in range(count))
        comparison = make_comparison(project=project, kind="ranking", texts=texts)
        assert client.get(address(comparison)).status_code == status


def test_said_is_in_the_letters_of_the_page(project: Project, reviewer: User, sign_in: SignIn) -> None:
    """Both prefer candidate 0; one saw it on the right and pressed B."""
    comparison = make_comparison(project=project, overlap=2)
    for order in ([0, 1], [1, 0]):
        make_preference(comparison=comparison, strength=-2, shown_order=order)
    said = sign_in(reviewer).get(address(comparison)).context["said"]
    assert [row["words"] for row in said] == ["A better", "A better"]


def test_a_hostile_text_is_shown_as_text(project: Project, reviewer: User, sign_in: SignIn) -> None:
    comparison = make_comparison(project=project, texts=("<script>alert(1)</script>", "b"), overlap=2)
    for strength in (-3, 3):
        make_preference(comparison=comparison, strength=strength, comment="<img src=x onerror=alert(1)>")
    client = sign_in(reviewer)
    for url in (address(comparison), reverse("disagreements", args=[project.slug])):
        html = client.get(url).content.decode()
        assert "&lt;script&gt;alert(1)" in html and "<script>alert" not in html
        assert "&lt;img src=x" in html and "<img src=x" not in html


def test_a_decision_elsewhere_is_not_here(disputed: Comparison, reviewer: User) -> None:
    other = make_comparison(project=make_project(), overlap=2)
    row = make_preference(comparison=other, strength=1)
    decide(disputed, reviewer)
    assert len(row.pairs()) == 1


# --- in again ---------------------------------------------------------------------------------------


def test_an_export_of_everything_comes_in_again_as_what_decides(
    project: Project, disputed: Comparison, reviewer: User, admin: User
) -> None:
    """At home it adds nothing; elsewhere the decision arrives, and what it overruled does not."""
    decide(disputed, reviewer, 1)
    text = b"".join(export(project, ExportFormat.JUDGEMENTS, Selection()))
    for target, preferences in ((project, 3), (make_project(), 1)):
        found = imports.receive(
            target, [text], file_name="all.jsonl", format="", options={}, skip_bad_rows=False, actor=admin
        )
        imports.run_import(found)
        found.refresh_from_db()
        assert found.state == "done", found.errors
        assert Preference.objects.filter(comparison__project=target).count() == preferences
        assert chosen(target) == [("right", 1.0)]


def test_what_an_overruled_annotator_mended_comes_in_again(
    project: Project, reviewer: User, admin: User
) -> None:
    pair = [make_completion(prompt=make_prompt(project=project), text="a")]
    pair.append(make_completion(prompt=pair[0].prompt, text="b"))
    comparison = put_up(pair[0].prompt, pair, overlap=2)
    mended = make_completion(
        prompt=pair[0].prompt, text="a, mended", source="corrected", corrected_from=pair[0]
    )
    make_preference(comparison=comparison, strength=-3, written=mended, corrects=pair[0])
    decide(comparison, reviewer, 2)
    text = b"".join(export(project, ExportFormat.JUDGEMENTS, Selection()))
    target = make_project()
    for _time in range(2):  # the same rows again add nothing
        found = imports.receive(
            target, [text], file_name="all.jsonl", format="", options={}, skip_bad_rows=False, actor=admin
        )
        imports.run_import(found)
        found.refresh_from_db()
        assert found.state == "done", found.errors
        assert chosen(target) == chosen(project) == [("a, mended", 1.0), ("b", 2.0)]
    assert len(told(target, ExportFormat.DEMONSTRATIONS)) == 1
