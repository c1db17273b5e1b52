"""Messages and the one way to write a value down, so that equal things hash alike. Needs no Django."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


CANONICAL = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"))
PLAIN = json.JSONEncoder(ensure_ascii=False)


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, so that equal values hash alike."""
    return CANONICAL.encode(value)


def plain_json(value: object) -> str:
    """As JSON, keys in their own order."""
    return PLAIN.encode(value)


def sha256_text(text: str) -> str:
    """Hex digest of the UTF-8 bytes; lone surrogates (which no importer lets in) would raise."""
    return hashlib.sha256(text.encode()).hexdigest()
