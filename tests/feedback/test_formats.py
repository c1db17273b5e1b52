"""Formats of other tools: rows written by hand as those tools write them, and each refusal in its words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from feedback.exchange.files import Container
from feedback.exchange.formats import Format
from feedback.exchange.rows import Judged, Row
from feedback.lines import BadRow
from tests.feedback.reading import assistant, found_in, one, refusal, rows_of, user

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


def completions(**columns: Any) -> dict[str, Any]:
    return {"prompt": "p", "completions": ["a", "b"], **columns}


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


# --- Label Studio -----------------------------------------------------------------------------------


def task(*regions: dict[str, Any], data: dict[str, Any] | None = None, **annotation: Any) -> dict[str, Any]:
    shown = data or {"prompt": "P", "answer1": "X", "answer2": "Y"}
    return {"id": 7, "data": shown, "annotations": [{"result": list(regions), **annotation}]}


def region(kind: str, value: Any, name: str = "pw", to: str = "pw") -> dict[str, Any]:
    return {"from_name": name, "to_name": to, "type": kind, "value": value}


def test_label_studio_pairs() -> None:
    left = task(region("pairwise", {"selected": "left"}), completed_by=3, lead_time=21.4, was_cancelled=False)
    expected = Judged("pairwise", (0, 1), strength=-2, by="3", active_ms=21400)
    assert one(left, Format.LABEL_STUDIO) == Row(1, [user("P")], "7", ("X", "Y"), (expected,))
    # The tag is the target in some versions, one of the texts in others; columns have any name.
    other = {"question": "P", "first": "X", "second": "Y"}
    right = task(region("pairwise", {"selected": "right"}, to="txt-1"), data=other)
    assert one(right, Format.LABEL_STUDIO).judged == (Judged("pairwise", (0, 1), strength=2),)
    assert one(right, Format.LABEL_STUDIO).completions == ("X", "Y")


def test_label_studio_ties_stand_beside_an_empty_pair() -> None:
    for choice, acceptability in (("tie", ""), ("both_bad", "neither"), ("both_good", "both")):
        row = one(task(region("choices", {"choices": [choice]})), Format.LABEL_STUDIO)
        assert row.judged == (Judged("pairwise", (0, 1), strength=0, acceptability=acceptability),)
    assert one(task(region("pairwise", {})), Format.LABEL_STUDIO).judged == ()


def test_label_studio_cancelled_annotations_and_tasks_without_any_say_nothing() -> None:
    cancelled = task(region("pairwise", {"selected": "left"}), was_cancelled=True)
    assert one(cancelled, Format.LABEL_STUDIO).judged == ()
    assert one({"data": {"prompt": "P", "answer1": "X", "answer2": "Y"}}, Format.LABEL_STUDIO).judged == ()


ITEMS = {"prompt": "P", "items": [{"id": name, "body": name.upper()} for name in ("a", "b", "c")]}


@pytest.mark.parametrize(
    ("ranker", "groups"),
    [
        (["c", "a", "b"], ((2,), (0,), (1,))),
        ({"best": ["b"], "_": ["a", "c"]}, ((1,), (0, 2))),
        ({"best": ["b", "c", "a"]}, ((1,), (2,), (0,))),
        ({"2": ["a", "b"], "1": ["c"]}, ((2,), (0, 1))),
    ],
)
def test_label_studio_rankings(ranker: Any, groups: Any) -> None:
    row = one(task(region("ranker", {"ranker": ranker}), data=ITEMS), Format.LABEL_STUDIO)
    assert row.completions == ("A", "B", "C")
    assert row.judged == (Judged("ranking", (0, 1, 2), ranking=groups),)


def test_label_studio_ratings_and_a_correction() -> None:
    row = one(
        task(
            region("rating", {"rating": 4}, "helpful", "a"),
            region("rating", {"rating": 2}, "helpful", "b"),
            region("textarea", {"text": ["better b"]}, "written", "b"),
            region("textarea", {"text": ["because"]}, "comment", "prompt"),
            data=ITEMS,
        ),
        Format.LABEL_STUDIO,
    )
    (judged,) = row.judged
    assert judged.ratings == ({"helpful": 4}, {"helpful": 2}, {})
    assert (judged.written, judged.corrects, judged.comment) == ("better b", 1, "because")


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"data": [1], "annotations": []}, "'data' must be an object, found a list"),
        (
            task(data={"answer1": "X", "answer2": "Y"}),
            "none of the columns messages, prompt, question, instruction, text in 'data'",
        ),
        (
            task(data={"prompt": "P", "answer1": "X"}),
            "which columns are the two completions? Wanted answer1 and answer2, found: answer1",
        ),
        (
            task(data={"prompt": "P", "answer1": "X", "answer2": "X"}),
            "'data': completions 1 and 2 are identical",
        ),
        (task(data={"prompt": "P", "items": [{"id": 1}]}), "'items' must be objects with 'id' and 'body'"),
        (
            task(region("ranker", {"ranker": {"good": ["a"], "bad": ["b"]}}), data=ITEMS),
            "'ranker': wanted one bucket, or buckets named 1, 2, ... by rank, found: good, bad",
        ),
        (
            task(region("ranker", {"ranker": ["a", "z"]}), data=ITEMS),
            "'ranker': 'z' is not an item, or stands there twice",
        ),
        (
            task(region("rating", {"rating": 9}, "helpful", "a"), data=ITEMS),
            "'rating' must be from 1 to 5, found 9",
        ),
    ],
)
def test_a_bad_label_studio_task_says_why(row: dict[str, Any], expected: str) -> None:
    assert refusal(row, Format.LABEL_STUDIO) == f"Line 1: {expected}"


# --- Argilla ----------------------------------------------------------------------------------------

RANKING = [{"value": "response-2", "rank": 1}, {"value": "response-1", "rank": 2}]
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


# --- Open-Assistant ---------------------------------------------------------------------------------


def node(role: str, text: str, *replies: Any, **facts: Any) -> dict[str, Any]:
    return {"message_id": f"m-{text}", "role": role, "text": text, "replies": list(replies), **facts}


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


# --- battles ----------------------------------------------------------------------------------------


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
    judged = Judged("pairwise", (0, 1), strength=strength, acceptability=acceptability)
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


# --- odd values ---------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.dictionaries(st.text(max_size=8), json_values, max_size=4), max_size=5),
    st.sampled_from(list(Format)),
)
def test_any_objects_give_rows_or_reasons(values: list[dict[str, Any]], format: str) -> None:
    """Whatever another tool writes: never a traceback."""
    content = "".join(json.dumps(value, ensure_ascii=True) + "\n" for value in values)
    rows = rows_of(content, format=format)
    assert all(isinstance(row, Row | BadRow) for row in rows)
    assert len(rows) >= len(values)


words = st.sampled_from(["left", "model_a", "tie", "P", "", "response-1", "pairwise", "training"])
odd = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 9) | words,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "value",
                    "rank",
                    "result",
                    "selected",
                    "ranker",
                    "rating",
                    "choices",
                    "text",
                    "role",
                    "content",
                    "prompt",
                ]
                + [
                    "answer1",
                    "answer2",
                    "items",
                    "replies",
                    "chosen",
                    "rejected",
                    "tie",
                    "of",
                    "completed_by",
                    "lead_time",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


WHOLE: dict[str, dict[str, Any]] = {
    Format.LABEL_STUDIO: task(
        region("pairwise", {"selected": "left", "choices": ["tie"], "text": ["x"], "rating": 2}),
        completed_by=1,
    ),
    Format.ARGILLA: {
        "prompt": "P",
        "response-1": "X",
        "response-2": "Y",
        "q.responses": [RANKING],
        "q.responses.users": ["u"],
        "q.responses.status": ["submitted"],
    },
    Format.TREES: {"message_tree_id": "t", "prompt": node("prompter", "P", node("assistant", "a", rank=0))},
    Format.BATTLES: battle("tie"),
    Format.JUDGEMENTS: {
        "judgement": 1,
        "project": "p",
        "comparison": 2,
        "purpose": "gold",
        "gold_answer": {"strength": 1},
        "kind": "pairwise",
        "prompt": {"id": 1, "external_id": "x"},
        "messages": [user("P")],
        "candidates": [{"text": "a"}, {"text": "b"}],
        "strength": 2,
        "written": {"text": "A"},
        "corrects": 0,
        "flags": ["unsafe"],
        "comment": "c",
        "shown_order": [1, 0],
        "annotator": "x",
        "judged_at": "2026-01-31T12:00:00+00:00",
        "active_ms": 5,
        "in_force": True,
    },
    Format.COMPLETIONS: completions(
        preferences=[{"chosen": 0, "rejected": 1}], ranking=[[0], [1]], corrections=[{"of": 0, "text": "x"}]
    ),
}


def spoiled(value: Any, data: st.DataObject) -> Any:
    """The value with one thing in it, at any depth, replaced by something else or left out."""
    if isinstance(value, dict | list) and value and data.draw(st.integers(0, 5)):
        copy = dict(value) if isinstance(value, dict) else list(value)
        key = data.draw(st.sampled_from(sorted(copy) if isinstance(copy, dict) else range(len(copy))))
        copy[key] = spoiled(copy[key], data)  # type: ignore[index]
        return copy
    return data.draw(odd)


@settings(deadline=None, max_examples=300)
@given(st.data())
def test_a_row_with_one_odd_thing_in_it_gives_rows_or_reasons(data: st.DataObject) -> None:
    format = data.draw(st.sampled_from(list(WHOLE)))
    value = spoiled(WHOLE[format], data)
    assume(isinstance(value, dict))
    rows = rows_of(json.dumps(value) + "\n", format=format)
    assert rows and all(isinstance(row, Row | BadRow) for row in rows)
