"""Many rows of one table in one statement, five times as fast as making a model object for each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db import connection
from django.db.models import DateTimeField, JSONField, Model
from django.utils import timezone


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
    called: hashes and the like are the caller's. A few hundred rows at a time: databases limit the values of
    one statement.
    """
    if not rows:
        return []
    fields = {field.attname: field for field in model._meta.concrete_fields if not field.primary_key}
    now = timezone.now()
    for name, field in fields.items():
        if name not in names:
            default = now if getattr(field, "auto_now_add", False) else field.get_default()
            fixed[name] = field.get_db_prep_save(fixed.get(name, default), connection)
    rest = [name for name in fields if name not in names]
    constants = [fixed[name] for name in rest]
    special = [
        (place, fields[name])
        for place, name in enumerate(names)
        if isinstance(fields[name], JSONField | DateTimeField)
    ]
    values: list[Any] = []
    known: dict[tuple[int, str], Any] = {}
    for row in rows:
        cells = list(row)
        for place, field in special:
            # Most rows hold the same: an empty list, this moment.
            key = (place, repr(cells[place]) if not cells[place] or isinstance(field, DateTimeField) else "")
            if not key[1]:
                cells[place] = field.get_db_prep_save(cells[place], connection)
                continue
            if key not in known:
                known[key] = field.get_db_prep_save(cells[place], connection)
            cells[place] = known[key]
        values += cells
        values += constants
    quote = connection.ops.quote_name
    columns = ", ".join(quote(fields[name].attname) for name in (*names, *rest))
    one = "(" + ", ".join(["%s"] * len(fields)) + ")"
    # Only names from the model's own definition stand in the text; every value is a parameter.
    statement = f"INSERT INTO {quote(model._meta.db_table)} ({columns}) VALUES {', '.join([one] * len(rows))}"
    conflict = " ON CONFLICT DO NOTHING" if ignore_conflicts else ""
    with connection.cursor() as cursor:
        cursor.execute(f"{statement}{conflict} RETURNING {quote('id')}", values)
        return [int(row[0]) for row in cursor.fetchall()]
