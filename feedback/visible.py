"""Text as a reader must see it: characters that hide or reorder others are replaced by a name in brackets.

Two completions that look alike must not differ unseen, and a right-to-left override must not rewrite a page
(CVE-2021-42574). The stored text is never touched; this is for display alone.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple

PLAIN_CONTROLS = frozenset("\n\t")
NAMES = {
    "\u00ad": "SOFT HYPHEN",
    "\u061c": "ALM",
    "\u200b": "ZERO WIDTH SPACE",
    "\u200c": "ZWNJ",
    "\u200d": "ZWJ",
    "\u200e": "LRM",
    "\u200f": "RLM",
    "\u202a": "LRE",
    "\u202b": "RLE",
    "\u202c": "PDF",
    "\u202d": "LRO",
    "\u202e": "RLO",
    "\u2060": "WORD JOINER",
    "\u2066": "LRI",
    "\u2067": "RLI",
    "\u2068": "FSI",
    "\u2069": "PDI",
    "\ufeff": "BOM",
}
BLANK_LETTERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Fillers and the blank Braille pattern: letters by category, nothing on the screen."""
JOINERS = frozenset("\u200c\u200d")


class Piece(NamedTuple):
    """A stretch of text as it is, or the name of one character that cannot be seen."""

    text: str
    hidden: bool


def pieces(text: str) -> list[Piece]:
    """The text cut at its invisible characters. "a\\u202eb" gives "a", RLO, "b"."""
    found: list[Piece] = []
    start = 0
    text = text.replace("\r\n", "\n")
    for index, character in enumerate(text):
        if not hides(text, index):
            continue
        if index > start:
            found.append(Piece(text[start:index], False))
        found.append(Piece(name_of(character), True))
        start = index + 1
    if start < len(text):
        found.append(Piece(text[start:], False))
    return found


def hides(text: str, index: int) -> bool:
    character = text[index]
    # Nearly all text: letters, digits, punctuation and plain spaces end here.
    if character.isprintable() and character not in BLANK_LETTERS:
        return False
    if character in PLAIN_CONTROLS or character in BLANK_LETTERS:
        return character in BLANK_LETTERS
    if character in JOINERS and joins(text, index):
        return False
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def joins(text: str, index: int) -> bool:
    """Whether a joiner does honest work: between letters of scripts that need it, or inside an emoji."""
    if not 0 < index < len(text) - 1:
        return False
    return all(ord(text[near]) > 0x2FF and text[near].isprintable() for near in (index - 1, index + 1))


def name_of(character: str) -> str:
    return NAMES.get(character) or f"U+{ord(character):04X}"
