"""Undo: what comes back, to whom, how long, and what a form from before it still does."""

from __future__ import annotations

from datetime import timedelta

import pytest

from feedback import queue, submitting, taking_back
from feedback.models import Assignment, Comparison, Preference, Project, User
from tests.factories import make_comparison
from tests.feedback.queueing import LEASE, NOW, judge

pytestmark = pytest.mark.django_db


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
    submitting.skip(assignment, ana, fencing_token=1, reason="unclear", now=NOW)
    undone = taking_back.undo(project, ana, now=NOW)
    assert undone is not None and undone.fencing_token == 2
    submitting.skip(undone, ana, fencing_token=2, reason="unclear", now=NOW)
    assert queue.claim(project, ben, now=NOW) is not None
    assert taking_back.undo(project, ana, now=NOW) is None


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
    submitting.skip(his, ben, fencing_token=his.fencing_token, reason="unclear", now=late)
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


def test_a_stale_skip_does_not_touch_a_revived_lease(project: Project, ana: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    judge(assignment, ana, key="1")
    taking_back.undo(project, ana, now=NOW)
    submitting.skip(assignment, ana, fencing_token=1, reason="unclear", now=NOW)
    assignment.refresh_from_db()
    assert assignment.state == "leased"
