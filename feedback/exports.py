"""Files out: a selection of judgements in any of the formats, streamed from one moment's state.

`Preference.pairs()` and `demonstrations()` decide what a judgement becomes; formats only write it down.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.db import models
from django.utils.translation import gettext_lazy

from feedback.exchange import judgements, label_studio, parquet, preferences, transcripts, unpaired
from feedback.exchange.cells import flat
from feedback.exchange.files import as_line
from feedback.exported_rows import chunks
from feedback.models import Comparison, Preference, PreferenceQuerySet, Project


class Selection(NamedTuple):
    """Which judgements; the defaults are what trains."""

    purposes: tuple[str, ...] = (Comparison.Purpose.TRAINING,)
    """Of the comparisons; empty for every purpose."""
    split: str = ""
    since: datetime | None = None
    annotator: int | None = None
    include_simulated: bool = True
    include_imported: bool = True
    current: bool = True
    """Only those in force; otherwise also those taken back and replaced."""

    def of(self, project: Project) -> PreferenceQuerySet:
        rows = Preference.objects.filter(comparison__project=project)
        if self.purposes:
            rows = rows.filter(comparison__purpose__in=self.purposes)
        if self.split:
            rows = rows.filter(comparison__prompt__split=self.split)
        if self.since:
            rows = rows.filter(created_at__gte=self.since)
        if self.annotator is not None:
            rows = rows.filter(annotator=self.annotator)
        if not self.include_simulated:
            rows = rows.filter(simulated=False)
        if not self.include_imported:
            rows = rows.filter(imported=False)
        return rows.in_force() if self.current else rows


Write = Callable[[Preference], Iterator[dict[str, Any]]]


def objects(project: Project, selection: Selection, writer: Writer) -> Iterator[list[dict[str, Any]]]:
    for chunk in chunks(project, selection.of(project), everything=writer.everything):
        found = [value for preference in chunk for value in writer.write(preference)]
        if found:
            yield found


# --- objects to a file ------------------------------------------------------------------------------


def json_lines(found: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    for values in found:
        yield "".join(map(as_line, values)).encode()


def json_array(found: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    start = b"[\n"
    for values in found:
        yield start + ",\n".join(json.dumps(value, ensure_ascii=False) for value in values).encode()
        start = b",\n"
    yield b"\n]\n" if start == b",\n" else b"[]\n"


def csv_rows(found: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    """A prompt of one turn as text, of several as JSON: the other of the two cells is empty."""
    yield csv_lines([parquet.FLAT_COLUMNS])
    for values in found:
        yield csv_lines([csv_cells(value) for value in values])


def csv_cells(value: dict[str, Any]) -> list[str]:
    turns = value["prompt"]
    alone = len(turns) == 1 and turns[0]["role"] == "user"
    prompt = (turns[0]["content"], None) if alone else (None, turns)
    sides = [value[name][0]["content"] for name in ("chosen", "rejected")]
    return [flat(cell) for cell in (*prompt, *sides, value["margin"])]


def csv_lines(rows: list[list[str]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def parquet_file(found: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    return parquet.from_json_lines(as_line(value) for values in found for value in values)


# --- which format -----------------------------------------------------------------------------------


class ExportFormat(models.TextChoices):
    TRL = "trl", gettext_lazy("TRL preferences with margin (JSON Lines)")
    HH = "hh", gettext_lazy("HH-RLHF transcripts (JSON Lines)")
    UNPAIRED = "unpaired", gettext_lazy("Single completions, good or not, for KTO (JSON Lines)")
    DEMONSTRATIONS = "demonstrations", gettext_lazy("Demonstrations and corrections, for SFT (JSON Lines)")
    CSV = "csv", gettext_lazy("Preferences (CSV)")
    PARQUET = "parquet", gettext_lazy("Preferences (Parquet)")
    LABEL_STUDIO = "label_studio", gettext_lazy("Label Studio tasks (JSON)")
    JUDGEMENTS = "judgements", gettext_lazy("Everything that is recorded (JSON Lines)")


class Writer(NamedTuple):
    write: Write
    file: Callable[[Iterator[list[dict[str, Any]]]], Iterator[bytes]]
    extension: str
    content_type: str
    everything: bool = False
    """Whether it writes more than what was said of which texts."""


LINES = (json_lines, "jsonl", "application/jsonl; charset=utf-8")
WRITERS: dict[ExportFormat, Writer] = {
    ExportFormat.TRL: Writer(preferences.write, *LINES),
    ExportFormat.HH: Writer(transcripts.write, *LINES),
    ExportFormat.UNPAIRED: Writer(unpaired.write, *LINES),
    ExportFormat.DEMONSTRATIONS: Writer(unpaired.write_demonstration, *LINES),
    ExportFormat.CSV: Writer(preferences.write, csv_rows, "csv", "text/csv; charset=utf-8"),
    ExportFormat.PARQUET: Writer(
        preferences.write, parquet_file, "parquet", "application/vnd.apache.parquet"
    ),
    ExportFormat.LABEL_STUDIO: Writer(
        label_studio.write, json_array, "json", "application/json; charset=utf-8"
    ),
    ExportFormat.JUDGEMENTS: Writer(judgements.write, *LINES, everything=True),
}


def export(project: Project, format: ExportFormat, selection: Selection) -> Iterator[bytes]:
    """The bytes of a file, piece by piece. The same judgements always give the same bytes."""
    writer = WRITERS[format]
    if not writer.everything:
        # What was taken back or replaced is history: only where rows say so may it stand.
        selection = selection._replace(current=True)
    return writer.file(objects(project, selection, writer))
