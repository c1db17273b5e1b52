"""Many rows at once: what comes back is what was put in, and looking rows up reads no whole table."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DataError, IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from feedback.bulk import ids_by, insert
from feedback.models import Comparison, Completion, Project, Prompt, sha256_text
from tests.factories import make_project

pytestmark = pytest.mark.django_db
COLUMNS = ("messages", "content_hash", "external_id")


def row(text: str) -> tuple[Any, ...]:
    return ([{"role": "user", "content": text}], sha256_text(text), text[:5])


def test_rows_and_ids_come_in_the_order_given(project: Project) -> None:
    texts = ["schön", "\u2028 \\ \" %s ' NULL", "日本", "{}", "x" * 70_000]
    ids = insert(Prompt, COLUMNS, [row(text) for text in texts], project_id=project.pk, split="held_out")
    found = Prompt.objects.in_bulk(ids)
    assert [found[pk].messages for pk in ids] == [row(text)[0] for text in texts]
    assert {prompt.split for prompt in found.values()} == {"held_out"}
    assert {prompt.source for prompt in found.values()} == {""}, "the field's default"
    assert all(prompt.created_at is not None for prompt in found.values())


def test_ids_are_never_given_twice_and_models_go_on_after_them(project: Project) -> None:
    first = insert(Prompt, COLUMNS, [row("a"), row("b")], project_id=project.pk)
    Prompt.objects.filter(pk__in=first).delete()
    second = insert(Prompt, COLUMNS, [row("c")], project_id=project.pk)
    third = Prompt.objects.create(project=project, messages=row("d")[0])
    assert max(first) < second[0] < third.pk


def test_rows_that_are_there_can_be_passed_over(project: Project) -> None:
    insert(Prompt, COLUMNS, [row("a")], project_id=project.pk)
    new = insert(Prompt, COLUMNS, [row("b"), row("a")], ignore_conflicts=True, project_id=project.pk)
    assert Prompt.objects.filter(pk__in=new).get().messages == row("b")[0]
    with pytest.raises(IntegrityError), transaction.atomic():
        insert(Prompt, COLUMNS, [row("a")], project_id=project.pk)
    assert Prompt.objects.count() == 2


def test_values_that_are_missing_are_null(project: Project) -> None:
    prompt = insert(Prompt, COLUMNS, [row("a")], project_id=project.pk)[0]
    columns = ("prompt_id", "text", "text_hash", "source", "token_count", "logprob", "sampling")
    given = [(prompt, "x", "h", Completion.Source.IMPORTED, None, -0.5, {"seed": 7}),
             (prompt, "y", "i", "written", 3, None, {})]  # fmt: skip
    one, two = (Completion.objects.get(pk=pk) for pk in insert(Completion, columns, given))
    assert (one.source, one.token_count, one.logprob, one.sampling) == ("imported", None, -0.5, {"seed": 7})
    assert (two.source, two.token_count, two.logprob, two.sampling) == ("written", 3, None, {})


@pytest.mark.skipif("connection.vendor == 'sqlite'", reason="SQLite does not hold texts to a length")
def test_a_text_too_long_is_refused_and_not_cut(project: Project) -> None:
    with pytest.raises(DataError), transaction.atomic():
        insert(Prompt, COLUMNS, [([], "h" * 65, "")], project_id=project.pk)


def test_ids_are_those_of_the_project(project: Project) -> None:
    other = make_project()
    mine = insert(Prompt, COLUMNS, [row("a"), row("b")], project_id=project.pk)
    insert(Prompt, COLUMNS, [row("a"), row("c")], project_id=other.pk)
    hashes = [sha256_text(text) for text in ("a", "c", "nowhere")]
    assert ids_by(Prompt, "content_hash", hashes, project.pk) == {sha256_text("a"): mine[0]}
    assert ids_by(Prompt, "content_hash", [], project.pk) == {}


@pytest.mark.skipif("connection.vendor != 'sqlite'", reason="PostgreSQL counts the rows before it decides")
@pytest.mark.parametrize(("model", "column"), [(Prompt, "content_hash"), (Comparison, "import_key")])
def test_a_thousand_are_looked_up_one_by_one(project: Project, model: Any, column: str) -> None:
    """SQLite read the whole project instead: imports took ever longer, and half of it for this."""
    with CaptureQueriesContext(connection) as queries:
        ids_by(model, column, [str(number) for number in range(1000)], project.pk)
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {queries[0]['sql']}")
        steps = [str(step[3]) for step in cursor.fetchall()]
    own = [step for step in steps if model._meta.db_table in step]
    assert len(own) == 1 and own[0].startswith("SEARCH"), steps
    assert f"{column}=?" in own[0] and "project_id=?" in own[0], steps
