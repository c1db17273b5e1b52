"""The queue, verb by verb, in the cases that somebody can name; test_queue_machine tries the others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib import import_module

import pytest
from django.apps import apps
from django.conf import settings
from django.db import connection
from django.db.models import QuerySet

from feedback import queue, queue_waiting, taking_back
from feedback.models import Assignment, Candidate, Comparison, Guideline, Preference, Project, User
from rlhf_app.prepared import Given
from tests.factories import make_assignment, make_comparison, make_member, make_project, make_user

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
LEASE = timedelta(seconds=settings.LEASE_SECONDS)


@pytest.fixture
def ana(project: Project) -> User:
    return make_member(project=project, user=make_user(username="ana"))


@pytest.fixture
def ben(project: Project) -> User:
    return make_member(project=project, user=make_user(username="ben"))


def judge(assignment: Assignment, annotator: User, *, key: str, strength: int = 1, **fields) -> Preference:
    fields = {"fencing_token": assignment.fencing_token, "now": NOW, "body_hash": str(strength)} | fields
    return queue.submit(assignment, annotator, strength=strength, acceptability="", key=key, **fields)


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


@pytest.mark.parametrize(
    ("order", "shown", "canonical"), [([0, 1], -3, -3), ([1, 0], -3, 3), ([1, 0], 2, -2), ([1, 0], 0, 0)]
)
def test_submit_maps_sides_to_completions(
    project: Project, ana: User, order: list[int], shown: int, canonical: int
) -> None:
    comparison = make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    Assignment.objects.filter(pk=assignment.pk).update(shown_order=order)
    preference = judge(assignment, ana, key="k", strength=shown)
    assert (preference.strength, preference.shown_order) == (canonical, order)
    if shown:
        liked = order[0] if shown < 0 else order[1]
        chosen = Candidate.objects.get(comparison=comparison, position=liked).completion
        assert preference.pairs()[0].chosen == chosen


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
    assert queue.keep_draft(hers, ana, fencing_token=1, draft={"comment": "half a thought"})
    his = queue.claim(project, ben, now=NOW + LEASE)
    assert his is not None
    queue.skip(his, ben, fencing_token=1, reason="unclear", now=NOW + LEASE)
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
        queue.skip(hers, ben, fencing_token=1, reason="unclear", now=NOW)
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
    queue.skip(second, ben, fencing_token=1, reason="unclear", now=NOW)
    assert queue_waiting.waiting(project, ben, now=NOW) == (2, 1, 1, 0, None)


# --- idempotency ------------------------------------------------------------------------------------


def test_same_key_and_body_is_one_judgement(project: Project, ana: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    first = judge(assignment, ana, key="k", strength=2)
    assert judge(assignment, ana, key="k", strength=2) == first
    with pytest.raises(queue.KeyReused):
        judge(assignment, ana, key="k", strength=-2)
    assert Preference.objects.count() == 1


def test_key_of_somebody_else_is_refused(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    make_comparison(project=project)
    hers, his = queue.claim(project, ana, now=NOW), queue.claim(project, ben, now=NOW)
    assert hers is not None and his is not None
    judge(hers, ana, key="k")
    with pytest.raises(queue.KeyReused):
        judge(his, ben, key="k")


def test_second_tab_gets_the_recorded_judgement(project: Project, ana: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    first = judge(assignment, ana, key="tab 1", strength=3)
    assert judge(assignment, ana, key="tab 2", strength=-1) == first
    assert Preference.objects.get().idempotency_key == "tab 1"


def test_preference_records_guideline_flags_and_simulation(project: Project) -> None:
    newest = Guideline.objects.create(project=project, version=2, text="Newer.")
    robot = make_member(project=project, user=make_user(username="robot", simulated=True))
    make_comparison(project=project)
    assignment = queue.claim(project, robot, now=NOW)
    assert assignment is not None
    preference = judge(assignment, robot, key="k", flags=["unsafe"], comment="hm", active_ms=900)
    preference.refresh_from_db()
    assert preference.guideline == newest
    assert (preference.flags, preference.comment, preference.active_ms) == (["unsafe"], "hm", 900)
    assert preference.simulated


# --- skip and undo ----------------------------------------------------------------------------------


def test_skip_passes_the_comparison_on_and_never_back(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    skipped = queue.skip(assignment, ana, fencing_token=1, reason="unclear", now=NOW)
    assert (skipped.state, skipped.skip_reason) == ("skipped", "unclear")
    assert queue.claim(project, ana, now=NOW) is None
    assert queue.claim(project, ben, now=NOW) is not None


def test_work_on_a_withdrawn_comparison_is_kept_as_late(project: Project, ana: User) -> None:
    """A review was closed while she judged: her answer is stored, and belongs to no verdict."""
    comparison = make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment
    Comparison.objects.filter(pk=comparison.pk).update(state=Comparison.State.WITHDRAWN)
    assert judge(assignment, ana, key="1").late
    comparison.refresh_from_db()
    assert comparison.state == Comparison.State.WITHDRAWN


def test_undo_withdraws_and_shows_the_same_comparison(project: Project, ana: User) -> None:
    make_comparison(project=project)
    make_comparison(project=project)
    first = queue.claim(project, ana, now=NOW)
    assert first is not None
    recorded = judge(first, ana, key="1", strength=2)
    second = queue.claim(project, ana, now=NOW + timedelta(seconds=1))
    undone = taking_back.undo(project, ana, now=NOW + timedelta(seconds=2))
    assert undone == first
    assert undone is not None and undone.shown_order == first.shown_order
    assert not Preference.objects.current().exists()
    assert Comparison.objects.get(pk=first.comparison_id).state == "open"
    assert queue.claim(project, ana, now=NOW + timedelta(seconds=3)) == first
    again = judge(undone, ana, key="2", strength=-2, now=NOW + timedelta(seconds=4))
    withdrawal = Preference.objects.get(withdrawn=True)
    assert (again.supersedes, withdrawal.supersedes) == (withdrawal, recorded)
    assert list(Preference.objects.current()) == [again]
    assert Comparison.objects.get(pk=first.comparison_id).state == "done"
    assert queue.claim(project, ana, now=NOW + timedelta(seconds=5)) == second


def test_undo_repeated_walks_back(project: Project, ana: User) -> None:
    order = []
    for number in range(3):
        make_comparison(project=project)
        assignment = queue.claim(project, ana, now=NOW + timedelta(seconds=number))
        assert assignment is not None
        judge(assignment, ana, key=str(number), now=NOW + timedelta(seconds=number))
        order.append(assignment)
    undone = [taking_back.undo(project, ana, now=NOW + timedelta(seconds=10 + number)) for number in range(4)]
    assert undone == [*reversed(order), None]


def test_undo_of_a_skip_unless_somebody_has_it(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    queue.skip(assignment, ana, fencing_token=1, reason="unclear", now=NOW)
    undone = taking_back.undo(project, ana, now=NOW)
    assert undone is not None and undone.fencing_token == 2
    queue.skip(undone, ana, fencing_token=2, reason="unclear", now=NOW)
    assert queue.claim(project, ben, now=NOW) is not None
    assert taking_back.undo(project, ana, now=NOW) is None


def test_a_stale_skip_does_not_touch_a_revived_lease(project: Project, ana: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    judge(assignment, ana, key="1")
    taking_back.undo(project, ana, now=NOW)
    queue.skip(assignment, ana, fencing_token=1, reason="unclear", now=NOW)
    assignment.refresh_from_db()
    assert assignment.state == "leased"


def test_undo_of_an_extra_judgement_gives_no_lease_beyond_the_overlap(
    project: Project, ana: User, ben: User
) -> None:
    """Ana's lease runs out, Ben takes the one slot, Ana judges late, and takes that back."""
    make_comparison(project=project, overlap=1)
    hers = queue.claim(project, ana, now=NOW)
    late = NOW + LEASE + timedelta(seconds=1)
    his = queue.claim(project, ben, now=late)
    assert hers is not None and his is not None
    assert judge(hers, ana, key="late", now=late).late
    undone = taking_back.undo(project, ana, now=late)
    assert undone == hers and undone.state == Assignment.State.EXPIRED
    running = Assignment.objects.filter(state="leased", lease_expires_at__gt=late)
    assert list(running) == [his]
    assert queue.claim(project, ana, now=late) is None
    # Ben leaves it: then it is hers again, with the order that she saw.
    queue.skip(his, ben, fencing_token=his.fencing_token, reason="unclear", now=late)
    again = queue.claim(project, ana, now=late)
    assert again == hers and again.shown_order == hers.shown_order


