"""The queue under many hands at once, on a database file or PostgreSQL: nothing doubled, nothing lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from threading import Barrier
from typing import Any

import pytest
from django.db import connections
from django.db.models import Count
from django.utils import timezone

from feedback import queue, submitting
from feedback.models import Assignment, Comparison, Preference
from tests.factories import make_comparison, make_member, make_project

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.slow]


def together(hands: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work(number)` in so many threads, all let go at the same moment; exceptions come out."""
    start = Barrier(hands)

    def run(number: int) -> Any:
        try:
            start.wait()
            return work(number)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(hands) as pool:
        return [done.result() for done in [pool.submit(run, number) for number in range(hands)]]


def test_ten_hands_judge_everything_exactly_as_often_as_wanted() -> None:
    project = make_project(overlap=3)
    comparisons = [make_comparison(project=project) for _ in range(12)]
    people = [make_member(project=project) for _ in range(10)]

    def judge_until_empty(number: int) -> list[str]:
        draw, keys = random.Random(number), []
        while (assignment := queue.claim(project, people[number])) is not None:
            key = f"{number}-{assignment.pk}-{assignment.fencing_token}"
            what = draw.random()
            if what < 0.1:
                queue.renew(assignment, people[number], fencing_token=assignment.fencing_token)
            submitting.submit(
                assignment,
                people[number],
                fencing_token=assignment.fencing_token,
                strength=draw.randint(-3, 3),
                acceptability="",
                key=key,
                body_hash=key,
            )
            keys.append(key)
        return keys

    acknowledged = [key for keys in together(10, judge_until_empty) for key in keys]
    # Whoever found nothing left while others held leases has stopped; one more round finishes.
    acknowledged += [key for number in range(10) for key in judge_until_empty(number)]
    assert Counter(Preference.objects.values_list("idempotency_key", flat=True)) == Counter(acknowledged)
    judged = dict(Preference.objects.values_list("comparison").annotate(count=Count("pk")))
    assert judged == {comparison.pk: 3 for comparison in comparisons}
    assert set(Comparison.objects.values_list("state", flat=True)) == {"done"}
    assert not Preference.objects.filter(late=True).exists()


@pytest.mark.parametrize("overlap", [1, 2])
def test_the_last_slots_are_not_given_out_twice(overlap: int) -> None:
    project = make_project(overlap=overlap)
    for _round in range(4):
        comparison = make_comparison(project=project)
        people = [make_member(project=project) for _ in range(8)]
        got = together(8, lambda number, people=people: queue.claim(project, people[number]))  # type: ignore[misc]
        assert sum(assignment is not None for assignment in got) == overlap
        Comparison.objects.filter(pk=comparison.pk).update(state="withdrawn")


def test_one_person_in_eight_tabs_holds_one_lease() -> None:
    project = make_project()
    for _number in range(8):
        make_comparison(project=project)
    person = make_member(project=project)
    got = together(8, lambda number: queue.claim(project, person))
    assert len({assignment.pk for assignment in got}) == 1
    assert Assignment.objects.count() == 1


def test_eight_posts_of_one_key_are_one_judgement() -> None:
    project = make_project()
    make_comparison(project=project)
    person = make_member(project=project)
    assignment = queue.claim(project, person)
    assert assignment is not None

    def post(number: int) -> int:
        return submitting.submit(
            assignment, person, fencing_token=1, strength=2, acceptability="", key="key", body_hash="same"
        ).pk

    assert len(set(together(8, post))) == 1
    assert Preference.objects.count() == 1


def test_an_expired_lease_is_taken_over_or_revived_never_both() -> None:
    project = make_project()
    for _round in range(4):
        comparison = make_comparison(project=project)
        owner, *others = (make_member(project=project) for _ in range(6))
        hers = queue.claim(project, owner)
        assert hers is not None
        Assignment.objects.filter(pk=hers.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))

        def reach(number: int, hers: Assignment = hers, owner: Any = owner, others: Any = others) -> bool:
            if number == 0:
                return queue.renew(hers, owner, fencing_token=1) is not None
            return queue.claim(project, others[number - 1]) is not None

        assert sum(together(6, reach)) == 1
        Comparison.objects.filter(pk=comparison.pk).update(state="withdrawn")
