"""Bytes to lines to JSON values, refusing what no row can be. Every limit stands at the top of this file.

Nothing here knows a format or the database; memory stays flat whatever the file holds.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_NESTING = 32
MAX_NUMBER_DIGITS = 64
BUFFER_BYTES = 256 * 1024


class BadFile(Exception):
    """The file as a whole cannot be read."""


class BadRow(Exception):
    """A line that is no row; `line` counts from 1 and is filled in by whoever knows it."""

    def __init__(self, reason: str, line: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line

    def __str__(self) -> str:
        return located(self.line, self.reason)


def located(line: int, reason: str) -> str:
    """`Line 9: 'rejected' missing`; line 0 is the file as a whole."""
    return _("Line %(line)d: %(reason)s") % {"line": line, "reason": reason} if line else reason


# --- bytes to lines ---------------------------------------------------------------------------------


class Unpacked(io.RawIOBase):
    """A gzip stream that stops at a limit of real output bytes, whatever the header claims."""

    def __init__(self, packed: io.RawIOBase, limit: int) -> None:
        self.stream = gzip.GzipFile(fileobj=packed)
        self.left = limit
        self.limit = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self.stream.read1(len(buffer))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise BadFile(_("the gzip file is damaged or cut off")) from error
        self.left -= len(data)
        if self.left < 0:
            raise BadFile(_("archive unpacks to more than %d MiB") % (self.limit // 1024**2))
        buffer[: len(data)] = data
        return len(data)


REFUSED_BY_FIRST_BYTES = (
    (b"\xff\xfe", gettext_lazy("looks like UTF-16: save it as UTF-8")),
    (b"\xfe\xff", gettext_lazy("looks like UTF-16: save it as UTF-8")),
    (b"\xd0\xcf\x11\xe0", gettext_lazy("looks like an Excel file: save it as CSV in UTF-8")),
    (b"PAR1", gettext_lazy("looks like a Parquet file: export it as JSON Lines")),
)


def open_stream(raw: io.RawIOBase, limit: int) -> io.BufferedReader[Any]:
    """Bytes of the file, unpacked if it is gzip. Raises BadFile for what is no text at all."""
    first = raw.read(4096)
    raw.seek(0)
    if first.startswith(b"\x1f\x8b"):
        stream: io.BufferedReader[Any] = io.BufferedReader(Unpacked(raw, limit), BUFFER_BYTES)
        first = stream.peek(4096)
        if first.startswith((b"\x1f\x8b", b"PK\x03\x04")):
            raise BadFile(_("archive inside an archive"))
    else:
        stream = io.BufferedReader(raw, BUFFER_BYTES)
    if first.startswith(b"PK\x03\x04"):
        excel = b"[Content_Types].xml" in first or b"xl/" in first
        raise BadFile(
            _("looks like an Excel file: save it as CSV in UTF-8")
            if excel
            else _("a ZIP archive: upload the file itself, or packed with gzip")
        )
    for magic, reason in REFUSED_BY_FIRST_BYTES:
        if first.startswith(magic):
            raise BadFile(str(reason))
    return stream


class Lines:
    """Lines of text. `next` raises BadRow for a line that is none, and can be called again after it."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.stream = stream
        self.number = 0

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        raw = self.stream.readline(MAX_LINE_BYTES + 1)
        if not raw:
            raise StopIteration
        self.number += 1
        if len(raw) > MAX_LINE_BYTES:
            while raw and not raw.endswith(b"\n"):
                raw = self.stream.readline(MAX_LINE_BYTES)
            raise BadRow(_("line over %d MiB") % (MAX_LINE_BYTES // 1024**2), self.number)
        if self.number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            reason = _("not valid UTF-8 (byte 0x%02X)") % raw[error.start]
            raise BadRow(reason, self.number) from error
        if "\x00" in text:
            raise BadRow(_("NUL character (U+0000)"), self.number)
        return text


# --- a line to a value ------------------------------------------------------------------------------


def kind_of(value: object) -> str:
    """The name of a JSON type, for people."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return _("true or false")
    number = _("a number")
    names = {str: _("text"), int: number, float: number, list: _("a list"), dict: _("an object")}
    return names[type(value)]


def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _value in pairs:
            if key in seen:
                raise BadRow(_("key '%s' appears twice") % key[:80])
            seen.add(key)
    return value


def refuse_constant(name: str) -> float:
    raise BadRow(_("%s is not JSON") % name)


def whole_number(digits: str) -> int:
    if len(digits) > MAX_NUMBER_DIGITS:
        raise BadRow(_("number too long"))
    return int(digits)


def real_number(digits: str) -> float:
    number = float(digits)
    if len(digits) > MAX_NUMBER_DIGITS or number in (float("inf"), float("-inf")):
        raise BadRow(_("number too long"))
    return number


DECODER = json.JSONDecoder(
    object_pairs_hook=once_each,
    parse_constant=refuse_constant,
    parse_int=whole_number,
    parse_float=real_number,
)


def json_object(text: str) -> dict[str, Any]:
    """The object of a line of JSON Lines."""
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        facts = {"column": error.colno, "message": error.msg}
        raise BadRow(_("not JSON from column %(column)d on: %(message)s") % facts) from error
    except RecursionError as error:
        raise BadRow(_("nesting over %d") % MAX_NESTING) from error
    if not isinstance(value, dict):
        raise BadRow(_("wanted an object, found %s") % kind_of(value))
    check_depth_and_characters(value, escapes="\\u" in text)
    return value


def check_depth_and_characters(value: object, *, escapes: bool) -> None:
    """Refuse what a database cannot hold, and only an escape can have brought in."""
    level: list[object] = [value]
    for _depth in range(MAX_NESTING):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner += [*item.values(), *item.keys()] if escapes else item.values()
            elif isinstance(item, list):
                inner += item
            elif escapes and isinstance(item, str):
                refuse_unstorable(item)
        level = inner
        if not level:
            return
    raise BadRow(_("nesting over %d") % MAX_NESTING)


def refuse_unstorable(text: str) -> None:
    if "\x00" in text:
        raise BadRow(_("NUL character (U+0000)"))
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise BadRow(_("lone surrogate (U+%04X)") % ord(text[error.start])) from error
