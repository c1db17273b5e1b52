"""Queries that are compiled once give what the same querysets give, whatever comes in."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from feedback.models import Assignment, Comparison, Preference
from rlhf_app.prepared import Prepared, PreparedUpdate, insert, moment, number, text, update
from tests.factories import make_comparison, make_member, make_preference, make_project

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 11, 24, 9, 30, 15, 123456, tzinfo=UTC)


def columns(row: Any) -> dict[str, Any]:
    return {field.attname: getattr(row, field.attname) for field in row._meta.concrete_fields}


def test_rows_are_those_of_the_queryset_with_what_stands_beside_them() -> None:
    project = make_project()
    people = [make_member(project=project) for _number in range(3)]
    for n, person in enumerate(people):
        make_preference(project=project, annotator=person, strength=n - 1, flags=["unsafe"] * n, comment="é")
    query = Prepared(
        lambda: Preference.objects.select_related("comparison__prompt").filter(
            annotator=number("annotator"), created_at__lt=moment("before"), comment=text("comment")
        )
    )
    before = NOW + timedelta(days=3650)
    for person in people:
        plain = Preference.objects.get(annotator=person)
        [row] = query.all(annotator=person.pk, before=before, comment="é")
        assert columns(row) == columns(plain)
        assert isinstance(row.flags, list) and row.created_at == plain.created_at
        assert columns(row.comparison) == columns(plain.comparison)
        assert row.comparison.prompt.messages == plain.comparison.prompt.messages
        assert row == plain
    assert query.all(annotator=people[0].pk, before=before, comment="' OR 1=1 --") == []
    assert query.first(annotator=people[0].pk, before=NOW - timedelta(days=3650), comment="é") is None


def test_beside_and_deferred_columns_cost_no_query_and_one_query() -> None:
    make_comparison()
    query = Prepared(lambda: Comparison.objects.select_related("prompt").only("kind", "prompt__messages"))
    with CaptureQueriesContext(connection) as captured:
        row = query.first()
        assert row.kind == "pairwise" and row.prompt.messages
    assert len(captured) == 1
    assert row.get_deferred_fields() >= {"gold_answer", "state"}
    with CaptureQueriesContext(connection) as captured:
        assert row.state == "open"
    assert len(captured) == 1


def test_values_and_annotations_come_as_they_would() -> None:
    comparison = make_comparison(priority=3)
    tuples = Prepared(lambda: Comparison.objects.values_list("pk", "created_at").filter(pk=number("pk")))
    assert tuples.all(pk=comparison.pk) == [(comparison.pk, Comparison.objects.get().created_at)]
    annotated = Prepared(lambda: Comparison.objects.annotate(twice=F("priority") * 2))
    assert annotated.first().twice == 6


def test_a_row_is_inserted_as_save_would() -> None:
    project = make_project()
    comparison, ana, ben = make_comparison(project=project), make_member(), make_member()
    facts = {"comparison": comparison, "shown_order": [1, 0], "lease_expires_at": NOW, "draft": {"a": "é'"}}
    mine = insert(Assignment(annotator=ana, **facts))
    saved = Assignment.objects.create(annotator=ben, **facts)
    assert not mine._state.adding and mine.pk
    found, other = columns(Assignment.objects.get(pk=mine.pk)), columns(Assignment.objects.get(pk=saved.pk))
    assert abs(found.pop("created_at") - other.pop("created_at")) < timedelta(minutes=1)
    for name in ("id", "annotator_id"):
        assert found.pop(name) != other.pop(name)
    assert found == other
    again = insert(Assignment(annotator=make_member(), **facts | {"shown_order": [0, 1], "draft": {}}))
    assert Assignment.objects.get(pk=again.pk).shown_order == [0, 1], "values of the first run do not stay"
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(Assignment(annotator=ana, **facts))


def test_an_update_changes_the_named_columns_of_one_row_alone() -> None:
    comparison = make_comparison()
    rows = [
        insert(
            Assignment(
                comparison=comparison, annotator=make_member(), shown_order=[0, 1], lease_expires_at=NOW
            )
        )
        for _number in range(2)
    ]
    rows[0].closed_at, rows[0].draft, rows[0].skip_reason = NOW, {"comment": "x"}, "not to be written"
    update(rows[0], "closed_at", "draft")
    changed, other = (Assignment.objects.get(pk=row.pk) for row in rows)
    assert (changed.closed_at, changed.draft, changed.skip_reason) == (NOW, {"comment": "x"}, "")
    assert (other.closed_at, other.draft) == (None, {})
    rows[0].closed_at = None
    update(rows[0], "closed_at", "draft")
    assert Assignment.objects.get(pk=rows[0].pk).closed_at is None


def test_an_update_of_a_queryset_says_how_many_rows_it_changed() -> None:
    for priority in (1, 2, 3):
        make_comparison(priority=priority)
    statement = PreparedUpdate(
        lambda: Comparison.objects.filter(priority__gte=number("least")),
        priority=F("priority") + number("more"),
    )
    assert statement.run(least=2, more=10) == 2
    assert statement.run(least=100, more=1) == 0
    assert sorted(Comparison.objects.values_list("priority", flat=True)) == [1, 12, 13]
