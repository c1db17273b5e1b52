"""Bytes to lines to JSON values, refusing what no row can be. Every limit stands at the top of this file.

Nothing here knows a format or the database; memory stays flat whatever the file holds.
"""

from __future__ import annotations

import codecs
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

MAX_LINE_BYTES = 4 * 1024 * 1024
MAX_NESTING = 32
MAX_NUMBER_DIGITS = 64
BUFFER_BYTES = 256 * 1024


class BadFile(Exception):
    """The file as a whole cannot be read."""

    code = ""
    """For whoever offers a way out of this one."""


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


BZIP2 = tuple(b"BZh%d1AY&SY" % size for size in range(1, 10))
"""The digit is the size of its blocks."""
REFUSED_BY_FIRST_BYTES = (
    (b"\xff\xfe", gettext_lazy("looks like UTF-16: save it as UTF-8")),
    (b"\xfe\xff", gettext_lazy("looks like UTF-16: save it as UTF-8")),
    (b"\xd0\xcf\x11\xe0", gettext_lazy("looks like an Excel file: save it as CSV in UTF-8")),
    (BZIP2, gettext_lazy("packed with bzip2: unpack it, or pack it with gzip")),
    (b"\xfd7zXZ\x00", gettext_lazy("packed with xz: unpack it, or pack it with gzip")),
    (b"\x28\xb5\x2f\xfd", gettext_lazy("packed with zstd: unpack it, or pack it with gzip")),
)
ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
"""How an archive begins: with an entry, with none, in parts."""


def open_stream(raw: io.RawIOBase, limit: int) -> io.BufferedReader[Any]:
    """Bytes of the file, unpacked if it is gzip. Raises BadFile for what is no text at all."""
    first = raw.read(4096)
    raw.seek(0)
    if first.startswith(b"\x1f\x8b"):
        stream: io.BufferedReader[Any] = io.BufferedReader(Unpacked(raw, limit), BUFFER_BYTES)
        first = stream.peek(4096)
        if first.startswith((b"\x1f\x8b", *ZIP, b"PAR1")):
            raise BadFile(_("archive inside an archive"))
    else:
        stream = io.BufferedReader(raw, BUFFER_BYTES)
    if first.startswith(ZIP):
        excel = b"[Content_Types].xml" in first or b"xl/" in first
        raise BadFile(
            _("looks like an Excel file: save it as CSV in UTF-8")
            if excel
            else _("a ZIP archive: upload the file itself, or packed with gzip")
        )
    for magic, reason in REFUSED_BY_FIRST_BYTES:
        if first.startswith(magic):
            raise BadFile(str(reason))
    if first[257:262] == b"ustar" and b"\x00" in first[:257]:
        raise BadFile(_("a TAR archive: upload the file in it, as it is or packed with gzip"))
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


TRAILING_COMMA = re.compile(r",[ \t\n\r]*[\]}]")


def plainly(error: json.JSONDecodeError) -> json.JSONDecodeError:
    """The same error; a comma too many in words and at a place that no version of Python changes."""
    comma = TRAILING_COMMA.match(error.doc, error.doc.rfind(",", 0, error.pos + 1))
    if not comma or comma.end() <= error.pos:
        return error
    return json.JSONDecodeError(_("a comma after the last element"), error.doc, comma.end() - 1)


def not_json(error: json.JSONDecodeError, before: int = 0) -> str:
    """Where a text stops being JSON, and why; `before` is how much of its first line stands before it."""
    column = error.colno + (before if error.lineno == 1 else 0)
    return _("not JSON from column %(column)d on: %(message)s") % {"column": column, "message": error.msg}


def json_value(text: str) -> Any:
    try:
        value = DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise BadRow(not_json(plainly(error))) from error
    except RecursionError as error:
        raise BadRow(_("nesting over %d") % MAX_NESTING) from error
    check_depth_and_characters(value, escapes="\\u" in text)
    return value


def json_object(text: str) -> dict[str, Any]:
    """The object of a line of JSON Lines."""
    value = json_value(text)
    if not isinstance(value, dict):
        raise BadRow(_("wanted an object, found %s") % kind_of(value))
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


# --- an array to values -----------------------------------------------------------------------------

