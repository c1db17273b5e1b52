"""A judgement or a skip comes in: what is recorded, and that a repeated one is the same one."""

from __future__ import annotations

import pytest

from feedback import queue, submitting
from feedback.models import Assignment, Candidate, Comparison, Guideline, Preference, Project, User
from tests.factories import make_comparison, make_member, make_user
from tests.feedback.queueing import NOW, judge

pytestmark = pytest.mark.django_db


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


def test_same_key_and_body_is_one_judgement(project: Project, ana: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    first = judge(assignment, ana, key="k", strength=2)
    assert judge(assignment, ana, key="k", strength=2) == first
    with pytest.raises(submitting.KeyReused):
        judge(assignment, ana, key="k", strength=-2)
    assert Preference.objects.count() == 1


def test_key_of_somebody_else_is_refused(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    make_comparison(project=project)
    hers, his = queue.claim(project, ana, now=NOW), queue.claim(project, ben, now=NOW)
    assert hers is not None and his is not None
    judge(hers, ana, key="k")
    with pytest.raises(submitting.KeyReused):
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


def test_work_on_a_withdrawn_comparison_is_kept_as_late(project: Project, ana: User) -> None:
    """A review was closed while she judged: her answer is stored, and belongs to no verdict."""
    comparison = make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment
    Comparison.objects.filter(pk=comparison.pk).update(state=Comparison.State.WITHDRAWN)
    assert judge(assignment, ana, key="1").late
    comparison.refresh_from_db()
    assert comparison.state == Comparison.State.WITHDRAWN


def test_skip_passes_the_comparison_on_and_never_back(project: Project, ana: User, ben: User) -> None:
    make_comparison(project=project)
    assignment = queue.claim(project, ana, now=NOW)
    assert assignment is not None
    skipped = submitting.skip(assignment, ana, fencing_token=1, reason="unclear", now=NOW)
    assert (skipped.state, skipped.skip_reason) == ("skipped", "unclear")
    assert queue.claim(project, ana, now=NOW) is None
    assert queue.claim(project, ben, now=NOW) is not None
