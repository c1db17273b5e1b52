"""Formats of other tools: rows written by hand as those tools write them, and each refusal in its words."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.exchange.formats import Format
from feedback.exchange.rows import Judged, Row
from tests.feedback.reading import assistant, one, refusal, user
from tests.feedback.rows_by_hand import RANKING, battle, completions

# --- one completion in a row ------------------------------------------------------------------------


@pytest.mark.parametrize(("label", "rating"), [(True, 5), (False, 1)])
def test_an_unpaired_label_is_a_rating(label: bool, rating: int) -> None:
    row = one({"prompt": "Sky?", "completion": " Blue.", "label": label}, Format.UNPAIRED)
    assert row == Row(
        1, [user("Sky?")], "", (" Blue.",), (Judged("rating", (0,), ratings=({"good": rating},)),)
    )
    turns = {"prompt": [user("Sky?")], "completion": [assistant(" Blue.")], "label": label}
    assert one(turns, Format.UNPAIRED) == row


def test_what_is_to_be_imitated_is_a_demonstration() -> None:
    expected = Row(1, [user("Sky?")], "", (), (Judged("demonstration", (), written="Blue."),))
    assert one({"prompt": "Sky?", "completion": "Blue."}, Format.DEMONSTRATIONS) == expected
    assert one({"messages": [user("Sky?"), assistant("Blue.")]}, Format.DEMONSTRATIONS) == expected
    assert one({"messages": [user("Sky?")]}, Format.PROMPTS).judged == ()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"prompt": "a", "completion": "b", "label": "yes"},
            "Line 1: 'label' must be true or false, found text",
        ),
        ({"prompt": "a", "completion": "b", "label": None}, "Line 1: 'label' missing"),
        ({"prompt": "a", "label": True}, "Line 1: 'completion' missing"),
        (
            {"prompt": "a", "completion": 3, "label": True},
            "Line 1: 'completion' must be a list of turns, found a number",
        ),
        (
            {"prompt": "a", "completion": [user("b")], "label": True},
            "Line 1: 'completion' must hold one assistant turn after the prompt, found: user",
        ),
    ],
)
def test_a_bad_unpaired_row_says_why(row: dict[str, Any], expected: str) -> None:
    assert refusal(row, Format.UNPAIRED) == expected


# --- prompts with completions -----------------------------------------------------------------------


def test_completions_alone_ask_for_nothing() -> None:
    row = one({"prompt": "p", "completions": ["a", [assistant("b")]], "id": 7}, Format.COMPLETIONS)
    assert row == Row(1, [user("p")], "7", ("a", "b"), ())


def test_completions_with_everything_that_can_be_said_of_them() -> None:
    row = one(
        {
            "messages": [user("p")],
            "completions": ["a", "b", "c"],
            "preferences": [
                {"chosen": 2, "rejected": 0, "strength": 3},
                {"tie": [0, 1]},
                {"chosen": 1, "rejected": 2},
            ],
            "ranking": [[2], [0, 1]],
            "ratings": [{"helpful": 1}, {"helpful": 1}, {"helpful": 5}],
            "corrections": [{"of": 0, "text": "A!"}],
        },
        Format.COMPLETIONS,
    )
    assert row.judged == (
        Judged("pairwise", (2, 0), strength=-3),
        Judged("pairwise", (0, 1), strength=0),
        Judged("pairwise", (1, 2), strength=-2),
        Judged("ranking", (0, 1, 2), ranking=((2,), (0, 1))),
        Judged("rating", (0, 1, 2), ratings=({"helpful": 1}, {"helpful": 1}, {"helpful": 5})),
        Judged("rating", (0,), written="A!", corrects=0),
    )


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (completions(completions="a"), "'completions' must be a list, found text"),
        (completions(completions=[]), "'completions' is empty"),
        (completions(completions=["a", "b", "a"]), "'completions': completions 1 and 3 are identical"),
        (
            completions(completions=[str(n) for n in range(65)]),
            "'completions': 65 completions, at most 64 are read",
        ),
        (completions(preferences=[{"chosen": 0, "rejected": 2}]), "'rejected' must be from 0 to 1, found 2"),
        (completions(preferences=[{"chosen": 0}]), "'rejected' missing"),
        (completions(preferences=[{"chosen": 1, "rejected": 1}]), "chosen and rejected are identical"),
        (
            completions(preferences=[{"chosen": 0, "rejected": 1, "strength": 4}]),
            "'strength' must be from 1 to 3, found 4",
        ),
        (completions(preferences=[{"tie": [0]}]), "'tie' must name 2 completions, found 1"),
        (completions(preferences=[7]), "'preferences' must be a list of objects, found a number"),
        (
            completions(preferences=[{"winner": 1}]),
            "'preferences': unknown key 'winner' (wanted: chosen, rejected, strength, tie)",
        ),
        (completions(ranking=[0]), "'ranking' must hold each number from 0 to 1 once, found [0]"),
        (
            completions(ranking=[[0, 1], [1]]),
            "'ranking' must hold each number from 0 to 1 once, found [[0, 1], [1]]",
        ),
        (completions(ranking=[True, 0]), "'ranking' must hold each number from 0 to 1 once, found [True, 0]"),
        (
            completions(ratings=[{"helpful": 3}]),
            "'ratings' must hold an object for each of the 2 completions, found 1",
        ),
        (completions(ratings=[{"helpful": 3}, {"helpful": 6}]), "'helpful' must be from 1 to 5, found 6"),
        (
            completions(ratings=[{"helpful": 3}, {"helpful": 2.5}]),
            "'helpful' must be a whole number, found a number",
        ),
        (completions(corrections=[{"of": 0, "text": "a"}]), "the correction is identical with completion 0"),
        (
            completions(score=1),
            "unknown column 'score' (wanted: prompt, messages, id, completions, preferences, ranking, "
            "ratings, corrections)",
        ),
    ],
)
def test_a_bad_set_of_completions_says_why(row: dict[str, Any], expected: str) -> None:
    assert refusal(row, Format.COMPLETIONS) == f"Line 1: {expected}"


# --- Argilla ----------------------------------------------------------------------------------------

TIE = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 1}]


def test_argilla_rows_of_a_hub_and_of_the_library_say_the_same() -> None:
    flat = {
        "id": "r1",
        "status": "completed",
        "instruction": "P",
        "response-1": "X",
        "response-2": "Y",
        "order.responses": [RANKING, TIE, RANKING],
        "order.responses.users": ["u1", "u2", "u3"],
        "order.responses.status": ["submitted", "submitted", "discarded"],
        "order.suggestion": None,
    }
    nested = {
        "id": "r1",
        "fields": {"instruction": "P", "response-1": "X", "response-2": "Y"},
        "responses": {"order": [{"value": RANKING, "user_id": "u1"}, {"value": TIE, "user_id": "u2"}]},
        "suggestions": {},
    }
    expected = (
        Judged("ranking", (0, 1), ranking=((1,), (0,)), by="u1"),
        Judged("ranking", (0, 1), ranking=((1, 0),), by="u2"),
    )
    assert one(flat, Format.ARGILLA) == Row(1, [user("P")], "r1", ("X", "Y"), expected)
    assert one(nested, Format.ARGILLA) == one(flat, Format.ARGILLA)


def test_argilla_labels_that_name_a_field_and_chat_fields() -> None:
    record = {
        "prompt": [{"role": "user", "content": "P", "tool": None}],
        "response_1": "X",
        "response_2": "Y",
        "better.responses": ["Response 2", "tie", "unclear"],
    }
    row = one(record, Format.ARGILLA)
    assert row.messages == [user("P")]
    assert [judged.strength for judged in row.judged] == [2, 0]  # another question's answer says nothing


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            {"response-1": "X", "q.responses": []},
            "none of the fields messages, prompt, instruction, question, input, text, context",
        ),
        (
            {"prompt": "P", "q.responses": []},
            "no field with a completion, such as response-1 (found: prompt, q.responses)",
        ),
        (
            {
                "prompt": "P",
                "response-1": "X",
                "response-2": "Y",
                "q.responses": [RANKING],
                "q.responses.users": ["a", "b"],
            },
            "'q.responses': users and status must be as many as responses",
        ),
        (
            {"prompt": "P", "response-1": "X", "response-2": "Y", "q.responses": [RANKING[:1]]},
            "a ranking must hold each completion once, found [{'value': 'response-2', 'rank': 1}]",
        ),
    ],
)
def test_a_bad_argilla_record_says_why(row: dict[str, Any], expected: str) -> None:
    assert refusal(row, Format.ARGILLA) == f"Line 1: {expected}"


# --- battles ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("winner", "strength", "acceptability"),
    [
        ("model_a", -2, ""),
        ("model_b", 2, ""),
        ("tie", 0, ""),
        ("tie (bothbad)", 0, "neither"),
        ("both_bad", 0, "neither"),
    ],
)
def test_battles_with_ties_and_both_bad(winner: str, strength: int, acceptability: str) -> None:
    judged = Judged("pairwise", (0, 1), strength=strength, acceptability=acceptability, by="arena_user_1")
    assert one(battle(winner), Format.BATTLES) == Row(1, [user("P")], "q", ("a", "b"), (judged,))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        # Other tools take an unknown word for a tie without saying so.
        (
            battle("bothbad"),
            "'winner': unknown 'bothbad' (wanted: model_a, model_b, tie, tie (bothbad), both_bad)",
        ),
        (
            battle("tie", conversation_b=[user("Q"), assistant("b")]),
            "the conversations part at turn 1: wanted the same turns before the last",
        ),
        (
            battle("tie", conversation_b=[user("P")]),
            "'conversation_b' must end with an assistant turn, found: user",
        ),
        (
            battle("tie", conversation_b=[user("P"), assistant("a")]),
            "'conversation': completions 1 and 2 are identical",
        ),
    ],
)
def test_a_bad_battle_says_why(row: dict[str, Any], expected: str) -> None:
    assert refusal(row, Format.BATTLES) == f"Line 1: {expected}"
