"""The audit trail: nobody changes it, and whoever gets around the triggers is found out."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction

from feedback import audit
from feedback.models import AuditEntry, Project, User

pytestmark = pytest.mark.django_db


@pytest.fixture
def triggers(db: None) -> Any:
    """The product's triggers, which the other tests do without (see tests/conftest.py)."""
    audit.install_triggers(connection)
    yield
    audit.remove_triggers(connection)


def record(project: Project, count: int = 4) -> list[AuditEntry]:
    return [AuditEntry.record(None, "test.act", project, number=number) for number in range(count)]


def test_the_database_refuses_change(triggers: None, project: Project) -> None:
    record(project)
    statements = ["UPDATE feedback_auditentry SET action = 'other'", "DELETE FROM feedback_auditentry"]
    if connection.vendor == "postgresql":  # SQLite has no TRUNCATE
        statements.append("TRUNCATE feedback_auditentry")
        connection.check_constraints()  # inserts whose foreign keys are unchecked would refuse it for us
    for statement in statements:
        with (
            pytest.raises(DatabaseError, match="append-only"),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
    with pytest.raises(DatabaseError, match="append-only"), transaction.atomic():
        AuditEntry.objects.all().delete()
    assert AuditEntry.objects.filter(action="test.act").count() == 4
    record(project, 1)


def test_an_untouched_trail_agrees(
    triggers: None, project: Project, admin: User, capsys: pytest.CaptureFixture[str]
) -> None:
    record(project)
    AuditEntry.record(admin, "test.act", project, text="Zażółć", number=0.1, nothing=None, many=[1, {"a": 2}])
    call_command("verify_audit")
    assert capsys.readouterr().out.startswith("5 audit entries agree")


def test_a_changed_entry_is_named(project: Project, triggers: None) -> None:
    entries = record(project)
    audit.remove_triggers(connection)
    AuditEntry.objects.filter(pk=entries[2].pk).update(detail={"number": 20})
    audit.install_triggers(connection)
    with pytest.raises(CommandError, match=f"^entry {entries[2].pk}: its content was changed$"):
        call_command("verify_audit")


def test_a_changed_entry_with_a_matching_hash_is_found_by_the_next(project: Project, triggers: None) -> None:
    entries = record(project)
    audit.remove_triggers(connection)
    forged = entries[1]
    forged.detail = {"number": 20}
    AuditEntry.objects.filter(pk=forged.pk).update(detail=forged.detail, hash=forged.expected_hash())
    audit.install_triggers(connection)
    with pytest.raises(CommandError, match=f"^entry {entries[2].pk}: the entry before it"):
        call_command("verify_audit")


def test_a_removed_entry_leaves_a_gap(project: Project, triggers: None) -> None:
    entries = record(project)
    audit.remove_triggers(connection)
    AuditEntry.objects.filter(pk=entries[1].pk).delete()
    audit.install_triggers(connection)
    with pytest.raises(CommandError, match=f"^entry {entries[2].pk}: the entry before it"):
        call_command("verify_audit")


def test_missing_triggers_are_reported(project: Project) -> None:
    with pytest.raises(CommandError, match="triggers"):
        call_command("verify_audit")


def test_the_migration_installs_the_triggers(triggers: None) -> None:
    assert audit.triggers_installed(connection)
    audit.remove_triggers(connection)
    assert not audit.triggers_installed(connection)
    with connection.schema_editor() if connection.vendor == "postgresql" else _editor() as editor:
        audit.migrate_forwards(None, editor)  # type: ignore[arg-type]
    assert audit.triggers_installed(connection)


class _editor:
    """SQLite's schema editor cannot be opened inside a test's transaction; only its connection is used."""

    connection = connection

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_error: object) -> None:
        return None


@pytest.mark.django_db(transaction=True)
def test_entries_written_at_once_form_one_chain(project: Project) -> None:
    failures: list[Exception] = []

    def write() -> None:
        try:
            record(project, 5)
        except Exception as error:  # looked at below
            failures.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == [] and AuditEntry.objects.count() == 30
    assert list(audit.broken_entries(AuditEntry.objects.order_by("pk").iterator())) == []
