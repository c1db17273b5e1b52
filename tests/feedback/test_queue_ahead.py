"""A second lease on what comes next: when there is one, and that nobody has to wait for it."""

from __future__ import annotations

import pytest

from feedback import queue
from feedback.models import Assignment
from tests.factories import make_comparison, make_member, make_project
from tests.feedback.queueing import LEASE, NOW, judge

pytestmark = pytest.mark.django_db


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
