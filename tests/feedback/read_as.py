"""Lines read as a given format: for tests of rows and of what is wrong with them."""

from __future__ import annotations

import io
import json
from typing import Any

from feedback.exchange.formats import read_rows, recognise
from feedback.lines import BadRow, open_stream

MIB = 1024 * 1024


def rows_of(
    content: bytes | str, format: str, *, limit: int = 64 * MIB, ignore_extra: bool = False
) -> list[Any]:
    raw = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(open_stream(raw, limit), format, ignore_extra=ignore_extra))


def only_error(content: bytes | str, format: str, **options: Any) -> str:
    """The text of the single bad row among the rows."""
    (bad,) = [row for row in rows_of(content, format, **options) if isinstance(row, BadRow)]
    return str(bad)


def format_of(content: bytes | str, name: str) -> str:
    raw = io.BytesIO(content if isinstance(content, bytes) else content.encode())
    return recognise(open_stream(raw, 64 * MIB), name).format


def line(**columns: Any) -> str:
    return json.dumps(columns) + "\n"


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


GOOD = line(prompt="P", chosen="A", rejected="B")
