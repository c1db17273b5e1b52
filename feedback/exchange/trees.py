"""Open-Assistant: conversation trees, in which people ranked the replies to a turn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from django.utils.translation import gettext as _

from feedback.exchange.rows import (
    Judged,
    Row,
    different,
    external_id_of,
    optional_list,
    required,
    text_in,
    whole_number,
    wrong_type,
)
from feedback.lines import BadRow
from feedback.texts import Message

ROLE_OF = {"prompter": "user", "assistant": "assistant"}
MAX_TURNS = 100
MAX_CHARACTERS = 32 * 1024**2
"""Of all prompts of a tree: every reply repeats what stands above it, so a small file could say very much."""


def fits(data: dict[str, Any]) -> bool:
    return "message_tree_id" in data and "prompt" in data


def read(tree: dict[str, Any], line: int) -> list[Row]:
    """A row for each turn of a person that got replies; every row of a tree stands on the tree's line."""
    root = required(tree, "prompt")
    rows = list(below(root, [], line, external_id_of(tree, "message_tree_id")))
    if sum(len(turn["content"]) for row in rows for turn in row.messages) > MAX_CHARACTERS:
        raise BadRow(_("the conversations of the tree are too long together"))
    if not rows:
        # A prompt nobody replied to is a prompt all the same.
        rows = [Row(line, turns_to(root, []), external_id_of(tree, "message_tree_id"))]
    return rows


def turns_to(node: object, before: list[Message]) -> list[Message]:
    if not isinstance(node, dict):
        raise wrong_type("prompt", _("an object"), node)
    role = required(node, "role")
    if not isinstance(role, str) or role not in ROLE_OF:
        facts = {"number": len(before) + 1, "role": repr(role)[:80]}
        raise BadRow(_("turn %(number)d: unknown role %(role)s (wanted: prompter, assistant)") % facts)
    if role != ("assistant" if len(before) % 2 else "prompter"):
        facts = {"number": len(before) + 1, "role": role}
        raise BadRow(_("turn %(number)d: prompter and assistant must take turns, found %(role)s") % facts)
    return [*before, cast(Message, {"role": ROLE_OF[role], "content": text_in(node, "text")})]


def below(node: object, before: list[Message], line: int, tree_id: str) -> Iterator[Row]:
    messages = turns_to(node, before)
    data = cast(dict[str, Any], node)
    replies = [
        reply
        for reply in optional_list(data, "replies")
        if not (isinstance(reply, dict) and reply.get("deleted"))
    ]
    if messages[-1]["role"] == "user" and replies:
        if not messages[-1]["content"].strip():
            raise BadRow(_("empty prompt"))
        texts = tuple(turns_to(reply, messages)[-1]["content"] for reply in replies)
        yield Row(line, messages, external_id_of(data, "message_id") or tree_id, *ranked(replies, texts))
    if replies and len(messages) == MAX_TURNS:
        raise BadRow(_("over %d turns, one below the other") % MAX_TURNS)
    for reply in replies:
        yield from below(reply, messages, line, tree_id)


def ranked(
    replies: list[dict[str, Any]], texts: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[Judged, ...]]:
    """The different replies, and the ranking of those with a rank, 0 the best. The same text counts once."""
    ranks: dict[str, int | None] = {}
    for reply, text in zip(replies, texts, strict=True):
        rank = reply.get("rank")
        ranks.setdefault(text, None if rank is None else whole_number(reply, "rank", 0, 10_000))
    completions = different(ranks, "replies")
    places = {place: ranks[text] for place, text in enumerate(completions) if ranks[text] is not None}
    if len(places) < 2:
        return completions, ()
    values = sorted({rank for rank in places.values() if rank is not None})
    groups = tuple(tuple(place for place, rank in places.items() if rank == value) for value in values)
    return completions, (Judged("ranking", tuple(places), ranking=groups),)
