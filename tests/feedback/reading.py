"""Files in memory, read as an import reads them: for tests of formats and of containers."""

from __future__ import annotations

import io
import json
from typing import Any

from feedback.exchange.files import Container, opened
from feedback.exchange.formats import read_rows, recognise
from feedback.exchange.rows import Row
from feedback.lines import BadRow
from feedback.models import Message

MIB = 1024 * 1024


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def found_in(content: bytes | str, name: str = "x") -> tuple[str, str]:
    with opened(io.BytesIO(content if isinstance(content, bytes) else content.encode()), 64 * MIB) as (
        stream,
        kind,
    ):
        return recognise(stream, name, kind)


def rows_of(content: bytes | str, name: str = "x", format: str = "", **options: Any) -> list[Any]:
    """Recognised and read, as an import does."""
    data = content if isinstance(content, bytes) else content.encode()
    found, container = (format, "") if format else found_in(data, name)
    with opened(io.BytesIO(data), 64 * MIB) as (stream, kind):
        return list(read_rows(stream, found, container=kind or container, **options))


def one(value: object, format: str) -> Row:
    """The row of a single object, which must be recognised as `format`, alone on a line or in an array."""
    line = json.dumps(value) + "\n"
    assert found_in(line) == (format, Container.JSON_LINES)
    assert found_in(json.dumps([value], indent=2)) == (format, Container.ARRAY)
    (row,) = rows_of(line)
    assert rows_of(json.dumps([value])) == [row]
    return row


def refusal(value: object, format: str) -> str:
    (bad,) = rows_of(json.dumps(value) + "\n", format=format)
    assert isinstance(bad, BadRow), bad
    return str(bad)
