"""The keys of judging and of deciding: what can be put on other keys, for which kinds, and its words."""

from __future__ import annotations

from typing import Any, NamedTuple

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy

from feedback.models import ComparisonKind

PAIRS, RANKINGS = ComparisonKind.PAIRWISE, ComparisonKind.RANKING
RATINGS, TEXTS = ComparisonKind.RATING, ComparisonKind.DEMONSTRATION
ORDERS = (PAIRS, RANKINGS, RATINGS)
EVERY = (*ORDERS, TEXTS)


class Action(NamedTuple):
    """Something that a key does; the keys are kept in each person's browser."""

    name: str
    key: str
    kinds: tuple[ComparisonKind, ...]
    label: str | Promise
    deciding: str | Promise = ""
    """On the page of a reviewer's decision; empty where there is nothing of the sort."""


def same(name: str, key: str, kind: ComparisonKind, label: str | Promise) -> Action:
    return Action(name, key, (kind,), label, label)


ACTIONS = [
    same("both", "g", PAIRS, gettext_lazy("Good enough: both; again to clear")),
    same("one", "o", PAIRS, gettext_lazy("Good enough: only the better one; again to clear")),
    same("neither", "n", PAIRS, gettext_lazy("Good enough: neither; again to clear")),
    same("both", "g", RANKINGS, gettext_lazy("Good enough: all; again to clear")),
    same("one", "o", RANKINGS, gettext_lazy("Good enough: only the best one; again to clear")),
    same("neither", "n", RANKINGS, gettext_lazy("Good enough: none; again to clear")),
    same("tie", "=", RANKINGS, gettext_lazy("The next number ties with the last")),
    Action("edit", "e", (PAIRS,), gettext_lazy("Improve the one you prefer")),
    Action("edit", "e", (RANKINGS,), gettext_lazy("Improve the best one")),
    Action("edit", "e", (RATINGS,), gettext_lazy("Improve the one that you are rating")),
    Action("edit", "e", (TEXTS,), gettext_lazy("Write")),
    Action("comment", "c", EVERY, gettext_lazy("Comment and flags"), gettext_lazy("Say why")),
    Action(
        "skip",
        "s",
        EVERY,
        gettext_lazy("Skip, then the number of the reason"),
        gettext_lazy("The next disagreement, this one undecided"),
    ),
    Action(
        "undo",
        "u",
        EVERY,
        gettext_lazy("Take the last one back; again for the one before"),
        gettext_lazy("Take the decision back"),
    ),
    Action("formatted", "m", EVERY, gettext_lazy("Texts with their formatting, or as they are")),
    Action("differences", "d", ORDERS, gettext_lazy("Mark the differences")),
    Action(
        "unfold",
        "x",
        ORDERS,
        gettext_lazy("Long texts whole, or folded"),
        gettext_lazy("Long texts whole, or folded"),
    ),
    Action("guidelines", "h", EVERY, gettext_lazy("Guidelines beside the work")),
]


def key_rows(*, deciding: bool = False) -> list[dict[str, Any]]:
    """The rows of the key sheet. Those that a page lacks are there too, hidden: their keys are taken."""
    return [
        {
            "name": action.name,
            "key": action.key,
            "label": action.deciding if deciding else action.label,
            "kinds": " ".join(action.kinds) if action.deciding or not deciding else "",
        }
        for action in ACTIONS
    ]
