"""Reading files: every refusal in the words a person must read."""

from __future__ import annotations

import gzip
import io
import json
import re
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback import lines
from feedback.exchange.files import Container
from feedback.exchange.formats import Format, read_rows
from feedback.exchange.rows import Row
from feedback.lines import BadFile, BadRow, open_stream
from tests.feedback.read_as import GOOD, MIB, assistant, format_of, line, only_error, rows_of, user

# --- what is wrong with a row -----------------------------------------------------------------------

BAD_ROWS = {
    "not utf-8": (b'{"prompt": "\xff"}\n', Format.TRL, "Line 1: not valid UTF-8 (byte 0xFF)"),
    "NUL byte": (b'{"prompt": "\x00"}\n', Format.TRL, "Line 1: NUL character (U+0000)"),
    "NUL escaped": (b'{"prompt": "\\u0000"}\n', Format.TRL, "Line 1: NUL character (U+0000)"),
    "surrogate": (b'{"prompt": "\\ud800"}\n', Format.PROMPTS, "Line 1: lone surrogate (U+D800)"),
    "surrogate in a key": (b'{"\\udfff": "x"}\n', Format.PROMPTS, "Line 1: lone surrogate (U+DFFF)"),
    "broken": (
        '{"prompt": "a" "b"}\n',
        Format.TRL,
        "Line 1: not JSON from column 16 on: Expecting ',' delimiter",
    ),
    "trailing comma": (
        '{"prompt": "a",}\n',
        Format.TRL,
        "Line 1: not JSON from column 16 on: a comma after the last element",
    ),
    "trailing comma in a list": (
        '{"messages": [1 , ]}\n',
        Format.PROMPTS,
        "Line 1: not JSON from column 19 on: a comma after the last element",
    ),
    "a comma in a text is none": (
        '{"prompt": "a,}" "b"\n',
        Format.TRL,
        "Line 1: not JSON from column 18 on: Expecting ',' delimiter",
    ),
    "NaN": ('{"margin": NaN}\n', Format.TRL, "Line 1: NaN is not JSON"),
    "Infinity": ('{"margin": -Infinity}\n', Format.TRL, "Line 1: -Infinity is not JSON"),
    "too large a number": ('{"margin": 1e999}\n', Format.TRL, "Line 1: number too long"),
    "5,000 digits": ('{"margin": ' + "9" * 5000 + "}\n", Format.TRL, "Line 1: number too long"),
    "duplicate key": ('{"chosen": "a", "chosen": "b"}\n', Format.TRL, "Line 1: key 'chosen' appears twice"),
    "33 deep": ('{"prompt": ' + "[" * 33 + "]" * 33 + "}\n", Format.TRL, "Line 1: nesting over 32"),
    "10,000 deep": ('{"prompt": ' + "[" * 10000 + "]" * 10000 + "}\n", Format.TRL, "Line 1: nesting over 32"),
    "no object": ("[1, 2]\n", Format.TRL, "Line 1: wanted an object, found a list"),
    "rejected missing": (line(chosen="a"), Format.TRL, "Line 1: 'rejected' missing"),
    "rejected null": (line(chosen="a", rejected=None), Format.TRL, "Line 1: 'rejected' missing"),
    "hh rejected missing": (line(chosen="\n\nHuman: a"), Format.HH, "Line 1: 'rejected' missing"),
    "identical": (
        line(prompt="p", chosen="a", rejected="a"),
        Format.TRL,
        "Line 1: chosen and rejected are identical",
    ),
    "empty prompt": (line(prompt=" ", chosen="a", rejected="b"), Format.TRL, "Line 1: empty prompt"),
    "empty list": (
        line(prompt=[], chosen=[assistant("a")], rejected=[assistant("b")]),
        Format.TRL,
        "Line 1: empty prompt",
    ),
    "wrong type": (
        line(prompt=3, chosen="a", rejected="b"),
        Format.TRL,
        "Line 1: 'prompt' must be text like 'chosen', found a number",
    ),
    "mixed types": (
        line(prompt="p", chosen="a", rejected=[]),
        Format.TRL,
        "Line 1: 'chosen' is text, 'rejected' is a list: wanted the same",
    ),
    "margin is text": (
        line(prompt="p", chosen="a", rejected="b", margin="2"),
        Format.TRL,
        "Line 1: 'margin' must be a number, found text",
    ),
    "margin is true": (
        line(prompt="p", chosen="a", rejected="b", margin=True),
        Format.TRL,
        "Line 1: 'margin' must be a number, found true or false",
    ),
    "negative margin": (
        line(prompt="p", chosen="a", rejected="b", margin=-1),
        Format.TRL,
        "Line 1: 'margin' must be 0 or more, got -1",
    ),
    "huge margin": (
        line(prompt="p", chosen="a", rejected="b", margin=1e10),
        Format.TRL,
        "Line 1: 'margin' must be 1000000000 or less, got 10000000000.0",
    ),
    "extra column": (
        line(prompt="p", chosen="a", rejected="b", score=1),
        Format.TRL,
        "Line 1: unknown column 'score' (wanted: prompt, messages, chosen, rejected, margin, id)",
    ),
    "unknown role": (
        line(messages=[user("a"), {"role": "tool", "content": "b"}]),
        Format.PROMPTS,
        "Line 1: 'messages' turn 2: unknown role 'tool' (wanted: system, user, assistant)",
    ),
    "late system": (
        line(messages=[user("a"), {"role": "system", "content": "b"}]),
        Format.PROMPTS,
        "Line 1: 'messages' turn 2: a system turn can only be the first",
    ),
    "ends with assistant": (
        line(messages=[user("a"), assistant("b")]),
        Format.PROMPTS,
        "Line 1: turn 2: the prompt must end with a user turn, found assistant",
    ),
    "content is a list": (
        line(messages=[{"role": "user", "content": [{"type": "image"}]}]),
        Format.PROMPTS,
        "Line 1: 'messages' turn 1: 'content' must be text, found a list",
    ),
    "two answers": (
        line(prompt=[user("a")], chosen=[assistant("b"), user("c")], rejected=[assistant("d")]),
        Format.TRL,
        "Line 1: 'chosen' must hold one assistant turn after the prompt, found: assistant, user",
    ),
    "no shared beginning": (
        line(chosen="a", rejected="b"),
        Format.TRL,
        "Line 1: 'prompt' missing, and chosen and rejected share no beginning",
    ),
    "hh without a prompt": (
        line(chosen="\n\nHuman: a", rejected="\n\nHuman: b"),
        Format.HH,
        "Line 1: chosen and rejected share no prompt before an “Assistant: ” turn",
    ),
    "not hh": (
        line(chosen="a", rejected="b"),
        Format.HH,
        "Line 1: 'chosen' must start with an empty line and “Human: ”",
    ),
    "ragged csv": ("prompt,id\na,1\nb\n", Format.PROMPTS, "Line 3: 1 cells, the header has 2"),
    "unclosed quote": ('prompt\na\n"b\nc\n', Format.PROMPTS, "Line 3: a quote is not closed"),
    "huge cell": (
        "prompt\n" + "x" * MIB + "\n",
        Format.PROMPTS,
        "Line 2: cell over 128 KiB, or a quote is not closed",
    ),
    "extra csv column": (
        "prompt,note\na,b\n",
        Format.PROMPTS,
        "Line 2: unknown column 'note' (wanted: prompt, messages, id)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_ROWS)
def test_a_bad_row_says_where_and_why(name: str) -> None:
    content, format, expected = BAD_ROWS[name]
    assert only_error(content, format) == expected


@pytest.mark.parametrize("name", BAD_ROWS)
def test_every_word_of_a_refusal_can_be_translated(name: str, loud: None) -> None:
    """Whatever is said in small letters never went through gettext."""
    content, format, _expected = BAD_ROWS[name]
    # What stands in quotes, columns and roles are words of the formats.
    names = r"'[^']*'|\b(prompt|messages|chosen|rejected|margin|id|user|assistant|NaN|Infinity)\b"
    python = r"|Expecting .*"  # what json itself says
    assert re.findall("[a-z]+", re.sub(names + python, "", only_error(content, format))) == []


def test_rows_of_other_schemas_are_named_by_what_they_lack() -> None:
    content = GOOD + line(prompt="only a prompt") + line(chosen="x", answer="y") + GOOD
    assert [str(row) for row in rows_of(content, Format.TRL) if isinstance(row, BadRow)] == [
        "Line 2: 'chosen' missing",
        "Line 3: unknown column 'answer' (wanted: prompt, messages, chosen, rejected, margin, id)",
    ]


def test_reading_goes_on_after_a_bad_row() -> None:
    content = GOOD.encode() + b"\xff\n" + b"{\n" + GOOD.encode() + b'{"chosen": "a"}\n' + GOOD.encode()
    rows = rows_of(content, Format.TRL)
    assert [row.line for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [type(row) for row in rows] == [Row, BadRow, BadRow, Row, BadRow, Row]
    csv_rows = rows_of(b"prompt\na\nb,c\n\xff\nd\n", Format.PROMPTS)
    assert [(row.line, type(row)) for row in csv_rows] == [
        (2, Row),
        (3, BadRow),
        (4, BadRow),
        (5, Row),
    ]


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ("Expecting property name enclosed in double quotes", 15),
        ("Illegal trailing comma before end of object", 14),
    ],
)
def test_a_trailing_comma_is_told_alike_by_every_python(message: str, place: int) -> None:
    """Up to 3.12 the bracket is what json minds, from 3.13 on the comma."""
    error = lines.plainly(json.JSONDecodeError(message, '{"prompt": "a",}', place))
    assert lines.not_json(error) == "not JSON from column 16 on: a comma after the last element"


def test_a_line_over_the_limit_is_one_bad_row_and_the_next_is_read() -> None:
    huge = b'{"prompt": "' + b"x" * (5 * MIB) + b'"}\n'
    rows = rows_of(huge + GOOD.encode(), Format.TRL)
    assert str(rows[0]) == "Line 1: line over 4 MiB"
    assert rows[1].line == 2 and isinstance(rows[1], Row)
    assert [str(row) for row in rows_of(b"x" * (9 * MIB), Format.TRL)] == ["Line 1: line over 4 MiB"]


class Endless(io.RawIOBase):
    """One line, or one object of an array, of many times the memory that reading it may take."""

    def __init__(self, start: bytes, size: int) -> None:
        self.start, self.left = start, size

    def readable(self) -> bool:
        return True

    def seek(self, _place: int, _whence: int = 0) -> int:
        return 0

    def readinto(self, buffer: Any) -> int:
        data = (self.start or b"x" * len(buffer))[: min(len(buffer), self.left)]
        self.start = b""
        buffer[: len(data)] = data
        self.left -= len(data)
        return len(data)

    def read(self, size: int = -1) -> bytes:
        """Only asked for the first bytes, which stay where they are."""
        return self.start[:size]


@pytest.mark.parametrize("start", [b'{"prompt": "', b'[{"prompt": "'])
def test_memory_stays_flat_whatever_the_line(start: bytes) -> None:
    container = Container.ARRAY if start.startswith(b"[") else Container.JSON_LINES
    stream = open_stream(Endless(start, 200 * MIB), 64 * MIB)
    tracemalloc.start()
    try:
        told = [str(row) for row in read_rows(stream, Format.PROMPTS, container=container)]
    except BadFile as problem:
        told = [str(problem)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told == ["Line 1: object over 4 MiB" if start.startswith(b"[") else "Line 1: line over 4 MiB"]
    assert peak < 40 * MIB


def test_other_columns_can_be_ignored() -> None:
    assert rows_of(
        line(prompt="p", chosen="a", rejected="b", x=[1]), Format.TRL, ignore_extra=True
    ) == rows_of(line(prompt="p", chosen="a", rejected="b"), Format.TRL)


# --- what is wrong with a file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        ("", "a.jsonl", "No rows found in a.jsonl"),
        ("\n \n\n", "a.txt", "No rows found in a.txt"),
        ("\n\n", "a.jsonl", "No rows found in a.jsonl"),
        ("prompt,chosen,rejected\n", "a.csv", "No rows found in a.csv"),
        (b"\xff\xfea\x00", "a.txt", "looks like UTF-16: save it as UTF-8"),
        (b"PK\x03\x04....[Content_Types].xml", "a.csv", "looks like an Excel file: save it as CSV in UTF-8"),
        (b"\xd0\xcf\x11\xe0....", "a.csv", "looks like an Excel file: save it as CSV in UTF-8"),
        (
            gzip.compress(GOOD.encode() * 1000, mtime=0)[:-20],
            "a.jsonl.gz",
            "the gzip file is damaged or cut off",
        ),
        ('[{"prompt": "a"}', "a.json", "Line 1: the array is not closed"),
        ('[{"prompt": "a"},\n]', "a.json", "Line 2: a comma after the last element"),
        (
            '[{"prompt": "a", }]',
            "a.json",
            "Line 1: not JSON from column 18 on: a comma after the last element",
        ),
        ('[{"prompt": "a"},\n{"prompt": "' + "x" * (9 * MIB) + '"}]', "a.json", "Line 2: object over 4 MiB"),
        (
            '[{"prompt": "a"},\n{"prompt": [' + "1," * (3 * MIB) + "1]}]",
            "a.json",
            "Line 2: object over 4 MiB",
        ),
        (
            '[{"prompt": "a"}' + " " * 5_000_000 + ', {"prompt" "b"}]',
            "a.json",
            "Line 1: not JSON from column 5000029 on: Expecting ':' delimiter",
        ),
        (
            '[{"prompt": "a"},\n{"prompt" "' + "x" * (9 * MIB) + '"}]',
            "a.json",
            "Line 2: not JSON from column 11 on: Expecting ':' delimiter",
        ),
        ('[\n{"prompt": "a"} 7]', "a.json", "Line 2: wanted a comma or the end of the array, found '7'"),
        (
            '[{"prompt": "a"},\n{"prompt" 1}]',
            "a.json",
            "Line 2: not JSON from column 11 on: Expecting ':' delimiter",
        ),
        ('[{"prompt": "a"}] x', "a.json", "Line 1: text after the array: 'x'"),
        (b'[{"prompt": "a"},\n{"prompt": "\xff"}]', "a.json", "Line 2: not valid UTF-8 (byte 0xFF)"),
        ("[" + '{"prompt": ' + "[" * 10000, "a.json", "Line 1: nesting over 32"),
        ("prompt;id\na;1\n", "a.csv", "the cells are separated by ;: wanted commas"),
        ("question,id\na,1\n", "a.csv", "format not recognised by its columns (found: question, id)"),
        ("prompt,prompt\na,1\n", "a.csv", "column 'prompt' appears twice in the header"),
        (
            '{"text": "a"}\n',
            "a.jsonl",
            "format not recognised by its columns (found: text)",
        ),
        (
            "{oops\n",
            "a.jsonl",
            "Line 1: not JSON from column 2 on: Expecting property name enclosed in double quotes",
        ),
        ("just words\n", "a.dat", "format not recognised: choose it in the form"),
    ],
)
def test_a_bad_file_says_why(content: bytes | str, name: str, expected: str) -> None:
    with pytest.raises(BadFile) as problem:
        format_of(content, name)
        rows_of(content, Format.PROMPTS)  # a file cut off at its end is recognised by its beginning
    assert str(problem.value) == expected


