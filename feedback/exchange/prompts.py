"""Prompts alone, and prompts with K completions of which something may have been said."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from feedback.exchange.rows import (
    DEFAULT_STRENGTH,
    Judged,
    Row,
    completion_in,
    different,
    external_id_of,
    list_in,
    optional_list,
    prompt_in,
    required,
    text_in,
    whole_number,
    wrong_type,
)
from feedback.lines import BadRow, kind_of

COLUMNS = ("prompt", "messages", "id")
SET_COLUMNS = (*COLUMNS, "completions", "preferences", "ranking", "ratings", "corrections")


def fits(data: dict[str, Any]) -> bool:
    return "prompt" in data or "messages" in data


def read(data: dict[str, Any], line: int) -> Row:
    """{"prompt": text or turns} or {"messages": turns}."""
    return Row(line, prompt_in(data), external_id_of(data))


# --- with completions -------------------------------------------------------------------------------


def fits_set(data: dict[str, Any]) -> bool:
    return "completions" in data


def read_set(data: dict[str, Any], line: int) -> Row:
    """Numbers of completions count from 0. Everything but the completions may be missing."""
    given = list_in(data, "completions")
    texts = different((completion_in(value, "completions") for value in given), "completions")
    if not texts:
        raise BadRow(_("'completions' is empty"))
    judged = [preference_of(value, len(texts)) for value in optional_list(data, "preferences")]
    everything = tuple(range(len(texts)))
    if data.get("ranking") is not None:
        groups = ranking_of(data["ranking"], len(texts))
        judged.append(Judged("ranking", everything, ranking=groups))
    if data.get("ratings") is not None:
        judged.append(Judged("rating", everything, ratings=ratings_of(data["ratings"], len(texts))))
    judged += [correction_of(value, texts) for value in optional_list(data, "corrections")]
    return Row(line, prompt_in(data), external_id_of(data), texts, tuple(judged))


def object_in(value: object, name: str, columns: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise wrong_type(name, _("a list of objects"), value)
    for key in value:
        if key not in columns:
            facts = {"name": name, "key": key[:80], "wanted": ", ".join(columns)}
            raise BadRow(_("'%(name)s': unknown key '%(key)s' (wanted: %(wanted)s)") % facts)
    return value


def preference_of(value: object, number: int) -> Judged:
    """{"chosen": 0, "rejected": 2, "strength": 1 to 3} or {"tie": [0, 2]}; who knows more adds it."""
    data = object_in(value, "preferences", ("chosen", "rejected", "strength", "tie"))
    if data.get("tie") is not None:
        sides, strength = list_in(data, "tie"), 0
        if len(sides) != 2:
            facts = {"found": len(sides)}
            raise BadRow(_("'tie' must name 2 completions, found %(found)d") % facts)
        first, second = (whole_number({"tie": side}, "tie", 0, number - 1) for side in sides)
    else:
        first, second = (whole_number(data, name, 0, number - 1) for name in ("chosen", "rejected"))
        given = data.get("strength") is not None
        strength = whole_number(data, "strength", 1, 3) if given else DEFAULT_STRENGTH
    if first == second:
        raise BadRow(_("chosen and rejected are identical"))
    return Judged("pairwise", (first, second), strength=-strength)


def ranking_of(value: object, number: int, name: str = "ranking") -> tuple[tuple[int, ...], ...]:
    """[[2], [0, 1]] or, without ties, [2, 0, 1]: best first, every completion once."""
    if not isinstance(value, list):
        raise wrong_type(name, _("a list"), value)
    groups = tuple(tuple(group) if isinstance(group, list) else (group,) for group in value)
    places = [place for group in groups for place in group]
    if not all(type(place) is int for place in places) or sorted(places) != list(range(number)):
        facts = {"name": name, "last": number - 1, "found": str(value)[:80]}
        raise BadRow(_("'%(name)s' must hold each number from 0 to %(last)d once, found %(found)s") % facts)
    return tuple(group for group in groups if group)


def ratings_of(value: object, number: int, name: str = "ratings") -> tuple[dict[str, int], ...]:
    """[{"helpful": 4}, {"helpful": 2}]: of each completion, 1 to 5 by criterion."""
    if not isinstance(value, list) or len(value) != number:
        found = len(value) if isinstance(value, list) else kind_of(value)
        facts = {"name": name, "wanted": number, "found": found}
        raise BadRow(
            _("'%(name)s' must hold an object for each of the %(wanted)d completions, found %(found)s")
            % facts
        )
    for given in value:
        if not isinstance(given, dict):
            raise wrong_type(name, _("a list of objects"), given)
        for criterion in given:
            whole_number(given, criterion, 1, 5)
    return tuple(value)


def correction_of(value: object, texts: tuple[str, ...]) -> Judged:
    """{"of": 1, "text": "..."}: a better version of a completion, kept as a rating without scores."""
    data = object_in(value, "corrections", ("of", "text"))
    corrects = whole_number(data, "of", 0, len(texts) - 1)
    written = text_in(data, "text")
    if written == texts[corrects]:
        raise BadRow(_("the correction is identical with completion %d") % corrects)
    required(data, "of")
    return Judged("rating", (corrects,), written=written, corrects=corrects)
