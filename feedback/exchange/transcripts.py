"""HH-RLHF: two whole transcripts in a row, which begin alike."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, cast

from django.utils.translation import gettext as _

from feedback.exchange.rows import DEFAULT_STRENGTH, Degree, Row, checked_prompt, preferred, text_in
from feedback.lines import BadRow
from feedback.models import Preference
from feedback.texts import Message

COLUMNS = ("chosen", "rejected")
HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "
TURN = re.compile(r"\n\n(Human|Assistant): ")
ROLE_OF = {"Human": "user", "Assistant": "assistant"}
NAME_OF = {"user": HUMAN, "assistant": ASSISTANT, "system": "\n\nSystem: "}


def fits(data: dict[str, Any]) -> bool:
    sides = [data[name] for name in COLUMNS if name in data]
    transcripts = all(isinstance(side, str) and side.startswith(HUMAN) for side in sides)
    return bool(sides) and transcripts and "prompt" not in data


def read(data: dict[str, Any], line: int) -> Row:
    """The prompt is what both transcripts share, cut back to the last turn of the assistant."""
    for name in COLUMNS:
        if not text_in(data, name).startswith(HUMAN):
            raise BadRow(_("'%s' must start with an empty line and “Human: ”") % name)
    chosen, rejected = data["chosen"], data["rejected"]
    if chosen == rejected:
        raise BadRow(_("chosen and rejected are identical"))
    cut = chosen.rfind(ASSISTANT, 0, common_length(chosen, rejected))
    if cut < 0:
        raise BadRow(_("chosen and rejected share no prompt before an “Assistant: ” turn"))
    _before, *turns = TURN.split(chosen[:cut])
    messages = [
        cast(Message, {"role": ROLE_OF[speaker], "content": content})
        for speaker, content in zip(turns[::2], turns[1::2], strict=True)
    ]
    rest = cut + len(ASSISTANT)
    degree = Degree(DEFAULT_STRENGTH)
    return preferred(line, checked_prompt(messages), "", chosen[rest:], rejected[rest:], degree)


def write(preference: Preference) -> Iterator[dict[str, Any]]:
    """A row for each pair. The format has no ties, strengths or system turns: the last are left as text."""
    start = transcript(preference.comparison.prompt.messages) + ASSISTANT
    for pair in preference.pairs():
        if not pair.tie:
            yield {"chosen": start + pair.chosen.text, "rejected": start + pair.rejected.text}


def transcript(messages: list[Message]) -> str:
    return "".join(NAME_OF[turn["role"]] + turn["content"] for turn in messages)


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
