"""Which formats there are, which one a file has, and its rows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from django.db import models
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback.exchange import (
    argilla,
    battles,
    judgements,
    label_studio,
    messages,
    preferences,
    prompts,
    transcripts,
    trees,
    unpaired,
)
from feedback.exchange.cells import typed
from feedback.exchange.files import Container, by_first_characters, objects
from feedback.exchange.rows import Read, Row
from feedback.lines import BadFile, BadRow

LOOKED_AT = 20
"""How many rows a file may begin with that are none, and how many the preview shows."""


class Format(models.TextChoices):
    """What an import can read."""

    HH = "hh", gettext_lazy("HH-RLHF preferences")
    TRL = "trl", gettext_lazy("TRL preferences")
    UNPAIRED = "unpaired", gettext_lazy("TRL unpaired: a completion and whether it is good")
    DEMONSTRATIONS = "demonstrations", gettext_lazy("Demonstrations: a completion to imitate")
    PROMPTS = "prompts", gettext_lazy("Prompts")
    PROMPTS_TXT = "prompts_txt", gettext_lazy("Prompts, one on each line")
    COMPLETIONS = "completions", gettext_lazy("Prompts with completions")
    JUDGEMENTS = "judgements", gettext_lazy("Everything, as exported here")
    LABEL_STUDIO = "label_studio", gettext_lazy("Label Studio tasks")
    ARGILLA = "argilla", gettext_lazy("Argilla records")
    TREES = "trees", gettext_lazy("Open-Assistant trees")
    MESSAGES = "messages", gettext_lazy("Open-Assistant messages")
    BATTLES = "battles", gettext_lazy("Arena battles")

    @classmethod
    def _missing_(cls, value: object) -> Format | None:
        # What imports of the first releases are stored with.
        return cls.PROMPTS if value in ("prompts_jsonl", "prompts_csv") else None


class Reader(NamedTuple):
    fits: Callable[[dict[str, Any]], bool]
    read: Read
    columns: tuple[str, ...] = ()
    """All that it reads; empty when its files have further columns by nature."""
    inside: str = ""
    """The key of the object that holds the columns, if not the row itself."""
    gathered: type[messages.Trees] | None = None
    """What makes objects to read out of several objects of the file."""


READERS: dict[Format, Reader] = {
    # In the order in which they are tried.
    Format.JUDGEMENTS: Reader(judgements.fits, judgements.read, judgements.COLUMNS),
    Format.LABEL_STUDIO: Reader(label_studio.fits, label_studio.read, inside="data"),
    Format.ARGILLA: Reader(argilla.fits, argilla.read, inside="fields"),
    Format.TREES: Reader(trees.fits, trees.read),
    Format.MESSAGES: Reader(messages.fits, trees.read, gathered=messages.Trees),
    Format.BATTLES: Reader(battles.fits, battles.read),
    Format.HH: Reader(transcripts.fits, transcripts.read, transcripts.COLUMNS),
    Format.TRL: Reader(preferences.fits, preferences.read, preferences.COLUMNS),
    Format.UNPAIRED: Reader(unpaired.fits, unpaired.read, unpaired.COLUMNS),
    Format.COMPLETIONS: Reader(prompts.fits_set, prompts.read_set, prompts.SET_COLUMNS),
    Format.DEMONSTRATIONS: Reader(
        unpaired.fits_demonstration, unpaired.read_demonstration, unpaired.DEMONSTRATION_COLUMNS
    ),
    Format.PROMPTS: Reader(prompts.fits, prompts.read, prompts.COLUMNS),
}
KNOWN_COLUMNS = frozenset(("prompt", "messages", "chosen", "rejected", "completion", "completions"))


class Unrecognised(BadFile):
    """The rows can be read, but which column is which only a person can say."""

    def __init__(self, found: str, container: Container) -> None:
        super().__init__(_("format not recognised by its columns (found: %s)") % found)
        self.container = container


class Found(NamedTuple):
    format: Format
    container: Container


# --- which format? ----------------------------------------------------------------------------------


def recognise(stream: io.BufferedReader, name: str, container: Container | None = None) -> Found:
    """By content; the name only tells plain text from CSV. Raises BadFile otherwise."""
    container = container or by_first_characters(stream) or text_container(stream, name.lower())
    if container == Container.TEXT:
        data = first_object(stream, container, name)
        return Found(Format.PROMPTS_TXT, container)
    data = first_object(stream, container, name)
    for format, reader in READERS.items():
        if reader.fits(data):
            return Found(format, container)
    raise Unrecognised(", ".join(data)[:200] or _("none"), container)


def text_container(stream: io.BufferedReader, name: str) -> Container:
    name = name.removesuffix(".gz")
    if name.endswith((".jsonl", ".json", ".ndjson")):
        return Container.JSON_LINES
    if name.endswith(".csv"):
        return Container.CSV
    start = stream.peek(4096)[:4096].decode(errors="replace").lstrip("\ufeff").strip()
    if not start:
        return Container.TEXT
    cells = next(csv.reader(start.splitlines()[:1]), [])
    if {cell.strip().lower() for cell in cells} & KNOWN_COLUMNS:
        return Container.CSV
    if name.endswith(".txt"):
        return Container.TEXT
    raise BadFile(_("format not recognised: choose it in the form"))


def first_object(stream: io.BufferedReader, container: Container, name: str) -> dict[str, Any]:
    found = objects(stream, container)
    first_problem: BadRow | None = None
    for _attempt in range(LOOKED_AT):
        try:
            data = next(found)
            return typed(data) if container == Container.CSV else data
        except StopIteration:
            break
        except BadRow as bad:
            first_problem = first_problem or found.place(bad)
    raise BadFile(str(first_problem) if first_problem else _("No rows found in %s") % name)


def container_for(stream: io.BufferedReader, format: Format) -> Container:
    """For a format that somebody chose, when nothing was recognised before."""
    if format == Format.PROMPTS_TXT:
        return Container.TEXT
    if b"\n{" in stream.peek(4096)[:4096]:
        return by_first_characters(stream) or Container.JSON_LINES
    return by_first_characters(stream) or Container.CSV


# --- its rows ---------------------------------------------------------------------------------------


def read_rows(
    stream: io.BufferedReader,
    format: str,
    *,
    container: str = "",
    mapping: Mapping[str, str] | None = None,
    ignore_extra: bool = False,
) -> Iterator[Row | BadRow]:
    """Every row of the file, and a BadRow in place of each that is none; blank lines are passed over."""
    chosen = Format(format)
    kind = Container(container) if container else container_for(stream, chosen)
    found = objects(stream, kind)
    reader = READERS[Format.PROMPTS if chosen == Format.PROMPTS_TXT else chosen]

    def prepare(data: dict[str, Any]) -> dict[str, Any]:
        if mapping:
            data = mapped(data, mapping, reader.inside)
        if kind == Container.CSV:
            data = typed(data)
        if reader.columns and not ignore_extra:
            refuse_others(data, reader.columns)
        return data

    if reader.gathered:
        found = reader.gathered(found, prepare)
    while True:
        try:
            data = next(found) if reader.gathered else prepare(next(found))
            rows = reader.read(data, found.number)
        except StopIteration:
            return
        except BadRow as bad:
            yield found.place(bad)
        else:
            if isinstance(rows, list):
                yield from rows
            else:
                yield rows


def mapped(data: dict[str, Any], mapping: Mapping[str, str], inside: str) -> dict[str, Any]:
    """The columns under the names that the preview page gave them; those without a name are left out."""
    if inside and isinstance(data.get(inside), dict):
        return {**data, inside: mapped(data[inside], mapping, "")}
    renamed = {mapping.get(name, name): value for name, value in data.items()}
    renamed.pop("", None)
    return renamed


def refuse_others(data: dict[str, Any], columns: tuple[str, ...]) -> None:
    for name in data:
        if name not in columns:
            facts = {"name": name[:80], "wanted": ", ".join(columns)}
            raise BadRow(_("unknown column '%(name)s' (wanted: %(wanted)s)") % facts)
