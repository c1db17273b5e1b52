"""Open-Assistant's trees and messages, written by hand, and each refusal in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feedback.exchange.files import Container
from feedback.exchange.formats import Format
from feedback.exchange.rows import Judged, Row
from tests.feedback.reading import assistant, found_in, refusal, rows_of, user
from tests.feedback.rows_by_hand import node

# --- Open-Assistant ---------------------------------------------------------------------------------


def test_a_tree_is_a_row_for_each_turn_that_got_replies() -> None:
    tree = {
        "message_tree_id": "t",
        "tree_state": "ready_for_export",
        "prompt": node(
            "prompter",
            "P",
            node("assistant", "worse", rank=1),
            node("assistant", "best", node("prompter", "More?", node("assistant", "Yes")), rank=0),
            node("assistant", "gone", rank=2, deleted=True),
            node("assistant", "unranked", rank=None),
        ),
    }
    assert found_in(json.dumps(tree)) == (Format.TREES, Container.JSON_LINES)
    assert rows_of(json.dumps(tree) + "\n" + json.dumps(tree)) == [
        row._replace(line=line)
        for line in (1, 2)
        for row in (
            Row(
                0,
                [user("P")],
                "m-P",
                ("worse", "best", "unranked"),
                (Judged("ranking", (0, 1), ranking=((1,), (0,))),),
            ),
            Row(0, [user("P"), assistant("best"), user("More?")], "m-More?", ("Yes",), ()),
        )
    ]


def test_a_tree_without_replies_is_a_prompt() -> None:
    assert rows_of(json.dumps({"message_tree_id": "t", "prompt": node("prompter", "P")})) == [
        Row(1, [user("P")], "t")
    ]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (node("human", "P"), "turn 1: unknown role 'human' (wanted: prompter, assistant)"),
        (node("assistant", "P"), "turn 1: prompter and assistant must take turns, found assistant"),
        (
            node("prompter", "P", node("prompter", "Q")),
            "turn 2: prompter and assistant must take turns, found prompter",
        ),
        (node("prompter", "P", node("assistant", 5)), "'text' must be text, found a number"),
        (
            node("prompter", "P", node("assistant", "a", rank="x")),
            "'rank' must be a whole number, found text",
        ),
        (node("prompter", " ", node("assistant", "a")), "empty prompt"),
        ("P", "'prompt' must be an object, found text"),
    ],
)
def test_a_bad_tree_says_why(prompt: Any, expected: str) -> None:
    assert refusal({"message_tree_id": "t", "prompt": prompt}, Format.TREES) == f"Line 1: {expected}"
