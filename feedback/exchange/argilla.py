"""Argilla records: fields and responses, flat as they lie on a hub or nested as the library writes them."""

from __future__ import annotations

import re
from typing import Any

from django.utils.translation import gettext as _

from feedback.exchange.rows import (
    DEFAULT_STRENGTH,
    Judged,
    Row,
    different,
    external_id_of,
    optional_list,
    prompt_in,
    whole_number,
)
from feedback.lines import BadRow

PROMPTS = ("messages", "prompt", "instruction", "question", "input", "text", "context")
COMPLETION = re.compile(
    r"(response|completion|answer|reply|generation|output|text)[ _-]?(\d+|[a-z])", re.IGNORECASE
)
ANSWERS = ".responses"
KEPT = (None, "submitted")
TIES = ("tie", "equal", "both", "draw")


def fits(data: dict[str, Any]) -> bool:
    nested = isinstance(data.get("fields"), dict) and ("responses" in data or "suggestions" in data)
    return nested or any(name.endswith(ANSWERS) for name in data)


def read(record: dict[str, Any], line: int) -> Row:
    fields = record["fields"] if isinstance(record.get("fields"), dict) else record
    prompt = next((name for name in PROMPTS if fields.get(name) is not None), None)
    if prompt is None:
        raise BadRow(_("none of the fields %s") % ", ".join(PROMPTS))
    messages = prompt_in({prompt: turns_of(fields[prompt])}, prompt)
    found = {
        name: value for name, value in fields.items()
        if name != prompt and isinstance(value, str) and COMPLETION.fullmatch(name)
    }  # fmt: skip
    if not found:
        raise BadRow(
            _("no field with a completion, such as response-1 (found: %s)") % ", ".join(fields)[:200]
        )
    names = {plain(name): place for place, name in enumerate(found)}
    judged = tuple(
        judgement
        for value, who in responses(record)
        if (judgement := judgement_of(value, who, names)) is not None
    )
    return Row(line, messages, external_id_of(record), different(found.values(), "fields"), judged)


def plain(name: str) -> str:
    return re.sub(r"[ _-]", "", name).lower()


def turns_of(value: object) -> object:
    """A chat field holds turns that may have more keys than ours."""
    if isinstance(value, list) and all(isinstance(turn, dict) for turn in value):
        return [{"role": turn.get("role"), "content": turn.get("content")} for turn in value]
    return value


def responses(record: dict[str, Any]) -> list[tuple[Any, str]]:
    """(value, user) of each response that was submitted, of every question."""
    if isinstance(record.get("responses"), dict):
        return [
            (response.get("value"), str(response.get("user_id") or ""))
            for question in record["responses"]
            for response in optional_list(record["responses"], question)
            if isinstance(response, dict) and response.get("status") in KEPT
        ]
    found = []
    for name in record:
        if name.endswith(ANSWERS) and isinstance(record[name], list):
            values = record[name]
            users = optional_list(record, f"{name}.users") or [""] * len(values)
            states = optional_list(record, f"{name}.status") or [None] * len(values)
            if not len(users) == len(states) == len(values):
                raise BadRow(_("'%s': users and status must be as many as responses") % name[:80])
            found += [
                (value, str(who or ""))
                for value, who, state in zip(values, users, states, strict=True)
                if state in KEPT
            ]
    return found


def judgement_of(value: object, who: str, names: dict[str, int]) -> Judged | None:
    """A ranking, or the name of the better completion; nothing in answers to other questions."""
    everything = tuple(range(len(names)))
    if isinstance(value, list) and value:
        ranks: dict[int, list[int]] = {}
        for place, item in enumerate(value, 1):
            name = item.get("value") if isinstance(item, dict) else item
            rank = item.get("rank", place) if isinstance(item, dict) else place
            if not isinstance(name, str) or plain(name) not in names:
                return None
            ranks.setdefault(whole_number({"rank": rank}, "rank", 0, 1000), []).append(names[plain(name)])
        groups = tuple(tuple(ranks[rank]) for rank in sorted(ranks))
        if sorted(place for group in groups for place in group) != list(everything):
            raise BadRow(_("a ranking must hold each completion once, found %s") % str(value)[:80])
        return Judged("ranking", everything, ranking=groups, by=who)
    if isinstance(value, str) and len(names) == 2:
        if plain(value) in names:
            strength = DEFAULT_STRENGTH if names[plain(value)] == 1 else -DEFAULT_STRENGTH
            return Judged("pairwise", everything, strength=strength, by=who)
        if value.lower() in TIES:
            return Judged("pairwise", everything, strength=0, by=who)
    return None
