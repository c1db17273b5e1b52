"""A reviewer's decision: it wins in training and exports, counts in no statistic, takes nobody's place."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

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
from tests.feedback.deciding import chosen, decide
from tests.feedback.exporting import lines, told
from training import snapshots
from training.forms import freezable
from training.guards import ALL
from training.loop import count_judgements

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


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
    unpaired = lines(project, ExportFormat.UNPAIRED)
    said = [(row["completion"][0]["content"], row["label"]) for row in unpaired]
    # "both are good enough" was overruled with the rest; that the mended one is better was not.
    assert said == [("a", False), ("a, mended", True), ("a", False), ("b", True)]
    assert len(lines(project, ExportFormat.DEMONSTRATIONS)) == 1
    assert len(json.loads(told(project, ExportFormat.LABEL_STUDIO))) == 1


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
    rows = lines(project, ExportFormat.JUDGEMENTS)
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
        lines(project)
    for comparison in comparisons:
        decide(comparison, reviewer, -1)
    with CaptureQueriesContext(connection) as after:
        assert len(lines(project)) == 20
    assert len(after) == len(before)


def test_a_decision_elsewhere_is_not_here(disputed: Comparison, reviewer: User) -> None:
    other = make_comparison(project=make_project(), overlap=2)
    row = make_preference(comparison=other, strength=1)
    decide(disputed, reviewer)
    assert len(row.pairs()) == 1


# --- in again ---------------------------------------------------------------------------------------


def comes_in(target: Project, content: bytes, actor: User) -> None:
    found = imports.receive(
        target, [content], file_name="all.jsonl", format="", options={}, skip_bad_rows=False, actor=actor
    )
    imports.run_import(found)
    found.refresh_from_db()
    assert found.state == "done", found.errors


def test_an_export_of_everything_comes_in_again_as_what_decides(
    project: Project, disputed: Comparison, reviewer: User, admin: User
) -> None:
    """At home it adds nothing; elsewhere the decision arrives, and what it overruled does not."""
    decide(disputed, reviewer, 1)
    text = b"".join(export(project, ExportFormat.JUDGEMENTS, Selection()))
    for target, preferences in ((project, 3), (make_project(), 1)):
        comes_in(target, text, admin)
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
        comes_in(target, text, admin)
        assert chosen(target) == chosen(project) == [("a, mended", 1.0), ("b", 2.0)]
    assert len(lines(target, ExportFormat.DEMONSTRATIONS)) == 1


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
