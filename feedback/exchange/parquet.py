"""Parquet files, by a process of their own: its library needs much memory, and files come from anywhere.

The process turns a file into JSON Lines or JSON Lines into a file; nothing of it is loaded here.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from django.utils.translation import gettext as _

from feedback.lines import BUFFER_BYTES, BadFile

MAGIC = b"PAR1"
PROGRAM = Path(__file__).with_name("parquet_process.py")
FLAT_COLUMNS = ["prompt", "messages", "chosen", "rejected", "margin"]
"""Of a row of our CSV."""
NO_LIBRARY, UNREADABLE, UNSUPPORTED = 3, 4, 5
"""Exit statuses of the process; what it says on stderr names the column."""


def reason(status: int, said: str) -> str:
    if status == NO_LIBRARY:
        return _("Parquet files need the package pyarrow on the server; JSON Lines and CSV do not")
    if status == UNSUPPORTED:
        return _("column %s has an unsupported type") % said
    return _("the Parquet file is damaged: %s") % said if said else _("the Parquet file is damaged")


class FromProcess(io.RawIOBase):
    """What the process writes, until it has written more than `limit` or failed."""

    def __init__(self, process: subprocess.Popen[bytes], errors: io.BufferedRandom, limit: int) -> None:
        self.process, self.errors, self.left, self.limit = process, errors, limit, limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), len(buffer))
        if not data and (status := self.process.wait()):
            self.errors.seek(0)
            said = self.errors.read(300).decode(errors="replace").strip()
            raise BadFile(reason(status, said))
        self.left -= len(data)
        if self.left < 0:
            raise BadFile(_("archive unpacks to more than %d MiB") % (self.limit // 1024**2))
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def as_json_lines(raw: io.RawIOBase, limit: int) -> Iterator[io.BufferedReader]:
    """A stored Parquet file as JSON Lines. The process reads by our descriptor: `raw.tell()` is its place."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "read"], stdin=raw.fileno(), stdout=subprocess.PIPE, stderr=errors
        )
        try:
            yield io.BufferedReader(FromProcess(process, errors, limit), BUFFER_BYTES)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def from_json_lines(lines: Iterable[str]) -> Iterator[bytes]:
    """The lines as the bytes of a Parquet file, which come when all lines are through.

    The process works while the lines are made; it sets the file down, so that neither waits for the other.
    """
    with tempfile.TemporaryFile() as made, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM), "write"], stdin=subprocess.PIPE, stdout=made, stderr=errors
        )
        try:
            feed(process, lines)
            if status := process.wait():
                errors.seek(0)
                raise BadFile(reason(status, errors.read(300).decode(errors="replace").strip()))
            made.seek(0)
            while data := made.read(BUFFER_BYTES):
                yield data
        finally:
            process.kill()
            process.wait()


def feed(process: subprocess.Popen[bytes], lines: Iterable[str]) -> None:
    assert process.stdin is not None
    try:
        with process.stdin:
            for text in lines:
                process.stdin.write(text.encode())
    except BrokenPipeError:
        return  # it has failed: its exit status says how
