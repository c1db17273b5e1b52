"""Files in, row by row: HH-RLHF and TRL preference files, plain prompts. docs/data.md shows each format.

Readers know nothing of the database: lines in, rows or the reason why a line is no row out.
`feedback.imports` writes what they read, `feedback.exports` writes files.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

from django.db import models
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback.lines import BadFile, BadRow, Lines, json_object, kind_of
from feedback.models import Message

LINES_TO_RECOGNISE_BY = 20
DEFAULT_STRENGTH = 2
"""Files that only say which is better mean "better": the middle of slightly, better, much better."""

ROLES = ("system", "user", "assistant")
HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "
TURN = re.compile(r"\n\n(Human|Assistant): ")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}


class Format(models.TextChoices):
    """What an import can read."""

    HH = "hh", gettext_lazy("HH-RLHF preferences (JSON Lines)")
    TRL = "trl", gettext_lazy("TRL preferences (JSON Lines)")
    PROMPTS_JSONL = "prompts_jsonl", gettext_lazy("Prompts (JSON Lines)")
    PROMPTS_CSV = "prompts_csv", gettext_lazy("Prompts (CSV)")
    PROMPTS_TXT = "prompts_txt", gettext_lazy("Prompts (one on each line)")


class PromptRow(NamedTuple):
    line: int
    messages: list[Message]
    external_id: str


class PairRow(NamedTuple):
    """A recorded preference: `strength` 1 to 3 says how much better `chosen` is."""

    line: int
    messages: list[Message]
    external_id: str
    chosen: str
    rejected: str
    strength: int


Row = PromptRow | PairRow


# --- a value to a row -------------------------------------------------------------------------------


def only(data: dict[str, Any], allowed: tuple[str, ...], *, ignore_extra: bool) -> None:
    for name in data:
        if name not in allowed and not ignore_extra:
            wanted = ", ".join(allowed)
            raise BadRow(
                _("unknown column '%(name)s' (wanted: %(wanted)s)") % {"name": name[:80], "wanted": wanted}
            )


def required(data: dict[str, Any], name: str) -> Any:
    if data.get(name) is None:
        raise BadRow(_("'%s' missing") % name)
    return data[name]


def wrong_type(name: str, wanted: str, value: object) -> BadRow:
    facts = {"name": name, "wanted": wanted, "found": kind_of(value)}
    return BadRow(_("'%(name)s' must be %(wanted)s, found %(found)s") % facts)


def messages_of(value: object, name: str) -> list[Message]:
    """Check a list of {"role", "content"} turns; every error names column and turn."""
    if not isinstance(value, list):
        raise wrong_type(name, _("a list of turns"), value)
    for number, turn in enumerate(value, 1):
        place = _("'%(name)s' turn %(number)d") % {"name": name, "number": number}
        if not isinstance(turn, dict):
            raise BadRow(f"{place}: " + _("wanted an object, found %s") % kind_of(turn))
        if turn.get("role") not in ROLES:
            raise BadRow(
                f"{place}: "
                + _("unknown role %s (wanted: system, user, assistant)") % repr(turn.get("role"))[:80]
            )
        if not isinstance(turn.get("content"), str):
            raise BadRow(f"{place}: " + _("'content' must be text, found %s") % kind_of(turn.get("content")))
        if extra := set(turn) - {"role", "content"}:
            raise BadRow(f"{place}: " + _("unknown key '%s'") % min(extra)[:80])
        if turn["role"] == "system" and number > 1:
            raise BadRow(f"{place}: " + _("a system turn can only be the first"))
    return value


def checked_prompt(messages: list[Message]) -> list[Message]:
    if not messages or not messages[-1]["content"].strip():
        raise BadRow(_("empty prompt"))
    if messages[-1]["role"] != "user":
        facts = {"number": len(messages), "role": messages[-1]["role"]}
        raise BadRow(_("turn %(number)d: the prompt must end with a user turn, found %(role)s") % facts)
    return messages


def external_id_of(data: dict[str, Any]) -> str:
    value = data.get("id")
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong_type("id", _("text or a whole number"), value)
    if len(str(value)) > 200:
        raise BadRow(_("'id' over 200 characters"))
    return str(value)


def strength_of(data: dict[str, Any]) -> int:
    """A margin becomes the nearest of slightly (1), better (2), much better (3)."""
    margin = data.get("margin")
    if margin is None:
        return DEFAULT_STRENGTH
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise wrong_type("margin", _("a number"), margin)
    if margin < 0:
        raise BadRow(_("'margin' must be 0 or more, got %s") % margin)
    return max(1, min(3, round(margin)))


def common_length(first: str, second: str) -> int:
    """Length of the longest common prefix, by halving: slices compare many times faster than characters."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[low:middle] == second[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def hh_row(data: dict[str, Any], line: int, *, ignore_extra: bool) -> PairRow:
    """Two whole transcripts: the prompt is what they share, cut back to the last turn of the assistant."""
    only(data, ("chosen", "rejected"), ignore_extra=ignore_extra)
    for name in ("chosen", "rejected"):
        if not isinstance(required(data, name), str):
            raise wrong_type(name, _("text"), data[name])
        if not data[name].startswith(HUMAN):
            raise BadRow(_("'%s' must start with an empty line and “Human: ”") % name)
    chosen, rejected = data["chosen"], data["rejected"]
    if chosen == rejected:
        raise BadRow(_("chosen and rejected are identical"))
    cut = chosen.rfind(ASSISTANT, 0, common_length(chosen, rejected))
    if cut < 0:
        raise BadRow(_("chosen and rejected share no prompt before an “Assistant: ” turn"))
    _before, *turns = TURN.split(chosen[:cut])
    messages = [
        cast(Message, {"role": HH_ROLES[speaker], "content": content})
        for speaker, content in zip(turns[::2], turns[1::2], strict=True)
    ]
    answer = cut + len(ASSISTANT)
    return PairRow(line, checked_prompt(messages), "", chosen[answer:], rejected[answer:], DEFAULT_STRENGTH)