SPACE = re.compile(r"[ \t\n\r]*")
PLAIN_DECODER = json.JSONDecoder()
"""Only to find where a value ends that the other one refused."""
LONGEST_TOKEN = MAX_NUMBER_DIGITS + 1
"""A number, an escape or a word: what json may name by its start when the text ends within it."""


class Units:
    """The text of a stream as far as it is needed, and the line on which the value last taken began."""

    def __init__(self, stream: io.BufferedReader) -> None:
        self.stream = stream
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.at, self.line = "", 0, 1
        self.before = 0
        """Characters of the line that were dropped from the beginning of `text`."""
        self.ended = False

    def more(self) -> bool:
        """Add a piece of the stream; False at its end."""
        data = self.stream.read1(BUFFER_BYTES)
        line_start = self.text.rfind("\n", 0, self.at) + 1
        self.before = self.at - line_start + (0 if line_start else self.before)
        self.text, self.at = self.text[self.at :], 0
        try:
            self.text += self.decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            line = self.line + self.text.count("\n") + error.object[: error.start].count(b"\n")
            reason = _("not valid UTF-8 (byte 0x%02X)") % error.object[error.start]
            raise BadFile(located(line, reason)) from error
        self.ended = not data
        return not self.ended

    def twice(self) -> None:
        """At least as much again, so that what is read in pieces is not read anew for each of them."""
        wanted = min(2 * (len(self.text) - self.at), MAX_LINE_BYTES + 1)
        while self.more() and len(self.text) < wanted:
            pass

    def skip(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def next_character(self) -> str:
        """The next character that is no space, which stays; "" at the end."""
        while True:
            space = SPACE.match(self.text, self.at)
            assert space is not None
            self.skip(space.end())
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def value(self) -> tuple[object, int]:
        """The value that begins here, or the BadRow that says what is wrong with it; and where it ends."""
        while True:
            try:
                try:
                    return DECODER.raw_decode(self.text, self.at)
                except BadRow as bad:
                    return bad, PLAIN_DECODER.raw_decode(self.text, self.at)[1]
            except RecursionError as error:
                raise BadFile(located(self.line, _("nesting over %d") % MAX_NESTING)) from error
            except json.JSONDecodeError as error:
                long = len(self.text) - self.at > MAX_LINE_BYTES
                if not self.ended and not long:
                    self.twice()
                    continue
                if long and self.cut_off(error):
                    raise BadFile(located(self.line, too_long())) from error
                found = plainly(error)
                line = self.line + self.text.count("\n", self.at, found.pos)
                raise BadFile(located(line, not_json(found, self.before))) from error

    def cut_off(self, error: json.JSONDecodeError) -> bool:
        """Whether it is wrong only because the text ends here; json names an open string by its start."""
        return error.msg.startswith("Unterminated") or len(self.text) - error.pos < LONGEST_TOKEN


def json_values(units: Units) -> Iterator[dict[str, Any] | BadRow]:
    """The objects of an array, a BadRow in place of each value that is none. BadFile ends a broken array."""
    assert units.next_character() == "["
    units.skip(units.at + 1)
    expected = ""
    while (character := units.next_character()) != "]":
        if expected and character == expected:
            units.skip(units.at + 1)
            character = units.next_character()
            if character == "]":
                raise BadFile(located(units.line, _("a comma after the last element")))
        elif expected and character:
            reason = _("wanted a comma or the end of the array, found %s") % repr(character)
            raise BadFile(located(units.line, reason))
        if not character:
            raise BadFile(located(units.line, _("the array is not closed")))
        value, end = units.value()
        yield checked_object(value, units.text, units.at, end)
        units.skip(end)
        expected = ","
    units.skip(units.at + 1)
    if character := units.next_character():
        raise BadFile(located(units.line, _("text after the array: %s") % repr(character)))


def too_long() -> str:
    return _("object over %d MiB") % (MAX_LINE_BYTES // 1024**2)


def checked_object(value: object, text: str, start: int, end: int) -> dict[str, Any] | BadRow:
    if isinstance(value, BadRow):
        return value
    if not isinstance(value, dict):
        return BadRow(_("wanted an object, found %s") % kind_of(value))
    if end - start > MAX_LINE_BYTES:
        return BadRow(too_long())
    try:
        check_depth_and_characters(value, escapes="\\u" in text[start:end] or "\x00" in text[start:end])
    except BadRow as bad:
        return bad
    return value
