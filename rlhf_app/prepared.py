"""Queries compiled once: where a page is asked for all day, writing its SQL costs more than running it.

A query is written as a queryset, with `Given` where values come in. It is compiled when it is first run, once
for each kind of database, and keeps its SQL and how rows are read. Rows are what the queryset would give.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias, TypeVar, cast

from django.db import connection, models
from django.db.models.expressions import Expression
from django.db.models.query import get_related_populators
from django.db.models.sql import InsertQuery, UpdateQuery

M = TypeVar("M", bound=models.Model)
Field: TypeAlias = "models.Field[Any, Any]"


class Given(Expression):
    """The place of a value in a query; `field` says how the database takes it."""

    def __init__(self, name: str, field: Field) -> None:
        super().__init__(output_field=field)
        self.name = name

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        return "%s", [self]


def number(name: str) -> Given:
    return Given(name, models.BigIntegerField())


def text(name: str) -> Given:
    return Given(name, models.TextField())


def moment(name: str) -> Given:
    return Given(name, models.DateTimeField())


class Statement:
    """SQL with what goes into it: values that never change, and places."""

    def __init__(self, sql: str, params: Iterable[Any]) -> None:
        self.sql = sql
        self.params = list(params)
        self.places = [(n, one) for n, one in enumerate(self.params) if isinstance(one, Given)]

    def execute(self, cursor: Any, given: dict[str, Any]) -> None:
        params = self.params.copy()
        for n, place in self.places:
            params[n] = place.output_field.get_db_prep_save(given[place.name], connection)
        cursor.execute(self.sql, params)


class Reading(NamedTuple):
    """A compiled SELECT."""

    statement: Statement
    converters: list[tuple[int, list[Any], Any]]
    """Column, how its values are read, and the expression that the readers ask for."""
    instance: Callable[[list[Any]], Any]


class Prepared:
    """A queryset compiled once: of instances, with `select_related` or without, or of `values_list`."""

    def __init__(self, build: Callable[[], models.QuerySet[Any, Any]]) -> None:
        self.build = build
        self.readings: dict[str, Reading] = {}

    def all(self, **given: Any) -> list[Any]:
        reading = self.readings.get(connection.vendor)
        if reading is None:
            reading = self.readings[connection.vendor] = compiled(self.build())
        with connection.cursor() as cursor:
            reading.statement.execute(cursor, given)
            rows = cursor.fetchall()
        return [reading.instance(read(row, reading.converters)) for row in rows]

    def first(self, **given: Any) -> Any:
        """The first row; None when there is none."""
        rows = self.all(**given)
        return rows[0] if rows else None


class PreparedUpdate:
    """An UPDATE compiled once: `values` of the rows of a queryset, as expressions or as `Given`."""

    def __init__(self, build: Callable[[], models.QuerySet[Any, Any]], **values: Any) -> None:
        self.build, self.values = build, values
        self.statements: dict[str, Statement] = {}

    def run(self, **given: Any) -> int:
        """How many rows were changed."""
        statement = self.statements.get(connection.vendor)
        if statement is None:
            query: Any = self.build().query.chain(UpdateQuery)
            query.add_update_values(self.values)
            statement = Statement(*query.get_compiler(connection=connection).as_sql())
            self.statements[connection.vendor] = statement
        with connection.cursor() as cursor:
            statement.execute(cursor, given)
            return int(cursor.rowcount)


def read(row: tuple[Any, ...], converters: list[tuple[int, list[Any], Any]]) -> list[Any]:
    values = list(row)
    for n, steps, expression in converters:
        value = values[n]
        for step in steps:
            value = step(value, expression, connection)
        values[n] = value
    return values


def compiled(rows: models.QuerySet[Any, Any]) -> Reading:
    compiler = rows.query.get_compiler(connection=connection)
    statement = Statement(*compiler.as_sql())
    found = compiler.get_converters([column[0] for column in compiler.select or []])
    converters = [(n, steps, expression) for n, (steps, expression) in found.items()]
    if getattr(rows, "_fields", None) is not None:  # of values_list
        return Reading(statement, converters, tuple)
    return Reading(statement, converters, maker(compiler))


def maker(compiler: Any) -> Callable[[list[Any]], Any]:
    """Makes an instance of a row, with those that were selected beside it."""
    columns = compiler.klass_info["select_fields"]
    start, end = columns[0], columns[-1] + 1
    names = [column[0].target.attname for column in compiler.select[start:end]]
    model = compiler.klass_info["model"]
    beside = get_related_populators(compiler.klass_info, compiler.select, connection.alias)  # type: ignore[call-arg]  # Django 6's stubs
    annotations = compiler.annotation_col_map or {}

    def instance(row: list[Any]) -> Any:
        made = model.from_db(connection.alias, names, row[start:end])
        for populator in beside:
            populator.populate(row, made)
        for name, n in annotations.items():
            setattr(made, name, row[n])
        return made

    return instance


# --- writing ----------------------------------------------------------------------------------------

INSERTS: dict[tuple[str, type[models.Model]], Statement] = {}
UPDATES: dict[tuple[str, type[models.Model], tuple[str, ...]], Statement] = {}


def insert(row: M) -> M:
    """`row.save()` of a new row, without signals and without a look at what `save` may do besides."""
    model = type(row)
    statement = INSERTS.get((connection.vendor, model))
    if statement is None:
        statement = INSERTS[connection.vendor, model] = inserting(model)
    given = {field.attname: field.pre_save(row, add=True) for field in columns_of(model)}
    with connection.cursor() as cursor:
        statement.execute(cursor, given)
        row.pk = cursor.fetchone()[0]
    row._state.adding, row._state.db = False, connection.alias
    return row


def columns_of(model: type[models.Model]) -> list[Field]:
    return [field for field in model._meta.concrete_fields if not field.primary_key]


def inserting(model: type[models.Model]) -> Statement:
    fields = columns_of(model)
    query = InsertQuery(model)
    places = model(**{field.attname: Given(field.attname, field) for field in fields})
    query.insert_values(fields, [places], raw=True)
    compiler = query.get_compiler(connection=connection)
    compiler.returning_fields = [model._meta.pk]
    [(sql, params)] = compiler.as_sql()
    return Statement(sql, params)


def update(row: models.Model, *names: str) -> None:
    """`row.save(update_fields=names)`, without signals."""
    model = type(row)
    statement = UPDATES.get((connection.vendor, model, names))
    if statement is None:
        statement = UPDATES[connection.vendor, model, names] = updating(model, names)
    given = {field.name: field.pre_save(row, add=False) for field in fields_of(model, names)}
    with connection.cursor() as cursor:
        statement.execute(cursor, given | {"pk": row.pk})


def fields_of(model: type[models.Model], names: tuple[str, ...]) -> list[Field]:
    return [cast("Field", model._meta.get_field(name)) for name in names]


def updating(model: type[models.Model], names: tuple[str, ...]) -> Statement:
    rows = model._base_manager.filter(pk=number("pk"))
    query: Any = rows.query.chain(UpdateQuery)
    fields = fields_of(model, names)
    query.add_update_fields([(field, None, Given(field.name, field)) for field in fields])
    return Statement(*query.get_compiler(connection=connection).as_sql())
