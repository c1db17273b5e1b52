"""What a line of a file says, whatever its format: a prompt, completions of it, and what was said of them.

Also the checks that formats share. Each names the column, what was found and what was wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, NamedTuple

from django.utils.dateparse import parse_datetime
from django.utils.translation import gettext as _

from feedback.lines import BadRow, kind_of
from feedback.texts import Message

DEFAULT_STRENGTH = 2
"""Files that only say which is better mean "better": the middle of slightly, better, much better."""
MAX_COMPLETIONS = 64
MAX_MARGIN = 10**9
"""Whole numbers up to here are the same in every reader of JSON."""
MAX_ID, MAX_COMMENT, MAX_NAME = 200, 4000, 40
ROLES = ("system", "user", "assistant")
ACCEPTABILITY = ("both", "one", "neither")


class Judged(NamedTuple):
    """A recorded judgement of some completions of a row; `of` are their indices in `Row.completions`."""

    kind: str
    of: tuple[int, ...]
    strength: int | None = None
    """Pairwise: above 0 when the second of `of` is better."""
    margin: float | None = None
    """As the file states it, where it is no whole strength."""
    ranking: tuple[tuple[int, ...], ...] = ()
    """Groups of indices like `of`, best first."""
    ratings: tuple[dict[str, int], ...] = ()
    """By criterion, in the order of `of`."""
    written: str | None = None
    corrects: int | None = None
    """The index of the completion that `written` is a better version of."""
    acceptability: str = ""
    flags: tuple[str, ...] = ()
    comment: str = ""
    by: str = ""
    """A name that stands for one annotator in this file; "" when the file does not tell people apart."""
    opened: datetime | None = None
    at: datetime | None = None
    active_ms: int | None = None
    shown: tuple[int, ...] = ()
    """Indices as they stood on the screen from left to right; empty when nobody knows."""
    simulated: bool = False
    late: bool = False
    purpose: str = "training"
    gold_answer: dict[str, Any] | None = None
    """Of a gold comparison, on places in `of`."""


class Row(NamedTuple):
    line: int
    messages: list[Message]
    external_id: str = ""
    completions: tuple[str, ...] = ()
    judged: tuple[Judged, ...] = ()
    origin: str = ""
    """Project and comparison that an export names, as "slug/7": its judgements share a comparison here."""
    exported: tuple[int, datetime | None] | None = None
    """The judgement's number and time in the installation that exported it."""
    ordered: bool = False
    """Whether the order of the completions tells nothing and may stay."""


class Degree(NamedTuple):
    """How much better one completion is than another."""

    strength: int
    """Slightly (1), better (2), much better (3): the nearest of them."""
    margin: float | None = None
    """What the file states, where that is another number."""


Read = Callable[[dict[str, Any], int], Row | list[Row]]
"""How a format reads an object of its file. One object may hold several prompts."""


def preferred(
    line: int, messages: list[Message], external_id: str, chosen: str, rejected: str, degree: Degree
) -> Row:
    """A row of the commonest kind."""
    judged = Judged("pairwise", (0, 1), strength=-degree.strength, margin=degree.margin)
    return Row(line, messages, external_id, (chosen, rejected), (judged,))


# --- columns ----------------------------------------------------------------------------------------


def required(data: dict[str, Any], name: str) -> Any:
    if data.get(name) is None:
        raise BadRow(_("'%s' missing") % name)
    return data[name]


def wrong_type(name: str, wanted: str, value: object) -> BadRow:
    facts = {"name": name, "wanted": wanted, "found": kind_of(value)}
    return BadRow(_("'%(name)s' must be %(wanted)s, found %(found)s") % facts)


def text_in(data: dict[str, Any], name: str) -> str:
    value = required(data, name)
    if not isinstance(value, str):
        raise wrong_type(name, _("text"), value)
    return value


def short(value: object, name: str, limit: int) -> str:
    """A text that is refused, and not cut off, when it is too long."""
    if not isinstance(value, str):
        raise wrong_type(name, _("text"), value)
    if len(value) > limit:
        raise BadRow(_("'%(name)s' over %(limit)d characters") % {"name": name, "limit": limit})
    return value


def list_in(data: dict[str, Any], name: str) -> list[Any]:
    value = required(data, name)
    if not isinstance(value, list):
        raise wrong_type(name, _("a list"), value)
    return value


def optional_list(data: dict[str, Any], name: str) -> list[Any]:
    """A list that may be missing."""
    return list_in(data, name) if data.get(name) is not None else []


