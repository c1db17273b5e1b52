"""Files out: the preferences in force as rows that TRL reads."""

from __future__ import annotations

import json
from collections.abc import Iterator

from feedback.models import Message, Pair, Preference, Project

CHUNK_ROWS = 200


def current_preferences(
    project: Project, *, purposes: tuple[str, ...], include_simulated: bool, include_imported: bool
) -> Iterator[list[Preference]]:
    """Judgements in force at this moment, oldest first, in chunks with all that `pairs()` reads.

    One query fixes which rows these are, and rows never change: judging may go on while the file is sent.
    """
    rows = Preference.objects.filter(comparison__project=project, comparison__purpose__in=purposes).current()
    if not include_simulated:
        rows = rows.filter(simulated=False)
    if not include_imported:
        rows = rows.filter(imported=False)
    ids = list(rows.order_by("pk").values_list("pk", flat=True))
    whole = Preference.objects.select_related("comparison__prompt")
    whole = whole.prefetch_related("comparison__candidates__completion")
    for start in range(0, len(ids), CHUNK_ROWS):
        found = whole.in_bulk(ids[start : start + CHUNK_ROWS])
        yield [found[pk] for pk in ids[start : start + CHUNK_ROWS]]


def trl_row(prompt: list[Message], pair: Pair) -> str:
    """A line of TRL's conversational format with the prompt in a column of its own, and the margin."""
    row = {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": pair.chosen.text}],
        "rejected": [{"role": "assistant", "content": pair.rejected.text}],
        "margin": pair.margin,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


def export_trl(
    project: Project,
    *,
    purposes: tuple[str, ...] = ("training",),
    include_simulated: bool = True,
    include_imported: bool = True,
) -> Iterator[str]:
    """Lines of a TRL preference file, up to 200 in each string. Ties have no chosen side and are left out."""
    chunks = current_preferences(
        project, purposes=purposes, include_simulated=include_simulated, include_imported=include_imported
    )
    for chunk in chunks:
        lines = [
            trl_row(preference.comparison.prompt.messages, pair)
            for preference in chunk
            for pair in preference.pairs()
            if not pair.tie
        ]
        if lines:
            yield "".join(lines)
