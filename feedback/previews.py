"""The first rows of an uploaded file as an import would read them, and which of its columns is which."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import NamedTuple

from django.conf import settings
from django.utils.translation import gettext as _

from feedback.exchange.files import Container, objects, opened
from feedback.exchange.formats import LOOKED_AT, READERS, Format, container_for, read_rows
from feedback.exchange.rows import Judged, Row
from feedback.lines import BadFile, BadRow
from feedback.models import DataImport

ROWS_SHOWN = 5
MAX_COLUMNS = 60
COLUMNS_TO_FILL: dict[Format, tuple[str, ...]] = {
    Format.LABEL_STUDIO: ("prompt", "messages", "answer1", "answer2"),
    Format.ARGILLA: ("prompt", *(f"response-{number}" for number in range(1, 9))),
}
"""Of formats whose files may have any columns: those that the reader looks for."""
LIKE = {
    "prompt": ("question", "instruction", "query", "input", "user", "context", "post"),
    "chosen": ("better", "good", "preferred", "winner", "accepted", "positive", "response_chosen"),
    "rejected": ("worse", "bad", "dispreferred", "loser", "refused", "negative", "response_rejected"),
    "completion": ("response", "answer", "output", "reply", "text"),
    "messages": ("conversation", "dialogue", "turns"),
    "margin": ("strength", "score_margin"),
}
"""What other files call our columns: only a proposal, which the preview shows."""


class Preview(NamedTuple):
    columns: list[str]
    rows: list[Row]
    problems: list[str]


def columns_for(format: Format) -> tuple[str, ...]:
    """Which columns a person may point at; none where a file always has the same ones."""
    reader = READERS[Format.PROMPTS if format == Format.PROMPTS_TXT else format]
    fixed = format in (Format.PROMPTS_TXT, Format.JUDGEMENTS)
    return () if fixed else COLUMNS_TO_FILL.get(format, reader.columns)


def proposed(columns: list[str], wanted: tuple[str, ...]) -> dict[str, str]:
    """For each column of the file the one of ours that it may be; "" for one that will not be read."""
    found = {column: column if column in wanted else "" for column in columns}
    for ours in wanted:
        if ours not in found.values():
            plain = {column: column.strip().lower() for column in columns if not found[column]}
            like = next((column for column, name in plain.items() if name in LIKE.get(ours, ())), None)
            if like is not None:
                found[like] = ours
    return found


def format_to_try(data_import: DataImport, columns: list[str]) -> Format:
    """The recognised one, or the one of which the columns look most."""
    if data_import.format:
        return Format(data_import.format)
    for format in (Format.TRL, Format.UNPAIRED, Format.DEMONSTRATIONS):
        needed = {"prompt", *({"chosen", "rejected"} if format == Format.TRL else {"completion"})}
        needed |= {"label"} if format == Format.UNPAIRED else set()
        if needed <= set(proposed(columns, columns_for(format)).values()):
            return format
    return Format.PROMPTS


def columns_of(data_import: DataImport, format: Format | None = None) -> list[str]:
    """Names of columns in the first rows, in the order in which they come."""
    names: dict[str, None] = {}
    inside = READERS[format].inside if format in READERS else ""
    with (
        data_import.path.open("rb", buffering=0) as raw,
        opened(raw, settings.IMPORT_MAX_BYTES) as (stream, kind),
    ):
        container = kind or Container(
            data_import.options.get("container") or container_for(stream, Format.TRL)
        )
        if container == Container.TEXT:
            return []
        found = objects(stream, container)
        for _attempt in range(LOOKED_AT):
            try:
                data = next(found)
            except StopIteration:
                break
            except BadRow:
                continue
            inner = data.get(inside)
            names.update(dict.fromkeys(inner if isinstance(inner, dict) else data))
    return list(names)[:MAX_COLUMNS]


def preview(
    data_import: DataImport, format: str, mapping: Mapping[str, str], *, ignore_extra: bool
) -> Preview:
    """The first rows read in this way; what is wrong with some of them stands beside the good ones."""
    rows: list[Row] = []
    problems: list[str] = []
    columns = columns_of(data_import, Format(format))
    with (
        data_import.path.open("rb", buffering=0) as raw,
        opened(raw, settings.IMPORT_MAX_BYTES) as (stream, kind),
    ):
        container = kind or data_import.options.get("container", "")
        if (container == Container.TEXT) != (format == Format.PROMPTS_TXT):
            container = ""
        found = read_rows(stream, format, container=container, mapping=mapping, ignore_extra=ignore_extra)
        try:
            for row in islice(found, LOOKED_AT):
                if isinstance(row, BadRow):
                    problems.append(str(row))
                elif len(rows) < ROWS_SHOWN:
                    rows.append(row)
        except BadFile as problem:
            problems.append(str(problem))
    return Preview(columns, rows, problems)


def in_words(judged: Judged) -> str:
    """A recorded judgement as people say it; completions count from 1."""
    if judged.strength is not None:
        names = [str(index + 1) for index in judged.of]
        better, worse = names[::-1] if judged.strength > 0 else names
        if judged.strength == 0:
            said = _("%(one)s and %(other)s are equal") % {"one": better, "other": worse}
        else:
            degree = {1: _("slightly better"), 2: _("better"), 3: _("much better")}[abs(judged.strength)]
            said = _("%(one)s is %(degree)s than %(other)s") % {
                "one": better, "degree": degree, "other": worse
            }  # fmt: skip
    elif judged.ranking:
        said = " > ".join(" = ".join(str(index + 1) for index in group) for group in judged.ranking)
    elif any(judged.ratings):
        said = "; ".join(
            f"{index + 1}: " + ", ".join(f"{name} {value}" for name, value in given.items())
            for index, given in zip(judged.of, judged.ratings, strict=True)
            if given
        )
    elif judged.corrects is not None:
        said = _("a correction of %d") % (judged.corrects + 1)
    else:
        said = _("a demonstration")
    verdicts = {
        "both": _("both are good enough"),
        "one": _("only the better one is"),
        "neither": _("neither is"),
    }
    return f"{said} ({verdicts[judged.acceptability]})" if judged.acceptability in verdicts else said
