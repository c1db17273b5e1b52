"""Archives: gzip is unpacked up to a limit, all others are refused whole and nothing in them is looked at."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile

import pytest

from feedback.exchange.formats import Format
from feedback.lines import BadFile
from tests.feedback.read_as import GOOD, MIB, format_of, rows_of

ZIP = "a ZIP archive: upload the file itself, or packed with gzip"
TAR = "a TAR archive: upload the file in it, as it is or packed with gzip"
LINK = 0o120777 << 16
"""Attributes of a symbolic link in a ZIP archive."""


def zipped(name: str = "pairs.jsonl", content: bytes = GOOD.encode(), *, attributes: int = 0) -> bytes:
    entry = zipfile.ZipInfo(name)
    entry.external_attr = attributes
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry, content)
    return made.getvalue()


def encrypted() -> bytes:
    """The flag that says so is bit 0 of the two bytes at 6."""
    data = bytearray(zipped())
    data[6] |= 1
    return bytes(data)


def tarred(name: str = "pairs.jsonl") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        entry = tarfile.TarInfo(name)
        entry.size = len(GOOD)
        archive.addfile(entry, io.BytesIO(GOOD.encode()))
    return made.getvalue()


REFUSED = {
    "one good file": (zipped(), ZIP),
    "an empty one": (b"PK\x05\x06" + bytes(18), ZIP),
    "an absolute name": (zipped("/etc/passwd"), ZIP),
    "a name with dots": (zipped("../../pairs.jsonl"), ZIP),
    "a symbolic link": (zipped("link", b"/etc/passwd", attributes=LINK), ZIP),
    "nested": (zipped("inner.zip", zipped()), ZIP),
    "a bomb": (zipped(content=bytes(64 * MIB)), ZIP),
    "encrypted": (encrypted(), ZIP),
    "tar": (tarred(), TAR),
    "tar with dots": (tarred("../../pairs.jsonl"), TAR),
    "tar in gzip": (gzip.compress(tarred()), TAR),
    "zip in gzip": (gzip.compress(zipped()), "archive inside an archive"),
    "gzip in gzip": (gzip.compress(gzip.compress(b"a")), "archive inside an archive"),
    "bzip2": (bz2.compress(GOOD.encode()), "packed with bzip2: unpack it, or pack it with gzip"),
    "bzip2 in small blocks": (
        bz2.compress(GOOD.encode(), 1),
        "packed with bzip2: unpack it, or pack it with gzip",
    ),
    "xz": (lzma.compress(GOOD.encode()), "packed with xz: unpack it, or pack it with gzip"),
    "zstd": (b"\x28\xb5\x2f\xfd\x04", "packed with zstd: unpack it, or pack it with gzip"),
    "a sheet": (zipped("[Content_Types].xml"), "looks like an Excel file: save it as CSV in UTF-8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_archive_is_refused_whatever_it_holds(name: str) -> None:
    content, expected = REFUSED[name]
    with pytest.raises(BadFile) as problem:
        format_of(content, "pairs.jsonl")
    assert str(problem.value) == expected


def test_a_text_that_begins_like_an_archive_is_a_text() -> None:
    text = "BZh is no word.\n" + "x" * (257 - 16) + "ustar\n"
    assert [row.messages[0]["content"] for row in rows_of(text, Format.PROMPTS_TXT)] == [
        "BZh is no word.",
        "x" * (257 - 16) + "ustar",
    ]


def test_a_gzip_bomb_stops_at_the_limit_of_real_bytes() -> None:
    bomb = gzip.compress((b" " * 1023 + b"\n") * (8 * 1024))
    assert len(bomb) < 20_000
    with pytest.raises(BadFile, match="archive unpacks to more than 2 MiB"):
        rows_of(bomb, Format.TRL, limit=2 * MIB)
    # The last four bytes claim that it unpacks to one.
    with pytest.raises(BadFile, match="archive unpacks to more than 2 MiB"):
        rows_of(bomb[:-4] + b"\x01\x00\x00\x00", Format.TRL, limit=2 * MIB)
