"""What the database itself refuses, whoever asks: changes of rows that others have built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import StateApps


class Guard(NamedTuple):
    """A trigger that refuses a kind of statement, with the words of the refusal."""

    name: str
    table: str
    words: str
    only_if: str = ""
    """A condition on OLD and NEW, in SQL that SQLite and PostgreSQL both read."""
    event: str = "UPDATE"
    """UPDATE, DELETE, or TRUNCATE, which SQLite does not have."""


APPEND_ONLY = "judgements are append-only: a change is a new row"
PREFERENCES = Guard("preference_refuses_update", "feedback_preference", APPEND_ONLY)
PREFERENCES_STAY = (
    Guard("preference_refuses_delete", "feedback_preference", APPEND_ONLY, event="DELETE"),
    Guard("preference_refuses_truncate", "feedback_preference", APPEND_ONLY, event="TRUNCATE"),
)


def install(connection: BaseDatabaseWrapper, guards: Sequence[Guard]) -> None:
    remove(connection, guards)
    with connection.cursor() as cursor:
        for guard in _known(connection, guards):
            condition = f"WHEN ({guard.only_if})" if guard.only_if else ""
            trigger = f"CREATE TRIGGER {guard.name} BEFORE {guard.event} ON {guard.table}"
            if connection.vendor == "postgresql":
                cursor.execute(
                    f"CREATE OR REPLACE FUNCTION {guard.name}() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$ BEGIN RAISE EXCEPTION '{guard.words}'; END $$"
                )
                each = "STATEMENT" if guard.event == "TRUNCATE" else "ROW"
                cursor.execute(f"{trigger} FOR EACH {each} {condition} EXECUTE FUNCTION {guard.name}()")
            else:
                cursor.execute(f"{trigger} {condition} BEGIN SELECT RAISE(ABORT, '{guard.words}'); END")


def remove(connection: BaseDatabaseWrapper, guards: Sequence[Guard]) -> None:
    with connection.cursor() as cursor:
        for guard in guards:
            on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
            cursor.execute(f"DROP TRIGGER IF EXISTS {guard.name}{on_table}")


def missing(connection: BaseDatabaseWrapper, guards: Sequence[Guard]) -> list[str]:
    """Names of guards that are not there: on SQLite a migration that rebuilds a table drops its triggers."""
    standing = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'trigger'",
        "postgresql": "SELECT tgname FROM pg_trigger WHERE tgenabled <> 'D'",
    }
    with connection.cursor() as cursor:
        cursor.execute(standing[connection.vendor])
        found = {row[0] for row in cursor.fetchall()}
    return [guard.name for guard in _known(connection, guards) if guard.name not in found]


def _known(connection: BaseDatabaseWrapper, guards: Sequence[Guard]) -> list[Guard]:
    return [guard for guard in guards if guard.event != "TRUNCATE" or connection.vendor == "postgresql"]


Migrate = Callable[["StateApps", "BaseDatabaseSchemaEditor"], None]


def migrations_of(*guards: Guard) -> tuple[Migrate, Migrate]:
    """Forwards and backwards, for RunPython."""

    def forwards(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
        install(editor.connection, guards)

    def backwards(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
        remove(editor.connection, guards)

    return forwards, backwards
