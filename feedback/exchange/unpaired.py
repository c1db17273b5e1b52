"""One completion in a row: good or not (TRL's unpaired rows, for KTO), or shown for imitation (SFT)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.utils.translation import gettext as _

from feedback.exchange.rows import (
    Judged,
    Row,
    checked_prompt,
    completion_in,
    external_id_of,
    messages_of,
    prompt_in,
    required,
    yes_or_no,
)
from feedback.lines import BadRow
from feedback.models import Completion, Preference

COLUMNS = ("prompt", "completion", "label", "id")
DEMONSTRATION_COLUMNS = ("prompt", "completion", "messages", "id")
CRITERION = "good"
"""What a label rates: 5 for true, 1 for false."""
HIGHEST, MIDDLE, LOWEST = 5, 3, 1


def fits(data: dict[str, Any]) -> bool:
    return "completion" in data and "label" in data


def read(data: dict[str, Any], line: int) -> Row:
    completion = completion_in(required(data, "completion"), "completion")
    rating = HIGHEST if yes_or_no(data, "label") else LOWEST
    judged = Judged("rating", (0,), ratings=({CRITERION: rating},))
    return Row(line, prompt_in(data, "prompt"), external_id_of(data), (completion,), (judged,))


def write(preference: Preference) -> Iterator[dict[str, Any]]:
    for completion, label in labels(preference):
        yield {
            "prompt": preference.comparison.prompt.messages,
            "completion": [{"role": "assistant", "content": completion.text}],
            "label": label,
        }


def labels(preference: Preference) -> list[tuple[Completion, bool]]:
    """Good or not, of each completion of which the judgement says so.

    First what was said outright: both are good enough, neither is, a mean rating above or below the middle.
    Then what `pairs()` tells: whatever is only ever chosen is good, whatever is only ever rejected is not.
    Of a judgement that was overruled by an adjudication, its correction alone.
    """
    if preference.withdrawn:
        return []
    shown = [candidate.completion for candidate in preference.comparison.candidates.all()]
    said: dict[int, bool] = {}
    pairs = [pair for pair in preference.pairs() if not pair.tie]
    won, lost = {pair.chosen.pk for pair in pairs}, {pair.rejected.pk for pair in pairs}
    said.update(dict.fromkeys(won - lost, True) | dict.fromkeys(lost - won, False))
    for completion, given in zip(shown, [] if preference.overruled else preference.ratings, strict=False):
        mean = sum(given.values()) / len(given) if given else MIDDLE
        said.pop(completion.pk, None)
        if mean != MIDDLE:
            said[completion.pk] = mean > MIDDLE
    outright = (Preference.Acceptability.BOTH, Preference.Acceptability.NEITHER)
    if preference.acceptability in outright and not preference.overruled:
        good = preference.acceptability == Preference.Acceptability.BOTH
        said.update({completion.pk: good for completion in shown})
    everything = {completion.pk: completion for completion in (*shown, *preference.demonstrations())}
    return [(completion, said[pk]) for pk, completion in everything.items() if pk in said]


def fits_demonstration(data: dict[str, Any]) -> bool:
    turns = data.get("messages")
    last = turns[-1] if isinstance(turns, list) and turns else None
    return "completion" in data or (isinstance(last, dict) and last.get("role") == "assistant")


def read_demonstration(data: dict[str, Any], line: int) -> Row:
    """{"prompt", "completion"}, or {"messages"} that end with the turn to imitate."""
    if data.get("messages") is None:
        messages = prompt_in(data, "prompt")
        text = completion_in(required(data, "completion"), "completion")
    else:
        turns = messages_of(data["messages"], "messages")
        if not turns or turns[-1]["role"] != "assistant":
            found = turns[-1]["role"] if turns else _("none")
            raise BadRow(_("'messages' must end with an assistant turn, found: %s") % found)
        messages, text = checked_prompt(turns[:-1]), turns[-1]["content"]
    return Row(line, messages, external_id_of(data), (), (Judged("demonstration", (), written=text),))


def write_demonstration(preference: Preference) -> Iterator[dict[str, Any]]:
    for completion in preference.demonstrations():
        yield {
            "prompt": preference.comparison.prompt.messages,
            "completion": [{"role": "assistant", "content": completion.text}],
        }
