"""Files out: a selection of judgements in any of the formats, streamed from one moment's state.

`Preference.pairs()` and `demonstrations()` decide what a judgement becomes; formats only write it down.
"""

from __future__ import annotations

import csv
import io
import json
from array import array
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, NamedTuple

from django.db import models
from django.db.models import Exists, OuterRef
from django.utils.translation import gettext_lazy

from feedback.exchange import judgements, label_studio, parquet, preferences, transcripts, unpaired
from feedback.exchange.cells import flat
from feedback.exchange.files import as_line
from feedback.models import Candidate, Comparison, Preference, PreferenceQuerySet, Project

CHUNK_ROWS = 250


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


SAID = (
    "kind", "strength", "ranking", "ratings", "acceptability", "comment", "active_ms", "withdrawn",
    "adjudication", "corrects__text", "written__text", "comparison__prompt__messages",
)  # fmt: skip
"""What formats read that hold what was said of which texts, and nothing else of what is recorded."""
RECORDED = (
    *SAID, "comparison__purpose", "comparison__gold_answer", "comparison__prompt__external_id",
    "comparison__prompt__split", "comparison__prompt__source", "flags", "shown_order", "late", "simulated",
    "imported", "supersedes", "created_at", "annotator__username", "assignment__created_at",
    "guideline__version",
)  # fmt: skip


def chunks(project: Project, selection: Selection, *, everything: bool) -> Iterator[list[Preference]]:
    """The judgements, oldest first, in lists of a few hundred.

    One query fixes which rows these are and which of them are in force, and judgements never change: judging
    may go on while the file is sent.
    """
    later = Exists(Preference.objects.filter(supersedes=OuterRef("pk")))
    rows = selection.of(project).order_by("pk").annotate(replaced=later).values_list("pk", "replaced")
    # Of a million rows too: eight bytes each, negative for those replaced.
    found = array("q", (-pk if replaced else pk for pk, replaced in rows.iterator()))
    whole = Preference.objects.with_overruled().select_related("comparison__prompt", "written", "corrects")
    others = ("annotator", "assignment", "guideline")
    whole = whole.select_related(*others).only(*RECORDED) if everything else whole.only(*SAID)
    for start in range(0, len(found), CHUNK_ROWS):
        part = {abs(pk): pk < 0 for pk in found[start : start + CHUNK_ROWS]}
        by_id = whole.in_bulk(list(part))
        give_candidates(list(by_id.values()))
        for pk, preference in by_id.items():
            preference.comparison.project = project
            preference.later = part[pk]  # type: ignore[attr-defined]  # for feedback.exchange.judgements
        yield [by_id[pk] for pk in part]


class Text(NamedTuple):
    """A completion as formats read it."""

    pk: int
    text: str
    source: str
    model_version_id: int | None
    sampling: dict[str, Any]
    token_count: int | None
    finish_reason: str
    logprob: float | None


class Shown(NamedTuple):
    """A candidate as formats read it."""

    completion: Text
    completion_id: int


def give_candidates(preferences: list[Preference]) -> None:
    """What `prefetch_related` does, with tuples: model objects for completions take half of the time."""
    columns = ("comparison", *(f"completion__{name}" for name in Text._fields))
    rows = Candidate.objects.filter(comparison__in={row.comparison_id for row in preferences})
    by_comparison: dict[int, list[Shown]] = {}
    for comparison, *facts in rows.order_by("comparison", "position").values_list(*columns):
        text = Text(*facts)
        by_comparison.setdefault(comparison, []).append(Shown(text, text.pk))
    for row in preferences:
        cache = {"candidates": by_comparison.get(row.comparison_id, [])}
        row.comparison._prefetched_objects_cache = cache  # type: ignore[attr-defined]  # Django's own


Write = Callable[[Preference], Iterator[dict[str, Any]]]


def objects(project: Project, selection: Selection, writer: Writer) -> Iterator[list[dict[str, Any]]]:
    for chunk in chunks(project, selection, everything=writer.everything):
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
