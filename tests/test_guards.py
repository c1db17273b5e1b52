"""Rows that others have built on: the database refuses to change them, whoever asks."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connection, transaction

from feedback import guards
from feedback.models import Preference, Project
from tests import factories
from tests.conftest import LEFT_OUT
from training.guards import ALL
from training.models import Review, Snapshot

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def installed(db: None) -> Any:
    guards.install(connection, ALL)
    yield
    guards.remove(connection, ALL)


def refused(words: str, rows: Any, **changes: Any) -> None:
    with pytest.raises(DatabaseError, match=words), transaction.atomic():
        rows.update(**changes)


def stays(words: str, row: Any) -> None:
    """Neither the ORM, with whatever hangs on the row, nor plain SQL gets rid of it."""
    connection.check_constraints()  # PostgreSQL empties no table while checks of it are due
    table = row._meta.db_table
    all_of_it = f"DELETE FROM {table}" if connection.vendor == "sqlite" else f"TRUNCATE {table} CASCADE"
    for statement in (f"DELETE FROM {table} WHERE id = {row.pk}", all_of_it):
        with pytest.raises(DatabaseError, match=words), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(statement)
    with pytest.raises(DatabaseError, match=words), transaction.atomic():
        type(row).objects.filter(pk=row.pk).delete()
    assert type(row).objects.filter(pk=row.pk).exists()


def test_the_migrations_leave_every_guard_in_place() -> None:
    assert not LEFT_OUT
    assert len(ALL) == 7 and not guards.missing(connection, ALL)
    guards.remove(connection, ALL[:1])
    assert guards.missing(connection, ALL) == ["preference_refuses_update"]


def test_a_judgement_is_never_changed_and_a_new_one_supersedes_it() -> None:
    first = factories.make_preference(strength=2)
    refused("append-only", Preference.objects.filter(pk=first.pk), strength=-2)
    stays("append-only", first)
    assert Preference.objects.get().strength == 2
    Preference.objects.create(
        assignment=first.assignment, comparison=first.comparison, annotator=first.annotator, strength=-1,
        shown_order=first.shown_order, idempotency_key="again", body_hash="x", supersedes=first,
    )  # fmt: skip
    assert Preference.objects.current().get().strength == -1


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "rating"},
        {"ranking": [[1], [0]]},
        {"ratings": [{"helpful": 1}, {"helpful": 5}]},
        {"written": None},
        {"corrects": None},
        {"comment": "meant otherwise"},
        {"flags": []},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_no_part_of_a_judgement_is_changed(changes: dict[str, Any]) -> None:
    comparison = factories.make_comparison()
    original = comparison.completions.first()
    edited = factories.make_completion(prompt=comparison.prompt, source="corrected", corrected_from=original)
    row = factories.make_preference(
        comparison=comparison, written=edited, corrects=original, flags=["unsafe"], comment="as said"
    )
    refused("append-only", Preference.objects.filter(pk=row.pk), **changes)


def test_a_snapshot_is_frozen(project: Project) -> None:
    snapshot = factories.make_snapshot(project=project)
    refused("frozen", Snapshot.objects.filter(pk=snapshot.pk), sha256="0" * 64)
    stays("frozen", snapshot)


def test_a_review_s_plan_is_fixed_once_people_may_look(project: Project) -> None:
    versions = [factories.make_model_version(project=project) for _ in range(2)]
    review = Review.objects.create(
        project=project, candidate=versions[0], baseline=versions[1], plan={"prompts": 5}
    )
    rows = Review.objects.filter(pk=review.pk)
    rows.update(state=Review.State.JUDGING, plan={"prompts": 5, "comparisons": 4})
    refused("fixed", rows, plan={"prompts": 50, "comparisons": 4})
    refused("fixed", rows, state=Review.State.SAMPLING)
    rows.update(state=Review.State.CLOSED)
    assert rows.get().plan == {"prompts": 5, "comparisons": 4}
