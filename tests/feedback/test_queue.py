"""Claims and leases in the cases that somebody can name; test_queue_machine tries the others."""

from __future__ import annotations

from datetime import timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.db import connection
from django.db.models import QuerySet

from feedback import queue, queue_waiting, submitting, taking_back
from feedback.models import Assignment, Comparison, Preference, Project, User
from rlhf_app.prepared import Given
from tests.factories import make_assignment, make_comparison, make_member, make_project
from tests.feedback.queueing import LEASE, NOW, judge

pytestmark = pytest.mark.django_db

# --- order ------------------------------------------------------------------------------------------


def test_queue_serves_by_priority_then_missing_then_shuffle_like_a_plain_sort(
    project: Project, ana: User, ben: User
) -> None:
    left = {}
    for number in range(24):
        row = make_comparison(project=project, priority=number % 3, overlap=1 + number % 4)
        left[row.pk] = row.overlap
        if row.overlap > 2:
            assignment = make_assignment(comparison=row, annotator=ben)
            judge(assignment, ben, key=f"ben {row.pk}", now=assignment.created_at)
            left[row.pk] -= 1
    rows = Comparison.objects.all()
    wanted = sorted(rows, key=lambda row: (-row.priority, left[row.pk], row.shuffle))
    served = []
    while (assignment := queue.claim(project, ana, now=NOW)) is not None:
        served.append(assignment.comparison)
        judge(assignment, ana, key=str(assignment.pk))
    assert served == wanted


@pytest.mark.parametrize("shuffles", [(1, 9), (9, 1)])
def test_what_misses_one_of_three_comes_before_what_is_fresh(
    project: Project, ana: User, ben: User, shuffles: tuple[int, int]
) -> None:
    cleo, fresh = make_member(project=project), shuffles[1]
    make_comparison(project=project, overlap=3, shuffle=shuffles[0])
    for person in (ana, ben):
        assignment = queue.claim(project, person, now=NOW)
        assert assignment is not None and assignment.comparison.shuffle == shuffles[0]
        judge(assignment, person, key=person.username)
    make_comparison(project=project, overlap=3, shuffle=fresh)
    served = []
    while (assignment := queue.claim(project, cleo, now=NOW)) is not None:
        served.append(assignment.comparison.shuffle)
        judge(assignment, cleo, key=str(assignment.pk))
    assert served == [shuffles[0], fresh]
    # What was taken back is missing again: with one more judged, the other one comes first.
    make_comparison(project=project, overlap=3, shuffle=5)
    dan = make_member(project=project)
    taken_back = queue.claim(project, dan, now=NOW)
    assert taken_back is not None and taken_back.comparison.shuffle == fresh
    judge(taken_back, dan, key="dan")
    assert taking_back.undo(project, cleo, now=NOW) is not None
    assert list(Comparison.objects.order_by("shuffle").values_list("shuffle", "missing")) == sorted(
        [(shuffles[0], 0), (fresh, 2), (5, 3)]
    )


def test_claim_ignores_other_projects_done_and_withdrawn(project: Project, ana: User) -> None:
    other = make_project()
    make_comparison(project=other)
    make_comparison(project=project, state=Comparison.State.WITHDRAWN)
    make_comparison(project=project, state=Comparison.State.DONE)
    assert queue.claim(project, ana, now=NOW) is None


def test_shown_order_is_drawn_both_ways(project: Project, ana: User) -> None:
    orders = []
    for number in range(64):
        make_comparison(project=project)
        assignment = queue.claim(project, ana, now=NOW)
        assert assignment is not None
        orders.append(tuple(assignment.shown_order))
        judge(assignment, ana, key=str(number))
    # 64 fair coins: fewer than 10 or more than 54 heads has probability 1e-8.
    assert 10 <= orders.count((0, 1)) <= 54
    assert set(orders) == {(0, 1), (1, 0)}


def test_the_migration_counts_what_is_missing(project: Project) -> None:
    judged_of = [(1, 0), (1, 1), (3, 2), (2, 3)]
    for overlap, judged in judged_of:
        row = make_comparison(project=project, overlap=overlap)
        for state in ["judged"] * judged + ["leased", "skipped", "expired"]:
            make_assignment(comparison=row, state=state)
    Comparison.objects.update(missing=77)
    migration = import_module("feedback.migrations.0012_fewest_missing_first")
    migration.count_missing(apps, None)
    assert list(Comparison.objects.order_by("pk").values_list("missing", flat=True)) == [1, 0, 1, 0]


# --- leases and overlap -----------------------------------------------------------------------------


def test_claim_again_is_the_same_lease(project: Project, ana: User) -> None:
    for _number in range(3):
        make_comparison(project=project)
    first = queue.claim(project, ana, now=NOW)
    second = queue.claim(project, ana, now=NOW + LEASE / 2)
    assert first is not None and second is not None
    assert (first.pk, first.fencing_token) == (second.pk, second.fencing_token)
    assert second.lease_expires_at == NOW + LEASE / 2 + LEASE
    assert Assignment.objects.count() == 1


