"""Rows that others have built on: the database refuses to change them, whoever asks."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from feedback import guards
from feedback.models import Preference, Project
from tests import factories
from tests.conftest import ALL_GUARDS
from training.models import Review, Snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def installed(db: None) -> Any:
    guards.install(connection, ALL_GUARDS)
    yield
    guards.remove(connection, ALL_GUARDS)


def refused(words: str, rows: Any, **changes: Any) -> None:
    with pytest.raises(DatabaseError, match=words), transaction.atomic():
        rows.update(**changes)


def test_a_judgement_is_never_changed_and_a_new_one_supersedes_it() -> None:
    first = factories.make_preference(strength=2)
    refused("append-only", Preference.objects.filter(pk=first.pk), strength=-2)
    assert Preference.objects.get().strength == 2
    Preference.objects.create(
        assignment=first.assignment, comparison=first.comparison, annotator=first.annotator, strength=-1,
        shown_order=first.shown_order, idempotency_key="again", body_hash="x", supersedes=first,
    )  # fmt: skip
    assert Preference.objects.current().get().strength == -1


def test_a_snapshot_is_frozen(project: Project) -> None:
    snapshot = factories.make_snapshot(project=project)
    refused("frozen", Snapshot.objects.filter(pk=snapshot.pk), sha256="0" * 64)


def test_a_review_s_plan_is_fixed_once_people_may_look(project: Project) -> None:
    versions = [factories.make_model_version(project=project) for _ in range(2)]
    review = Review.objects.create(
        project=project, candidate=versions[0], baseline=versions[1], plan={"prompts": 5}
    )
    rows = Review.objects.filter(pk=review.pk)
    rows.update(state=Review.State.JUDGING, plan={"prompts": 5, "comparisons": 4})
    refused("fixed", rows, plan={"prompts": 50, "comparisons": 4})
    rows.update(state=Review.State.CLOSED)
    assert rows.get().plan == {"prompts": 5, "comparisons": 4}
