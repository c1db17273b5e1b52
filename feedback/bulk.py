"""Many rows of one table at once, ten times as fast as making a model object for each.

The work is done column by column: what all rows have alike is prepared once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any, NamedTuple

from django.db import connection
from django.db.backends.utils import CursorWrapper
from django.db.models import CharField, DateTimeField, Field, JSONField, Model
from django.utils import timezone

from feedback.texts import plain_json

ROOMY = {"cache_size": -64 * 1024, "wal_autocheckpoint": 8000}
"""KiB of pages in memory, and pages that collect in the log before they are put in their places (32 MiB)."""
Column = tuple["Field[Any, Any]", Sequence[Any]]


def insert(
    model: type[Model],
    names: tuple[str, ...],
    rows: Sequence[tuple[Any, ...]],
    *,
    ignore_conflicts: bool = False,
    **fixed: Any,
) -> list[int]:
    """Insert `rows` of values of the columns `names`; `fixed` values and defaults fill the rest of each row.

    Returns the new ids in the order of the rows; rows whose conflicts are ignored have none. `save` is not
    called: hashes and the like are the caller's. Only within a transaction.
    """
    if not rows:
        return []
    assert connection.in_atomic_block, "on SQLite the ids are free only while the write lock is held"
    fields = {field.attname: field for field in model._meta.concrete_fields if not field.primary_key}
    columns = [
        (fields[name], prepared(fields[name], values))
        for name, values in zip(names, zip(*rows, strict=True), strict=True)
    ]
    now = timezone.now()
    constants = []
    for name, field in fields.items():
        if name not in names:
            default = now if getattr(field, "auto_now_add", False) else field.get_default()
            constants.append((field, prepared(field, [fixed.get(name, default)])[0]))
    quote = connection.ops.quote_name
    target = Target(
        model._meta.db_table,
        quote(model._meta.db_table),
        # Only names from the model's own definition stand in a statement; every value is a parameter.
        ", ".join(quote(field.attname) for field, _values in (*columns, *constants)),
        columns,
        constants,
        len(rows),
        " ON CONFLICT DO NOTHING" if ignore_conflicts else "",
    )
    write = one_by_one if connection.vendor == "sqlite" else all_at_once
    with connection.cursor() as cursor:
        return write(cursor, target)


def prepared(field: Field[Any, Any], values: Sequence[Any]) -> Sequence[Any]:
    """The values of a column as both drivers take them."""
    if isinstance(field, JSONField):
        return [json_cell(value) for value in values]
    if isinstance(field, CharField):  # choices are a kind of text that the drivers do not know
        return [None if value is None else str(value) for value in values]
    if isinstance(field, DateTimeField):
        made = {value: field.get_db_prep_save(value, connection) for value in set(values)}
        return [made[value] for value in values]
    return values


EMPTY: dict[type, str] = {list: "[]", dict: "{}"}


def json_cell(value: Any) -> str | None:
    """JSON as text. Most rows hold an empty list."""
    if value is None:
        return None
    return plain_json(value) if value or type(value) not in EMPTY else EMPTY[type(value)]


class Target(NamedTuple):
    """What is written where."""

    plain_name: str
    table: str
    """The name in quotes, as in `names`."""
    names: str
    columns: list[Column]
    constants: list[tuple[Field[Any, Any], Any]]
    number: int
    conflict: str


def one_by_one(cursor: CursorWrapper, target: Target) -> list[int]:
    """SQLite: a short statement, many times. Nobody else writes meanwhile, so the next free ids are known."""
    marks = ", ".join(["%s"] * (1 + len(target.columns) + len(target.constants)))
    statement = f"INSERT INTO {target.table} (id, {target.names}) VALUES ({marks}){target.conflict}"
    cursor.execute("SELECT seq FROM sqlite_sequence WHERE name = %s", [target.plain_name])
    used = cursor.fetchone()
    first = (used[0] if used else 0) + 1
    ids = range(first, first + target.number)
    cells = [values for _field, values in target.columns]
    same = [repeat(value, target.number) for _field, value in target.constants]
    cursor.executemany(statement, list(zip(ids, *cells, *same, strict=True)))
    if not target.conflict:
        return list(ids)
    cursor.execute(f"SELECT id FROM {target.table} WHERE id >= %s", [first])
    return [int(row[0]) for row in cursor.fetchall()]


def all_at_once(cursor: CursorWrapper, target: Target) -> list[int]:
    """PostgreSQL: one statement with an array for each column, the same text however many rows."""
    arrays = ", ".join(f"%s::{type_of(field)}[]" for field, _values in target.columns)
    cells = [f"c{place}::{field.db_type(connection)}" if isinstance(field, JSONField) else f"c{place}"
             for place, (field, _values) in enumerate(target.columns)]  # fmt: skip
    cells += [f"%s::{field.db_type(connection)}" for field, _value in target.constants]
    aliases = ", ".join(f"c{place}" for place in range(len(target.columns)))
    values = [value for _field, value in target.constants] + [
        list(column) for _field, column in target.columns
    ]
    cursor.execute(
        f"INSERT INTO {target.table} ({target.names}) SELECT {', '.join(cells)} "
        f"FROM unnest({arrays}) AS rows ({aliases}){target.conflict} RETURNING id",
        values,
    )
    return [int(row[0]) for row in cursor.fetchall()]


def type_of(field: Field[Any, Any]) -> str:
    """Of an array's elements. Text for what is short, too: a cast to its length would cut it off."""
    name = str(field.db_type(connection))
    return "text" if name.startswith("varchar") or isinstance(field, JSONField) else name


def ids_by(model: type[Model], name: str, values: Collection[str], project_id: int) -> dict[str, int]:
    """Ids of the project's rows by a text column, of those whose value is one of `values`.

    A list of a thousand values makes SQLite read the whole project by another index, so each is looked up.
    """
    if not values:
        return {}
    quote = connection.ops.quote_name
    table, column = quote(model._meta.db_table), quote(name)
    if connection.vendor == "sqlite":
        # SQLite takes the tables of a CROSS JOIN in the order in which they stand.
        there = f"json_each(%s) AS wanted CROSS JOIN {table} ON {column} = wanted.value AND project_id = %s"
        given: list[Any] = [plain_json(list(values)), project_id]
    else:
        there, given = f"{table} WHERE {column} = ANY(%s) AND project_id = %s", [list(values), project_id]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {column}, {table}.{quote('id')} FROM {there}", given)
        return {str(value): int(pk) for value, pk in cursor.fetchall()}


@contextmanager
def room_for_indexes() -> Iterator[None]:
    """Let SQLite keep more pages in memory meanwhile.

    Keys by hash land anywhere in their indexes: with its usual 2 MiB it would read and write back nearly
    every page for every row, and take ever longer as the tables grow.
    """
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        before = {name: cursor.execute(f"PRAGMA {name}").fetchone()[0] for name in ROOMY}
        for name, value in ROOMY.items():
            cursor.execute(f"PRAGMA {name}={value}")
    try:
        yield
    finally:
        with connection.cursor() as cursor:
            for name, value in before.items():
                cursor.execute(f"PRAGMA {name}={int(value)}")