def trl_row(data: dict[str, Any], line: int, *, ignore_extra: bool) -> PairRow:
    """Standard (text) or conversational (turns), with the prompt in a column or as what both sides share."""
    only(data, ("prompt", "chosen", "rejected", "margin", "id"), ignore_extra=ignore_extra)
    chosen, rejected = required(data, "chosen"), required(data, "rejected")
    if type(chosen) is not type(rejected):
        facts = {"chosen": kind_of(chosen), "rejected": kind_of(rejected)}
        raise BadRow(_("'chosen' is %(chosen)s, 'rejected' is %(rejected)s: wanted the same") % facts)
    if chosen == rejected:
        raise BadRow(_("chosen and rejected are identical"))
    if isinstance(chosen, str):
        messages, chosen, rejected = standard(data.get("prompt"), chosen, rejected)
    else:
        messages, chosen, rejected = conversational(data.get("prompt"), chosen, rejected)
    return PairRow(line, checked_prompt(messages), external_id_of(data), chosen, rejected, strength_of(data))


def standard(prompt: object, chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    if prompt is None:
        shared = chosen[: common_length(chosen, rejected)]
        # Cut back to a border between words, so that an answer does not start within one.
        cut = max(shared.rfind(" "), shared.rfind("\n")) + 1
        prompt, chosen, rejected = chosen[:cut].rstrip(" "), chosen[cut:], rejected[cut:]
        if not prompt:
            raise BadRow(_("'prompt' missing, and chosen and rejected share no beginning"))
    if not isinstance(prompt, str):
        raise wrong_type("prompt", _("text like 'chosen'"), prompt)
    return [{"role": "user", "content": prompt}], chosen, rejected


def conversational(prompt: object, chosen: object, rejected: object) -> tuple[list[Message], str, str]:
    left, right = messages_of(chosen, "chosen"), messages_of(rejected, "rejected")
    if prompt is None:
        shared = 0
        while shared < min(len(left), len(right)) and left[shared] == right[shared]:
            shared += 1
        messages, left, right = left[:shared], left[shared:], right[shared:]
    else:
        messages = messages_of(prompt, "prompt")
    for name, turns in (("chosen", left), ("rejected", right)):
        if len(turns) != 1 or turns[0]["role"] != "assistant":
            facts = {"name": name, "found": ", ".join(turn["role"] for turn in turns[:5]) or _("none")}
            raise BadRow(
                _("'%(name)s' must hold one assistant turn after the prompt, found: %(found)s") % facts
            )
    return messages, left[0]["content"], right[0]["content"]


def prompt_row(data: dict[str, Any], line: int, *, ignore_extra: bool) -> PromptRow:
    """{"prompt": text or turns} or {"messages": turns}."""
    only(data, ("prompt", "messages", "id"), ignore_extra=ignore_extra)
    if data.get("prompt") is not None and data.get("messages") is not None:
        raise BadRow(_("both 'prompt' and 'messages': wanted one"))
    name = "messages" if data.get("messages") is not None else "prompt"
    value = required(data, name)
    if isinstance(value, str) and name == "prompt":
        value = [{"role": "user", "content": value}]
    return PromptRow(line, checked_prompt(messages_of(value, name)), external_id_of(data))


JSON_ROWS: dict[str, Callable[..., Row]] = {
    Format.HH: hh_row,
    Format.TRL: trl_row,
    Format.PROMPTS_JSONL: prompt_row,
}


# --- a file to rows ---------------------------------------------------------------------------------


def read_rows(
    stream: io.BufferedReader, format: str, *, ignore_extra: bool = False
) -> Iterator[Row | BadRow]:
    """Every row of the file, and a BadRow in place of each line that is none; blank lines are passed over."""
    lines = Lines(stream)
    rows = (
        CsvRows(lines, ignore_extra)
        if format == Format.PROMPTS_CSV
        else TextRows(lines, format, ignore_extra)
    )
    while True:
        try:
            yield next(rows)
        except StopIteration:
            return
        except BadRow as bad:
            bad.line = bad.line or rows.line
            yield bad


class TextRows:
    """A row on each line: JSON or plain text. Like `Lines`, goes on after a BadRow."""

    def __init__(self, lines: Lines, format: str, ignore_extra: bool) -> None:
        self.lines = lines
        self.format = format
        self.ignore_extra = ignore_extra
        self.line = 0

    def __next__(self) -> Row:
        text = next(self.lines)
        while not text.strip():
            text = next(self.lines)
        self.line = self.lines.number
        if self.format == Format.PROMPTS_TXT:
            return prompt_row({"prompt": text.rstrip("\r\n")}, self.line, ignore_extra=False)
        return JSON_ROWS[self.format](json_object(text), self.line, ignore_extra=self.ignore_extra)


class CsvRows:
    """A header, then a row in each record; a record in quotes may span lines, and its first one counts."""

    def __init__(self, lines: Lines, ignore_extra: bool) -> None:
        self.lines = lines
        self.ignore_extra = ignore_extra
        self.reader = csv.reader(lines, strict=True)
        self.header: list[str] | None = None
        self.line = 0

    def __next__(self) -> Row:
        if self.header is None:
            self.header = csv_header(self.cells())
        cells = self.cells()
        if len(cells) != len(self.header):
            facts = {"found": len(cells), "wanted": len(self.header)}
            raise BadRow(_("%(found)d cells, the header has %(wanted)d") % facts)
        data = dict(zip(self.header, cells, strict=True))
        only(data, ("prompt", "id"), ignore_extra=self.ignore_extra)
        return prompt_row({"prompt": data["prompt"], "id": data.get("id")}, self.line, ignore_extra=False)

    def cells(self) -> list[str]:
        """The next record that is not blank."""
        while True:
            self.line = self.lines.number + 1
            try:
                cells = next(self.reader)
            except csv.Error as error:
                raise BadRow(csv_reason(str(error))) from error
            if any(cell.strip() for cell in cells):
                return cells


def csv_reason(error: str) -> str:
    """Python's words for a broken CSV record in ours."""
    if "unexpected end of data" in error:
        return _("a quote is not closed")
    if "field limit" in error:
        return _("cell over %d KiB, or a quote is not closed") % (csv.field_size_limit() // 1024)
    return error


def csv_header(cells: list[str]) -> list[str]:
    names = [cell.strip().lower() for cell in cells]
    if "prompt" not in names:
        for delimiter, name in ((";", ";"), ("\t", "TAB"), ("|", "|")):
            if "prompt" in (part.strip().lower() for part in cells[0].split(delimiter)):
                raise BadFile(_("the cells are separated by %s: wanted commas") % name)
        raise BadFile(_("no column 'prompt' in the header (found: %s)") % ", ".join(names)[:200])
    for name in names:
        if names.count(name) > 1:
            raise BadFile(_("column '%s' appears twice in the header") % name[:80])
    return names


# --- which format? ----------------------------------------------------------------------------------


def recognise(stream: io.BufferedReader, file_name: str) -> Format:
    """The format, by content; the name only tells plain text from the rest. Raises BadFile otherwise."""
    lines = Lines(stream)
    first_problem: BadRow | None = None
    for _attempt in range(LINES_TO_RECOGNISE_BY):
        try:
            text = next(lines)
            if text.strip():
                return format_of_line(text, file_name.lower().removesuffix(".gz"))
        except StopIteration:
            break
        except BadRow as bad:
            bad.line = bad.line or lines.number
            first_problem = first_problem or bad
    raise BadFile(str(first_problem) if first_problem else _("No rows found in %s") % file_name)


def format_of_line(text: str, name: str) -> Format:
    start = text.strip()
    if start == "[" or start.startswith("[{"):
        raise BadFile(_("a JSON array: wanted JSON Lines, one object on each line"))
    if start.startswith("{") or name.endswith((".jsonl", ".json", ".ndjson")):
        return format_of_object(json_object(text))
    if name.endswith(".csv"):
        csv_header(next(csv.reader([text])))
        return Format.PROMPTS_CSV
    if "prompt" in [cell.strip().lower() for cell in start.split(",")]:
        return Format.PROMPTS_CSV
    if name.endswith(".txt"):
        return Format.PROMPTS_TXT
    raise BadFile(_("format not recognised: choose it in the form"))


def format_of_object(data: dict[str, Any]) -> Format:
    sides = [data[name] for name in ("chosen", "rejected") if name in data]
    if sides:
        transcripts = all(isinstance(side, str) and side.startswith(HUMAN) for side in sides)
        return Format.HH if transcripts and "prompt" not in data else Format.TRL
    if "prompt" in data or "messages" in data:
        return Format.PROMPTS_JSONL
    found = ", ".join(data)[:200] or _("none")
    raise BadRow(_("none of the columns chosen, rejected, prompt, messages (found: %s)") % found)
