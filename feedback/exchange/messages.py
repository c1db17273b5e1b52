"""Open-Assistant's flat files: a message on each line, the messages of a tree one after another.

They are put together again to the trees that `feedback.exchange.trees` reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from django.utils.translation import gettext as _

from feedback.exchange.files import At, Objects
from feedback.exchange.rows import external_id_of, one_of, text_in
from feedback.exchange.trees import ROLE_OF
from feedback.lines import MAX_LINE_BYTES, BadRow

MAX_MESSAGES = 10_000
"""Of a tree; and its texts may be as long as a line."""


class Message(NamedTuple):
    data: dict[str, Any]
    parent: str
    at: At


def fits(data: dict[str, Any]) -> bool:
    return {"message_id", "message_tree_id", "role", "text"} <= data.keys() and "prompt" not in data


class Trees:
    """The trees of a file of messages; a BadRow for each message that is none or hangs on none."""

    def __init__(self, found: Objects, prepare: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        self.found, self.prepare = found, prepare
        self.at = At(0, 0)
        self.tree_id, self.characters = "", 0
        self.messages: dict[str, Message] = {}
        self.ready: deque[tuple[dict[str, Any] | BadRow, At]] = deque()
        self.ended = False

    @property
    def number(self) -> int:
        return self.at.number

    def __next__(self) -> dict[str, Any]:
        while not self.ready:
            if self.ended:
                raise StopIteration
            self.read_on()
        value, self.at = self.ready.popleft()
        if isinstance(value, BadRow):
            raise value
        return value

    def place(self, bad: BadRow, at: At | None = None) -> BadRow:
        return self.found.place(bad, at or self.at)

    def read_on(self) -> None:
        """Take one message, and a tree is ready when the message belongs to the next one."""
        try:
            data = self.prepare(next(self.found))
            message_id, tree_id = (text_in(data, name) for name in ("message_id", "message_tree_id"))
            if tree_id != self.tree_id:
                self.close()
                self.tree_id = tree_id
            self.add(message_id, data)
        except StopIteration:
            self.ended = True
            self.close()
        except BadRow as bad:
            self.ready.append((bad, self.found.at))

    def add(self, message_id: str, data: dict[str, Any]) -> None:
        parent = external_id_of(data, "parent_id")
        one_of(data, "role", ROLE_OF)
        self.characters += len(text_in(data, "text"))
        if message_id in self.messages:
            raise BadRow(_("message '%s' is there twice") % message_id[:80])
        if len(self.messages) == MAX_MESSAGES or self.characters > MAX_LINE_BYTES:
            raise BadRow(_("tree '%s' is too large") % self.tree_id[:80])
        self.messages[message_id] = Message({**data, "replies": []}, parent, self.found.at)

    def close(self) -> None:
        """Put the tree together; what does not hang on its first message is no part of it."""
        roots = [message for message in self.messages.values() if not message.parent]
        for message in self.messages.values():
            if above := self.messages.get(message.parent):
                above.data["replies"].append(message.data)
        reached = reached_from(roots[0].data) if roots else set()
        for message_id, message in self.messages.items():
            if id(message.data) not in reached:
                self.ready.append((BadRow(lost(message_id, message, self.tree_id)), message.at))
        if roots:
            tree = {"message_tree_id": self.tree_id, "prompt": roots[0].data}
            self.ready.append((tree, roots[0].at))
        self.messages, self.characters = {}, 0


def reached_from(root: dict[str, Any]) -> set[int]:
    """The identities of a message and all below it."""
    left, found = [root], set()
    while left:
        data = left.pop()
        found.add(id(data))
        left += data["replies"]
    return found


def lost(message_id: str, message: Message, tree_id: str) -> str:
    facts = {"message": message_id[:80], "parent": message.parent[:80], "tree": tree_id[:80]}
    if not message.parent:
        return _("message '%(message)s' has no 'parent_id', but tree '%(tree)s' has begun") % facts
    return (
        _("'parent_id' %(parent)s leads to no first message beside it: wanted tree '%(tree)s' in one piece")
        % facts
    )
