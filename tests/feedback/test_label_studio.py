"""Label Studio's tasks: rows written by hand as it writes them, and each refusal in its words."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.exchange.formats import Format
from feedback.exchange.rows import Judged, Row
from tests.feedback.reading import one, refusal, user
from tests.feedback.rows_by_hand import region, task

# --- Label Studio -----------------------------------------------------------------------------------


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
            task(data={"prompt": "P", "items": [{"id": 1, "body": "X"}, {"id": "1", "body": "Y"}]}),
            "'items': two have the id '1'",
        ),
        (
            task(region("ranker", {"ranker": {"1": ["a"], "9" * 5000: ["b"]}}), data=ITEMS),
            "'ranker': wanted one bucket, or buckets named 1, 2, ... by rank, found: 1, " + "9" * 197,
        ),
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
