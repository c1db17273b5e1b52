"""Arena battles: two models answered one conversation, and somebody said which did better."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext as _

from feedback.exchange.rows import (
    DEFAULT_STRENGTH,
    Judged,
    Row,
    checked_prompt,
    different,
    external_id_of,
    messages_of,
    required,
)
from feedback.lines import BadRow
from feedback.texts import Message

VERDICTS: dict[str, tuple[int, str]] = {
    "model_a": (-DEFAULT_STRENGTH, ""),
    "model_b": (DEFAULT_STRENGTH, ""),
    "tie": (0, ""),
    "tie (bothbad)": (0, "neither"),
    "both_bad": (0, "neither"),
}


def fits(data: dict[str, Any]) -> bool:
    return "winner" in data and "conversation_a" in data


def read(data: dict[str, Any], line: int) -> Row:
    """The last turn of each side is compared; the conversations before it must be one and the same."""
    winner = required(data, "winner")
    if not isinstance(winner, str) or winner not in VERDICTS:
        facts = {"found": repr(winner)[:80], "wanted": ", ".join(VERDICTS)}
        raise BadRow(_("'winner': unknown %(found)s (wanted: %(wanted)s)") % facts)
    left, right = (conversation(data, name) for name in ("conversation_a", "conversation_b"))
    if left[:-1] != right[:-1]:
        parted = next(
            (number for number, (one, other) in enumerate(zip(left, right, strict=False), 1) if one != other),
            min(len(left), len(right)),
        )
        raise BadRow(_("the conversations part at turn %d: wanted the same turns before the last") % parted)
    strength, acceptability = VERDICTS[winner]
    by = external_id_of(data, "judge")  # who judged, by a name or a number
    judged = Judged("pairwise", (0, 1), strength=strength, acceptability=acceptability, by=by)
    texts = different((left[-1]["content"], right[-1]["content"]), "conversation")
    return Row(line, checked_prompt(left[:-1]), external_id_of(data, "question_id"), texts, (judged,))


def conversation(data: dict[str, Any], name: str) -> list[Message]:
    """Turns, of which only role and content are kept."""
    turns = required(data, name)
    if isinstance(turns, list):
        turns = [
            {key: turn[key] for key in ("role", "content") if key in turn} if isinstance(turn, dict) else turn
            for turn in turns
        ]
    messages = messages_of(turns, name)
    if not messages or messages[-1]["role"] != "assistant":
        found = messages[-1]["role"] if messages else _("none")
        raise BadRow(
            _("'%(name)s' must end with an assistant turn, found: %(found)s") % {"name": name, "found": found}
        )
    return messages
