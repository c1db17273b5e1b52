"""What a file is made of: JSON Lines, a JSON array, CSV, Parquet or plain lines; each is read as objects.

Like `Lines`, every reader goes on after a BadRow. `number` counts the objects read: what an import that was
stopped goes on after.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from django.utils.translation import gettext as _

from feedback.exchange import parquet
from feedback.exchange.cells import unguarded
from feedback.lines import BadFile, BadRow, Lines, Units, json_object, json_values, open_stream
from feedback.texts import plain_json

BOM = b"\xef\xbb\xbf"
OTHER_DELIMITERS = ((";", ";"), ("\t", "TAB"), ("|", "|"))


class Container(StrEnum):
    JSON_LINES = "json_lines"
    ARRAY = "array"
    CSV = "csv"
    TEXT = "text"
    PARQUET = "parquet"


class At(NamedTuple):
    """Where an object stands."""

    number: int
    line: int


class Objects(Protocol):
    @property
    def number(self) -> int: ...

    @property
    def at(self) -> At:
        """Where the object stands that was read last."""

    def __next__(self) -> dict[str, Any]: ...

    def place(self, bad: BadRow, at: At | None = None) -> BadRow:
        """Tell where the object stands that could not be read: the last one, or the one `at` that place."""


@contextmanager
def opened(raw: io.RawIOBase, limit: int) -> Iterator[tuple[io.BufferedReader, Container | None]]:
    """The bytes of a file, and what they are if the first ones say so. BadFile for what no import reads."""
    first = raw.read(4)
    raw.seek(0)
    if first == parquet.MAGIC:
        with parquet.as_json_lines(raw, limit) as stream:
            yield stream, Container.PARQUET
    else:
        stream = open_stream(raw, limit)
        yield stream, by_first_characters(stream)


def by_first_characters(stream: io.BufferedReader) -> Container | None:
    start = stream.peek(4096)[:4096].removeprefix(BOM).lstrip()
    if start.startswith(b"["):
        inner = start[1:].lstrip()
        return Container.ARRAY if inner[:1] in (b"", b"{", b"]") else Container.JSON_LINES
    return Container.JSON_LINES if start.startswith(b"{") else None


def objects(stream: io.BufferedReader, container: Container) -> Objects:
    readers: dict[Container, type[Objects]] = {
        Container.JSON_LINES: JsonLines,
        Container.ARRAY: JsonArray,
        Container.CSV: CsvRows,
        Container.TEXT: TextLines,
        Container.PARQUET: ParquetRows,
    }
    return readers[container](stream)  # type: ignore[call-arg]  # a protocol says nothing of how one is made


class TextLines:
    """A prompt on each line that is not blank."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.lines = Lines(stream)
        self.number = 0

    def __next__(self) -> dict[str, Any]:
        return {"prompt": self.line().rstrip("\r\n")}

    def line(self) -> str:
        text = next(self.lines)
        while not text.strip():
            text = next(self.lines)
        self.number = self.lines.number
        return text

    @property
    def at(self) -> At:
        return At(self.number, self.number)

    def place(self, bad: BadRow, at: At | None = None) -> BadRow:
        bad.line = bad.line or (at or self.at).line
        return bad


class JsonLines(TextLines):
    """An object on each line."""

    def __next__(self) -> dict[str, Any]:
        return json_object(self.line())


class ParquetRows(JsonLines):
    """Rows that come as JSON Lines from the process that reads the file; they have numbers, not lines."""

    def place(self, bad: BadRow, at: At | None = None) -> BadRow:
        bad.line, number = 0, bad.line or (at or self.at).number
        bad.reason = _("row %(number)d: %(reason)s") % {"number": number, "reason": bad.reason}
        return bad


class JsonArray:
    """Objects in one array; what ends the array early ends the reading."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.units = Units(stream)
        self.values = json_values(self.units)
        self.number = 0

    def __next__(self) -> dict[str, Any]:
        found = next(self.values)
        self.number += 1
        if isinstance(found, BadRow):
            raise found
        return found

    @property
    def at(self) -> At:
        return At(self.number, self.units.line)

    def place(self, bad: BadRow, at: At | None = None) -> BadRow:
        number, bad.line = at or self.at
        bad.reason = _("object %(number)d: %(reason)s") % {"number": number, "reason": bad.reason}
        return bad


class CsvRows:
    """A header, then a row of text cells in each record; of one that spans lines the first counts."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.lines = Lines(stream)
        self.reader = csv.reader(self.lines, strict=True)
        self.header: list[str] = []
        self.own = False
        self.number = 0

    def __next__(self) -> dict[str, Any]:
        if not self.header:
            cells = self.cells()
            self.header, self.own = csv_header(cells), cells == parquet.FLAT_COLUMNS
        cells = self.cells()
        if len(cells) != len(self.header):
            facts = {"found": len(cells), "wanted": len(self.header)}
            raise BadRow(_("%(found)d cells, the header has %(wanted)d") % facts)
        if self.own:
            cells = [unguarded(cell) for cell in cells]
        return dict(zip(self.header, cells, strict=True))

    def cells(self) -> list[str]:
        """The next record that is not blank."""
        while True:
            self.number = self.lines.number + 1
            try:
                cells = next(self.reader)
            except csv.Error as error:
                raise BadRow(csv_reason(str(error))) from error
            if any(cell.strip() for cell in cells):
                return cells

    @property
    def at(self) -> At:
        return At(self.number, self.number)

    def place(self, bad: BadRow, at: At | None = None) -> BadRow:
        bad.line = bad.line or (at or self.at).line
        return bad


def csv_reason(error: str) -> str:
    """Python's words for a broken CSV record in ours."""
    if "unexpected end of data" in error:
        return _("a quote is not closed")
    if "field limit" in error:
        return _("cell over %d KiB, or a quote is not closed") % (csv.field_size_limit() // 1024)
    return error


def csv_header(cells: list[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    for delimiter, name in OTHER_DELIMITERS:
        if len(cells) == 1 and delimiter in cells[0]:
            raise BadFile(_("the cells are separated by %s: wanted commas") % name)
    for name in names:
        if names.count(name) > 1:
            raise BadFile(_("column '%s' appears twice in the header") % name[:80])
    return names


def as_line(value: dict[str, Any]) -> str:
    """An object as a line of JSON Lines. Lone surrogates never get in, so nothing has to be escaped."""
    return plain_json(value) + "\n"
