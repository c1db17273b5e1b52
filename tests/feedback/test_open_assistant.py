"""Open-Assistant's trees and messages, written by hand, and each refusal in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from feedback.exchange import messages
from feedback.exchange.files import Container
from feedback.exchange.formats import Format
from feedback.exchange.rows import Judged, Row
from feedback.lines import BadRow
from tests.feedback.reading import assistant, found_in, refusal, rows_of, user
from tests.feedback.rows_by_hand import node

# --- trees ------------------------------------------------------------------------------------------


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


def test_a_tree_that_repeats_a_long_beginning_too_often_is_refused() -> None:
    replies = [node("prompter", f"and {n}?", node("assistant", "yes")) for n in range(40)]
    tree = node("prompter", "P", node("assistant", "well", *replies)) | {"text": "x" * 1024**2}
    expected = "Line 1: the conversations of the tree are too long together"
    assert refusal({"message_tree_id": "t", "prompt": tree}, Format.TREES) == expected
    tree["replies"][0]["replies"] = replies[:20]
    assert len(rows_of(json.dumps({"message_tree_id": "t", "prompt": tree}))) == 21


# --- messages, one on each line -----------------------------------------------------------------------


def message(name: str, parent: str | None, tree: str = "t", **facts: Any) -> dict[str, Any]:
    """As the published files hold it, of whose columns most say nothing here."""
    return {
        "message_id": f"m-{name}",
        **({"parent_id": f"m-{parent}"} if parent else {}),
        "user_id": "u",
        "created_date": "2023-02-06T13:50:44.657083+00:00",
        "text": name,
        "role": "assistant" if facts.get("rank") is not None else "prompter",
        "lang": "en",
        "review_count": 3,
        "deleted": False,
        "detoxify": {"toxicity": 0.0004},
        "message_tree_id": tree,
        "tree_state": "ready_for_export",
        "labels": {"spam": {"value": 0, "count": 3}},
        **facts,
    }


def lines(*values: dict[str, Any]) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)


FLAT = [
    message("P", None),
    message("worse", "P", rank=1),
    message("best", "P", rank=0),
    message("More?", "best"),
    message("Yes", "More?", rank=0),
    message("gone", "P", rank=2, deleted=True),
    message("unranked", "P", role="assistant", rank=None),
    message("Q", None, "t2"),
    message("R", None, "t3"),
    message("r", "R", "t3", rank=0),
]
OF_FLAT = [
    Row(
        1,
        [user("P")],
        "m-P",
        ("worse", "best", "unranked"),
        (Judged("ranking", (0, 1), ranking=((1,), (0,))),),
    ),
    Row(1, [user("P"), assistant("best"), user("More?")], "m-More?", ("Yes",), ()),
    Row(8, [user("Q")], "t2"),
    Row(9, [user("R")], "m-R", ("r",), ()),
]


def test_messages_are_put_together_to_their_trees() -> None:
    assert found_in(lines(*FLAT)) == (Format.MESSAGES, Container.JSON_LINES)
    assert rows_of(lines(*FLAT)) == OF_FLAT
    nulls = [{"parent_id": None, **value} for value in FLAT]
    assert rows_of(lines(*nulls)) == OF_FLAT
    array = json.dumps(nulls, indent=1)
    assert found_in(array) == (Format.MESSAGES, Container.ARRAY)
    assert rows_of(array) == OF_FLAT, "numbered like lines"


def test_replies_may_stand_before_what_they_answer() -> None:
    turned = [*FLAT[6::-1], *FLAT[7:]]
    (first, second, *rest) = rows_of(lines(*turned))
    assert first.completions == ("unranked", "best", "worse")
    assert [len(group) for group in first.judged[0].ranking] == [1, 1]
    assert [first.completions[group[0]] for group in first.judged[0].ranking] == ["best", "worse"]
    assert (second.completions, rest) == (("Yes",), OF_FLAT[2:])
    assert (first.line, second.line) == (7, 7), "where the tree's first message stands"


@pytest.mark.parametrize(
    ("row", "line", "expected"),
    [
        (message("a", "nobody", rank=0), 4,
         "'parent_id' m-nobody leads to no first message beside it: wanted tree 't' in one piece"),
        (message("a", "a", rank=0), 4,
         "'parent_id' m-a leads to no first message beside it: wanted tree 't' in one piece"),
        (message("P", None), 4, "message 'm-P' is there twice"),
        (message("Z", None), 4, "message 'm-Z' has no 'parent_id', but tree 't' has begun"),
        (message("a", "P", role="human"), 4,
         "'role': unknown 'human' (wanted: prompter, assistant)"),
        (message("a", "P", text=5), 4, "'text' must be text, found a number"),
        (message("a", "P", text=None), 4, "'text' missing"),
        (message("a", "P", message_id=None), 4, "'message_id' missing"),
        (message("a", "P", parent_id=[1]), 4, "'parent_id' must be text or a whole number, found a list"),
    ],
)  # fmt: skip
def test_a_bad_message_says_why_and_the_others_stay(row: dict[str, Any], line: int, expected: str) -> None:
    good = [message("P", None), message("x", "P", rank=0), message("y", "P", rank=1)]
    found = rows_of(lines(*good, row, message("Q", None, "t2")))
    bad = [one for one in found if not isinstance(one, Row)]
    assert [str(one) for one in bad] == [f"Line {line}: {expected}"]
    rest = [one for one in found if isinstance(one, Row)]
    assert [(one.line, one.completions) for one in rest] == [(1, ("x", "y")), (5, ())]


def test_a_conversation_is_read_whole_or_refused() -> None:
    def chain(length: int) -> str:
        turns = range(length)
        return lines(
            *(message(f"m{n}", f"m{n - 1}" if n else None, rank=0 if n % 2 else None) for n in turns)
        )

    rows = rows_of(chain(100))
    assert [len(row.messages) for row in rows] == list(range(1, 100, 2))
    (bad,) = rows_of(chain(101))
    assert str(bad) == "Line 1: over 100 turns, one below the other"


def test_a_tree_in_pieces_says_so_at_its_second_piece() -> None:
    parts = [
        message("P", None),
        message("a", "P", rank=0),
        message("Q", None, "t2"),
        message("b", "P", rank=1),
    ]
    first, second, bad = rows_of(lines(*parts))
    assert (first.completions, second.messages) == (("a",), [user("Q")])
    wanted = "'parent_id' m-P leads to no first message beside it: wanted tree 't' in one piece"
    assert str(bad) == f"Line 4: {wanted}"


def test_what_is_wrong_with_a_tree_stands_at_its_first_message() -> None:
    found = rows_of(lines(FLAT[7], message("P", None), message("x", "P"), FLAT[8]))
    assert [str(one) for one in found if not isinstance(one, Row)] == [
        "Line 2: turn 2: prompter and assistant must take turns, found prompter"
    ]
    array = json.dumps([FLAT[7], message("P", None), message("x", "P"), FLAT[8]])
    (bad,) = (one for one in rows_of(array) if not isinstance(one, Row))
    assert str(bad) == "Line 1: object 2: turn 2: prompter and assistant must take turns, found prompter"


def test_a_broken_line_among_messages_is_one_bad_row() -> None:
    first, bad = (
        [one for one in rows_of(lines(*FLAT[:2]) + "{\n" + lines(FLAT[2])) if isinstance(one, kind)]
        for kind in (Row, BadRow)
    )
    assert [row.completions for row in first] == [("worse", "best")]
    assert [one.line for one in bad] == [3]


def test_a_tree_too_large_to_hold_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MAX_MESSAGES", 2)
    found = rows_of(lines(*FLAT[:3], FLAT[7]))
    assert [str(one) for one in found if isinstance(one, BadRow)] == ["Line 3: tree 't' is too large"]
    monkeypatch.setattr(messages, "MAX_MESSAGES", 10)
    long = [
        message("P", None),
        *(message(f"{n}", "P", rank=n, text="x" * 1024**2 + str(n)) for n in range(5)),
    ]
    bad = [str(one) for one in rows_of(lines(*long)) if isinstance(one, BadRow)]
    assert bad == ["Line 5: tree 't' is too large", "Line 6: tree 't' is too large"]
