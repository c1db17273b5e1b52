"""Messages and the one way to write a value down, so that equal things hash alike. Needs no Django."""

from __future__ import annotations

import hashlib
import json
from typing import Literal, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, so that equal values hash alike."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha256_text(text: str) -> str:
    """Hex digest of the UTF-8 bytes; lone surrogates (which no importer lets in) would raise."""
    return hashlib.sha256(text.encode()).hexdigest()
