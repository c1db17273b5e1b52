"""Rows as other tools write them: for tests of formats."""

from __future__ import annotations

from typing import Any


def completions(**columns: Any) -> dict[str, Any]:
    return {"prompt": "p", "completions": ["a", "b"], **columns}


def task(*regions: dict[str, Any], data: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    shown = data or {"prompt": "P", "answer1": "X", "answer2": "Y"}
    return {"id": 7, "data": shown, "annotations": [{"result": list(regions), **annotation}]}


def region(kind: str, value: Any, name: str = "pw", to: str = "pw") -> dict[str, Any]:
    return {"from_name": name, "to_name": to, "type": kind, "value": value}


RANKING = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]


def node(role: str, text: str, *replies: Any, **facts: Any) -> dict[str, Any]:
    return {"message_id": f"m-{text}", "role": role, "text": text, "replies": list(replies), **facts}


def battle(winner: str, **columns: Any) -> dict[str, Any]:
    sides = {
        f"conversation_{side}": [
            {"role": "user", "content": "P", "num_tokens": 1},
            {"role": "assistant", "content": side},
        ]
        for side in ("a", "b")
    }
    names = {"question_id": "q", "model_a": "m1", "model_b": "m2", "winner": winner, "judge": "arena_user_1"}
    return {**names, **sides, "turn": 1, "anony": True, "language": "en", "tstamp": 1.7e9, **columns}