@pytest.mark.parametrize(
    ("content", "name", "expected"),
    [
        (
            line(chosen="\n\nHuman: a\n\nAssistant: b", rejected="\n\nHuman: a\n\nAssistant: c"),
            "x",
            Format.HH,
        ),
        (GOOD, "x", Format.TRL),
        (line(chosen=[user("a"), assistant("b")], rejected=[]), "x", Format.TRL),
        (line(prompt="a"), "x.txt", Format.PROMPTS),
        (line(messages=[user("a")]), "x", Format.PROMPTS),
        ("id,Prompt\n1,a\n", "x", Format.PROMPTS),
        ("Where is it?\n", "x.TXT", Format.PROMPTS_TXT),
        (gzip.compress(b"Where is it?\n", mtime=0), "x.txt.gz", Format.PROMPTS_TXT),
        ("{bad\n" + GOOD, "x.jsonl", Format.TRL),
    ],
)
def test_the_format_is_recognised_by_content(content: bytes | str, name: str, expected: str) -> None:
    assert format_of(content, name) == expected


@settings(deadline=None)
@given(st.binary(max_size=300), st.sampled_from(list(Format)))
def test_any_bytes_give_rows_or_reasons(content: bytes, format: str) -> None:
    try:
        for row in rows_of(content, format):
            assert row.line >= 1
            assert not isinstance(row, BadRow) or row.reason
    except BadFile as problem:
        assert str(problem)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([GOOD.encode(), b"{\n", b"\xff\n", b"\n", b'{"chosen": "a"}\n']), max_size=12)
)
def test_every_line_that_is_not_blank_is_accounted_for(parts: list[bytes]) -> None:
    rows = rows_of(b"".join(parts), Format.TRL)
    assert len(rows) == sum(part != b"\n" for part in parts)
    assert sum(isinstance(row, Row) for row in rows) == parts.count(GOOD.encode())


def test_limits_stand_where_the_documents_say() -> None:
    assert (lines.MAX_LINE_BYTES, lines.MAX_NESTING) == (4 * MIB, 32)
