"""What the database itself refuses, whoever asks: changes of rows that others have built on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper
    from django.db.backends.base.schema import BaseDatabaseSchemaEditor
    from django.db.migrations.state import StateApps


class Guard(NamedTuple):
    """A trigger before UPDATE, with the words of the refusal."""

    name: str
    table: str
    words: str
    only_if: str = ""
    """A condition on OLD and NEW, in SQL that SQLite and PostgreSQL both read."""


PREFERENCES = Guard(
    "preference_refuses_update", "feedback_preference", "judgements are append-only: a change is a new row"
)


def install(connection: BaseDatabaseWrapper, guards: Sequence[Guard]) -> None:
    remove(connection, guards)
    with connection.cursor() as cursor:
        for guard in guards:
            condition = f"WHEN ({guard.only_if})" if guard.only_if else ""
            if connection.vendor == "postgresql":
                cursor.execute(
                    f"CREATE OR REPLACE FUNCTION {guard.name}() RETURNS trigger LANGUAGE plpgsql AS "
                    f"$$ BEGIN RAISE EXCEPTION '{guard.words}'; END $$"
                )
                cursor.execute(
                    f"CREATE TRIGGER {guard.name} BEFORE UPDATE ON {guard.table} "
                    f"FOR EACH ROW {condition} EXECUTE FUNCTION {guard.name}()"
                )
            else:
                cursor.execute(
                    f"CREATE TRIGGER {guard.name} BEFORE UPDATE ON {guard.table} {condition} "
                    f"BEGIN SELECT RAISE(ABORT, '{guard.words}'); END"
                )


def remove(connection: BaseDatabaseWrapper, guards: Sequence[Guard]) -> None:
    with connection.cursor() as cursor:
        for guard in guards:
            on_table = f" ON {guard.table}" if connection.vendor == "postgresql" else ""
            cursor.execute(f"DROP TRIGGER IF EXISTS {guard.name}{on_table}")


Migrate = Callable[["StateApps", "BaseDatabaseSchemaEditor"], None]


def migrations_of(*guards: Guard) -> tuple[Migrate, Migrate]:
    """Forwards and backwards, for RunPython."""

    def forwards(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
        install(editor.connection, guards)

    def backwards(_apps: StateApps, editor: BaseDatabaseSchemaEditor) -> None:
        remove(editor.connection, guards)

    return forwards, backwards