def test_undo_of_an_extra_judgement_takes_a_free_slot(project: Project, ana: User) -> None:
    make_comparison(project=project, overlap=1)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    late = NOW + 2 * LEASE
    assert judge(assignment, ana, key="late", now=late).late
    undone = taking_back.undo(project, ana, now=late)
    assert undone is not None and undone.state == Assignment.State.LEASED
    assert undone.lease_expires_at == late + LEASE


def test_undo_of_yesterday_is_refused(project: Project, ana: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    judge(assignment, ana, key="1")
    assert taking_back.undo(project, ana, now=NOW + timedelta(hours=24)) is None
    assert taking_back.undo(project, ana, assignment=assignment, now=NOW + timedelta(hours=24)) is None
    assert taking_back.undo(project, ana, assignment=assignment, now=NOW + timedelta(hours=23)) == assignment


def test_submit_from_an_older_lease_of_the_same_person_counts_as_late(project: Project, ana: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    judge(assignment, ana, key="1")
    assert taking_back.undo(project, ana, now=NOW) is not None
    assert judge(assignment, ana, key="2", fencing_token=1).late


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
    asked = [queue.EARLIER, queue.NEXT, queue.MINE, queue.LOCKED, queue.ASSIGNMENTS, queue.GUIDELINE]
    for query in asked:
        statement = query.readings["sqlite"].statement
        with connection.cursor() as cursor:
            params = [1 if isinstance(value, Given) else value for value in statement.params]
            cursor.execute(f"EXPLAIN QUERY PLAN {statement.sql}", params)
            plan = [row[-1] for row in cursor.fetchall()]
        assert not [line for line in plan if line.startswith("SCAN")], plan


# --- one more, ahead --------------------------------------------------------------------------------


def test_a_second_lease_comes_after_the_first_and_is_no_third(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "PLENTY", 2)
    project = make_project()
    for number in range(5):
        make_comparison(project=project, priority=-number)
    ana = make_member(project=project)
    first = queue.claim(project, ana, now=NOW)
    assert first is not None
    ahead = queue.claim_ahead(first, ana, now=NOW)
    assert ahead is not None and ahead.comparison != first.comparison
    assert queue.claim_ahead(first, ana, now=NOW) == ahead
    assert queue.claim(project, ana, now=NOW) == first, "what is on the screen stays first"
    assert Assignment.objects.count() == 2
    judge(first, ana, key="the first")
    assert queue.claim(project, ana, now=NOW) == ahead


def test_no_second_lease_where_others_could_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "PLENTY", 3)
    project = make_project()
    for _number in range(3):
        make_comparison(project=project)
    ana = make_member(project=project)
    first = queue.claim(project, ana, now=NOW)
    assert first is not None
    assert queue.claim_ahead(first, ana, now=NOW) is None  # two are left
    make_comparison(project=project)
    assert queue.claim_ahead(first, ana, now=NOW + LEASE) is None, "the first lease ran out"
    assert queue.claim_ahead(first, ana, now=NOW) is not None


def test_what_is_ahead_is_another_comparison_however_free_the_first_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(queue, "PLENTY", 1)
    project = make_project(overlap=5)
    one, two = make_comparison(project=project, priority=9), make_comparison(project=project)
    ana = make_member(project=project)
    first = queue.claim(project, ana, now=NOW)
    assert first is not None and first.comparison == one
    ahead = queue.claim_ahead(first, ana, now=NOW)
    assert ahead is not None and ahead.comparison == two


def test_what_is_ahead_never_goes_beyond_the_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "PLENTY", 1)
    project = make_project(overlap=2)
    for _number in range(4):
        make_comparison(project=project)
    for _person in range(6):
        person = make_member(project=project)
        if (first := queue.claim(project, person, now=NOW)) is not None:
            queue.claim_ahead(first, person, now=NOW)
    taken = Assignment.objects.values_list("comparison", flat=True)
    assert len(taken) == 8 and max(list(taken).count(pk) for pk in taken) == 2