def one_of(data: dict[str, Any], name: str, allowed: Iterable[str]) -> str:
    value = required(data, name)
    if value not in (allowed := tuple(allowed)):
        facts = {"name": name, "found": repr(value)[:80], "wanted": ", ".join(allowed)}
        raise BadRow(_("'%(name)s': unknown %(found)s (wanted: %(wanted)s)") % facts)
    return str(value)


def external_id_of(data: dict[str, Any], name: str = "id") -> str:
    value = data.get(name)
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise wrong_type(name, _("text or a whole number"), value)
    return short(str(value), name, MAX_ID)


def whole_number(data: dict[str, Any], name: str, low: int, high: int) -> int:
    value = required(data, name)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, _("a whole number"), value)
    if not low <= value <= high:
        facts = {"name": name, "low": low, "high": high, "found": value}
        raise BadRow(_("'%(name)s' must be from %(low)d to %(high)d, found %(found)d") % facts)
    return value


def yes_or_no(data: dict[str, Any], name: str) -> bool:
    value = required(data, name)
    if not isinstance(value, bool):
        raise wrong_type(name, _("true or false"), value)
    return value


def time_in(data: dict[str, Any], name: str) -> datetime | None:
    """ISO 8601 with its offset from UTC."""
    if data.get(name) is None:
        return None
    text = text_in(data, name)
    try:
        at = parse_datetime(text)
    except ValueError:
        at = None
    if at is None or at.tzinfo is None or not 1970 <= at.year <= 9998:  # in UTC it may be another year
        facts = {"name": name, "found": text[:40]}
        raise BadRow(_("'%(name)s' must be a time like 2026-01-31T12:00:00+00:00, found %(found)s") % facts)
    return at


def margin_in(data: dict[str, Any]) -> float | None:
    margin = data.get("margin")
    if margin is None:
        return None
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise wrong_type("margin", _("a number"), margin)
    if margin < 0:
        raise BadRow(_("'margin' must be 0 or more, got %s") % margin)
    if margin > MAX_MARGIN:
        facts = {"limit": MAX_MARGIN, "found": margin}
        raise BadRow(_("'margin' must be %(limit)d or less, got %(found)s") % facts)
    return float(margin)


def degree_of(data: dict[str, Any]) -> Degree:
    """By the column `margin`; without one a file says "better"."""
    margin = margin_in(data)
    if margin is None:
        return Degree(DEFAULT_STRENGTH)
    strength = max(1, min(3, round(margin)))
    return Degree(strength, None if margin == strength else margin)


# --- turns ------------------------------------------------------------------------------------------


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


def asked(text: str) -> list[Message]:
    """A prompt of a single turn."""
    return [{"role": "user", "content": text}]


def prompt_in(data: dict[str, Any], *names: str) -> list[Message]:
    """The prompt in the one of these columns that is there: text or turns."""
    names = names or ("prompt", "messages")
    there = [name for name in names if data.get(name) is not None]
    if len(there) > 1:
        facts = {"first": there[0], "second": there[1]}
        raise BadRow(_("both '%(first)s' and '%(second)s': wanted one") % facts)
    name = there[0] if there else names[0]
    value = required(data, name)
    if isinstance(value, str) and name != "messages":
        return checked_prompt(asked(value))
    return checked_prompt(messages_of(value, name))


def completion_in(value: object, name: str) -> str:
    """A completion as text or as a single assistant turn."""
    if isinstance(value, str):
        return value
    turns = messages_of([value] if isinstance(value, dict) else value, name)
    if len(turns) != 1 or turns[0]["role"] != "assistant":
        facts = {"name": name, "found": ", ".join(turn["role"] for turn in turns[:5]) or _("none")}
        raise BadRow(_("'%(name)s' must hold one assistant turn after the prompt, found: %(found)s") % facts)
    return turns[0]["content"]


def different(completions: Iterable[str], name: str) -> tuple[str, ...]:
    """The completions, of which no two may be alike: nobody can say which of them is better."""
    texts = tuple(completions)
    if len(texts) > MAX_COMPLETIONS:
        facts = {"name": name, "found": len(texts), "limit": MAX_COMPLETIONS}
        raise BadRow(_("'%(name)s': %(found)d completions, at most %(limit)d are read") % facts)
    first_at: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        if text in first_at:
            facts = {"name": name, "first": first_at[text], "second": number}
            raise BadRow(_("'%(name)s': completions %(first)d and %(second)d are identical") % facts)
        first_at[text] = number
    return texts
