"""What keeps the audit trail honest: triggers against change, one writer at a time, a check of the chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import StateApps

    from feedback.models import AuditEntry

TABLE = "feedback_auditentry"
CHAIN_LOCK = 7_203_114_559
"""Any number that no other advisory lock of this database uses."""

INSTALL = {
    "sqlite": (
        f"""CREATE TRIGGER audit_refuses_update BEFORE UPDATE ON {TABLE}
            BEGIN SELECT RAISE(ABORT, 'audit entries are append-only'); END""",
        f"""CREATE TRIGGER audit_refuses_delete BEFORE DELETE ON {TABLE}
            BEGIN SELECT RAISE(ABORT, 'audit entries are append-only'); END""",
    ),
    "postgresql": (
        """CREATE OR REPLACE FUNCTION audit_refuses_change() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'audit entries are append-only'; END $$""",
        f"""CREATE TRIGGER audit_refuses_change BEFORE UPDATE OR DELETE ON {TABLE}
            FOR EACH ROW EXECUTE FUNCTION audit_refuses_change()""",
        f"""CREATE TRIGGER audit_refuses_truncate BEFORE TRUNCATE ON {TABLE}
            FOR EACH STATEMENT EXECUTE FUNCTION audit_refuses_change()""",
    ),
}
REMOVE = {
    "sqlite": (
        "DROP TRIGGER IF EXISTS audit_refuses_update",
        "DROP TRIGGER IF EXISTS audit_refuses_delete",
    ),
    "postgresql": (
        f"DROP TRIGGER IF EXISTS audit_refuses_change ON {TABLE}",
        f"DROP TRIGGER IF EXISTS audit_refuses_truncate ON {TABLE}",
    ),
}
INSTALLED = {
    "sqlite": "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND name LIKE 'audit_refuses_%%'",
    "postgresql": "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'audit_refuses_%%' AND tgenabled <> 'D'",
}


def install_triggers(connection: BaseDatabaseWrapper) -> None:
    """Updates, deletes and truncation of audit entries fail from now on, for whoever asks."""
    _execute(connection, REMOVE)
    _execute(connection, INSTALL)


def remove_triggers(connection: BaseDatabaseWrapper) -> None:
    """For tests that empty the tables between them, and for undoing the migration."""
    _execute(connection, REMOVE)


def triggers_installed(connection: BaseDatabaseWrapper) -> bool:
    with connection.cursor() as cursor:
        cursor.execute(INSTALLED[connection.vendor].replace("%%", "%"))
        return bool(cursor.fetchone()[0] == 2)


def _execute(connection: BaseDatabaseWrapper, statements: Mapping[str, tuple[str, ...]]) -> None:
    with connection.cursor() as cursor:
        for statement in statements[connection.vendor]:
            cursor.execute(statement)


def migrate_forwards(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    install_triggers(editor.connection)


def migrate_backwards(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
    remove_triggers(editor.connection)


def lock_chain(connection: BaseDatabaseWrapper) -> None:
    """Hold the end of the chain until the transaction ends, so that no two entries follow the same one.

    SQLite's IMMEDIATE transactions have one writer anyway.
    """
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s)", [CHAIN_LOCK])


def broken_entries(entries: Iterator[AuditEntry]) -> Iterator[tuple[AuditEntry, str]]:
    """Entries, given in the order of their ids, whose content or place in the chain was changed."""
    previous_hash = "0" * 64
    for entry in entries:
        if entry.hash != entry.expected_hash():
            yield entry, "its content was changed"
        elif entry.previous_hash != previous_hash:
            yield entry, "the entry before it was removed or changed"
        previous_hash = entry.hash
