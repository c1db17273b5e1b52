"""TRL: a prompt, a chosen and a rejected completion, as text or turns, the prompt explicit or shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext as _

from feedback.exchange.rows import (
    Row,
    asked,
    checked_prompt,
    completion_in,
    degree_of,
    external_id_of,
    messages_of,
    preferred,
    prompt_in,
    required,
    wrong_type,
)
from feedback.exchange.transcripts import common_length
from feedback.lines import BadRow, kind_of
from feedback.models import Preference
from feedback.texts import Message

COLUMNS = ("prompt", "messages", "chosen", "rejected", "margin", "id")


def fits(data: dict[str, Any]) -> bool:
    return "chosen" in data or "rejected" in data


def read(data: dict[str, Any], line: int) -> Row:
    chosen, rejected = required(data, "chosen"), required(data, "rejected")
    if type(chosen) is not type(rejected):
        facts = {"chosen": kind_of(chosen), "rejected": kind_of(rejected)}
        raise BadRow(_("'chosen' is %(chosen)s, 'rejected' is %(rejected)s: wanted the same") % facts)
    if chosen == rejected:
        raise BadRow(_("chosen and rejected are identical"))
    if data.get("messages") is not None:
        messages = prompt_in(data)
        chosen, rejected = completion_in(chosen, "chosen"), completion_in(rejected, "rejected")
    elif isinstance(chosen, str):
        messages, chosen, rejected = standard(data.get("prompt"), chosen, rejected)
    else:
        messages, chosen, rejected = conversational(data.get("prompt"), chosen, rejected)
    return preferred(line, checked_prompt(messages), external_id_of(data), chosen, rejected, degree_of(data))


def standard(prompt: object, chosen: str, rejected: str) -> tuple[list[Message], str, str]:
    if prompt is None:
        shared = chosen[: common_length(chosen, rejected)]
        # Cut back to a border between words, so that a completion does not start within one.
        cut = max(shared.rfind(" "), shared.rfind("\n")) + 1
        prompt, chosen, rejected = chosen[:cut].rstrip(" "), chosen[cut:], rejected[cut:]
        if not prompt:
            raise BadRow(_("'prompt' missing, and chosen and rejected share no beginning"))
    if not isinstance(prompt, str):
        raise wrong_type("prompt", _("text like 'chosen'"), prompt)
    return asked(prompt), chosen, rejected


def conversational(prompt: object, chosen: object, rejected: object) -> tuple[list[Message], str, str]:
    left, right = messages_of(chosen, "chosen"), messages_of(rejected, "rejected")
    if prompt is None:
        shared = 0
        while shared < min(len(left), len(right)) and left[shared] == right[shared]:
            shared += 1
        messages, left, right = left[:shared], left[shared:], right[shared:]
    else:
        messages = messages_of(prompt, "prompt")
    return messages, completion_in(left, "chosen"), completion_in(right, "rejected")


def write(preference: Preference) -> Iterator[dict[str, Any]]:
    """A row for each pair; ties have no chosen side and are left out."""
    prompt = preference.comparison.prompt.messages
    for pair in preference.pairs():
        if not pair.tie:
            yield {
                "prompt": prompt,
                "chosen": [{"role": "assistant", "content": pair.chosen.text}],
                "rejected": [{"role": "assistant", "content": pair.rejected.text}],
                "margin": pair.margin if pair.stated is None else pair.stated,
            }