def test_overlap_counts_leases_and_judgements(project: Project) -> None:
    make_comparison(project=project, overlap=2)
    ana, ben, cleo = (make_member(project=project) for _ in range(3))
    first = queue.claim(project, ana, now=NOW)
    assert first is not None
    judge(first, ana, key="1")
    assert Comparison.objects.get().state == "open"
    second = queue.claim(project, ben, now=NOW)
    assert second is not None
    assert queue.claim(project, cleo, now=NOW) is None
    assert queue.claim(project, ana, now=NOW) is None
    judge(second, ben, key="2")
    assert Comparison.objects.get().state == "done"


def test_expired_lease_goes_to_the_next_and_late_work_is_kept(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    hers = queue.claim(project, ana, now=NOW)
    assert hers is not None
    assert queue.claim(project, ben, now=NOW + LEASE - timedelta(seconds=1)) is None
    his = queue.claim(project, ben, now=NOW + LEASE)
    assert his is not None
    hers.refresh_from_db()
    assert hers.state == "expired"
    late = judge(hers, ana, key="late", now=NOW + LEASE)
    assert late.late
    in_time = judge(his, ben, key="in time", now=NOW + LEASE)
    assert not in_time.late
    assert Preference.objects.current().count() == 2


def test_a_draft_outlives_its_lease(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    hers = queue.claim(project, ana, now=NOW)
    assert hers is not None
    assert submitting.keep_draft(hers, ana, fencing_token=1, draft={"comment": "half a thought"})
    his = queue.claim(project, ben, now=NOW + LEASE)
    assert his is not None
    submitting.skip(his, ben, fencing_token=1, reason="unclear", now=NOW + LEASE)
    again = queue.claim(project, ana, now=NOW + LEASE)
    assert again is not None and again.fencing_token == 2
    assert again.draft == {"comment": "half a thought"}
    judge(again, ana, key="a thought", now=NOW + LEASE)
    hers.refresh_from_db()
    assert hers.draft == {}


def test_renew_extends_and_revives_only_while_the_slot_is_free(
    project: Project, ana: User, ben: User
) -> None:
    make_comparison(project=project)
    hers = queue.claim(project, ana, now=NOW)
    assert hers is not None
    renewed = queue.renew(hers, ana, fencing_token=1, now=NOW + LEASE / 2)
    assert renewed is not None and renewed.lease_expires_at == NOW + 1.5 * LEASE
    revived = queue.renew(hers, ana, fencing_token=1, now=NOW + 2 * LEASE)
    assert revived is not None and revived.lease_expires_at == NOW + 3 * LEASE
    assert queue.claim(project, ben, now=NOW + 4 * LEASE) is not None
    assert queue.renew(hers, ana, fencing_token=1, now=NOW + 4 * LEASE) is None
    assert queue.renew(hers, ana, fencing_token=2, now=NOW) is None


def test_another_persons_assignment_is_not_found(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    hers = queue.claim(project, ana, now=NOW)
    assert hers is not None
    with pytest.raises(Assignment.DoesNotExist):
        judge(hers, ben, key="x")
    with pytest.raises(Assignment.DoesNotExist):
        submitting.skip(hers, ben, fencing_token=1, reason="unclear", now=NOW)
    assert not Preference.objects.exists()


def test_waiting_tells_apart_why_nothing_is_left(project: Project, ana: User, ben: User) -> None:
    assert queue_waiting.waiting(project, ana, now=NOW) == (0, 0, 0, 0, None)
    make_comparison(project=project)
    make_comparison(project=project)
    first = queue.claim(project, ben, now=NOW)
    assert first is not None
    judge(first, ben, key="1")
    second = queue.claim(project, ben, now=NOW)
    assert second is not None
    assert queue_waiting.waiting(project, ana, now=NOW) == (2, 1, 0, 1, NOW + LEASE)
    submitting.skip(second, ben, fencing_token=1, reason="unclear", now=NOW)
    assert queue_waiting.waiting(project, ben, now=NOW) == (2, 1, 1, 0, None)


# --- cost -------------------------------------------------------------------------------------------


def plan_of(rows: QuerySet[Comparison]) -> str:
    return rows.explain()


@pytest.mark.skipif(connection.vendor != "sqlite", reason="reads the words of SQLite's planner")
def test_claim_walks_the_queue_index_and_sorts_nothing(project: Project, ana: User) -> None:
    plan = plan_of(queue.queue_for(project, ana, NOW))
    assert "USING INDEX comparison_queue" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.skipif(connection.vendor != "sqlite", reason="reads the words of SQLite's planner")
def test_no_query_of_a_submit_reads_a_whole_table(project: Project, ana: User) -> None:
    """As they are sent: what they were compiled to."""
    make_comparison(project=project)
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    judge(assignment, ana, key="the first")
    assert queue.claim(project, ana, now=NOW) is not None
    asked = [queue.NEXT, queue.MINE, queue.LOCKED, queue.ASSIGNMENTS]
    asked += [submitting.EARLIER, submitting.GUIDELINE]
    for query in asked:
        statement = query.readings["sqlite"].statement
        with connection.cursor() as cursor:
            params = [1 if isinstance(value, Given) else value for value in statement.params]
            cursor.execute(f"EXPLAIN QUERY PLAN {statement.sql}", params)
            plan = [row[-1] for row in cursor.fetchall()]
        assert not [line for line in plan if line.startswith("SCAN")], plan
