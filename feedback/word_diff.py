"""Which words two texts share: text in, runs of words out, no Django."""

from __future__ import annotations

import difflib
import re
from typing import NamedTuple

TOKEN = re.compile(r"\s+|\w+|[^\w\s]")
LONGEST = 6000
"""Tokens of both texts together; comparing takes time by their product, so longer texts are not compared."""


class Part(NamedTuple):
    """A run of words: `kept` stands in both texts, the others in one of them."""

    text: str
    kept: bool


def word_diff(old: str, new: str) -> tuple[list[Part], list[Part]]:
    """Both texts cut into shared and own parts; joined, the parts of a text give it back unchanged."""
    first, second = TOKEN.findall(old), TOKEN.findall(new)
    if len(first) + len(second) > LONGEST:
        return [Part(old, True)], [Part(new, True)]
    ours: list[Part] = []
    theirs: list[Part] = []
    matcher = difflib.SequenceMatcher(None, first, second, autojunk=False)
    for operation, i1, i2, j1, j2 in matcher.get_opcodes():
        kept = operation == "equal"
        if i2 > i1:
            ours.append(Part("".join(first[i1:i2]), kept))
        if j2 > j1:
            theirs.append(Part("".join(second[j1:j2]), kept))
    return _joined(ours), _joined(theirs)


def _joined(parts: list[Part]) -> list[Part]:
    """A lone space that happens to be shared between two changed words is part of the change."""
    joined: list[Part] = []
    for index, part in enumerate(parts):
        between = 0 < index < len(parts) - 1 and not parts[index - 1].kept and not parts[index + 1].kept
        if part.kept and part.text.isspace() and between:
            part = Part(part.text, False)
        if joined and joined[-1].kept == part.kept:
            part = Part(joined.pop().text + part.text, part.kept)
        joined.append(part)
    return joined
