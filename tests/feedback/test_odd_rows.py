"""Whatever another tool writes: rows or reasons, never a traceback."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase

from feedback.exchange.formats import Format
from feedback.exchange.rows import Row
from feedback.lines import BadRow
from tests.factories import make_project
from tests.feedback.importing import imported
from tests.feedback.reading import refusal, rows_of, user
from tests.feedback.rows_by_hand import RANKING, battle, completions, node, region, task

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
    Format.MESSAGES: {
        "message_id": "m",
        "parent_id": None,
        "message_tree_id": "t",
        "role": "prompter",
        "text": "P",
    },
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


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"candidates": ["a", "b"]}, "'candidates' must be a list of objects, found text"),
        (
            {"candidates": [{"text": "a"}, {"text": "a"}]},
            "'candidates': completions 1 and 2 are identical",
        ),
        ({"candidates": [{"text": "a"}]}, "'candidates': pairwise needs 2, found 1"),
        (
            {"kind": "essay"},
            "'kind': unknown 'essay' (wanted: pairwise, ranking, rating, demonstration)",
        ),
        ({"strength": 4}, "'strength' must be from -3 to 3, found 4"),
        ({"strength": None}, "'strength' missing"),
        ({"acceptability": "all"}, "'acceptability': unknown 'all' (wanted: both, one, neither)"),
        ({"gold_answer": None}, "'gold_answer' missing"),
        (
            {"gold_answer": {"best": 1}},
            "'gold_answer': unknown key 'best' (wanted: strength, ranking, ratings)",
        ),
        ({"shown_order": [1, 1]}, "'shown_order' must hold each number from 0 to 1 once, found [1, 1]"),
        ({"comment": "x" * 4001}, "'comment' over 4000 characters"),
        ({"in_force": "yes"}, "'in_force' must be true or false, found text"),
        (
            {"judged_at": "yesterday"},
            "'judged_at' must be a time like 2026-01-31T12:00:00+00:00, found yesterday",
        ),
        (
            {"judged_at": "0001-01-01T00:00:00+14:00"},
            "'judged_at' must be a time like 2026-01-31T12:00:00+00:00, found 0001-01-01T00:00:00+14:00",
        ),
        ({"corrects": 2}, "'corrects' must be from 0 to 1, found 2"),
    ],
)
def test_a_bad_row_of_everything_says_why(change: dict[str, Any], expected: str) -> None:
    assert refusal(WHOLE[Format.JUDGEMENTS] | change, Format.JUDGEMENTS) == f"Line 1: {expected}"


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


class TestOddRowsAreWritten(TestCase):
    @settings(deadline=None, max_examples=60)
    @given(st.data())
    def test_whatever_can_be_read_can_be_written(self, data: st.DataObject) -> None:
        format = data.draw(st.sampled_from(list(WHOLE)))
        rows = [spoiled(WHOLE[format], data) for _row in range(data.draw(st.integers(1, 3)))]
        assume(all(isinstance(row, dict) for row in rows))
        kind = data.draw(st.sampled_from(["pairwise", "ranking", "rating"]))
        put_up = data.draw(st.booleans())
        text = "".join(json.dumps(row) + "\n" for row in rows)
        done = imported(
            make_project(kind=kind, candidates=3 if kind == "ranking" else 2),
            text,
            format=format,
            skip_bad_rows=True,
            options={"put_up": put_up},
        )
        assert done.state == "done" and done.counts["rows"] >= 1
