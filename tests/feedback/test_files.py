"""What files are made of: CSV, arrays, columns with other names. Every refusal in its words."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.exchange.cells import guarded, unguarded
from feedback.exchange.formats import Format, Unrecognised
from feedback.exchange.rows import Judged, Row
from feedback.lines import BUFFER_BYTES, BadFile
from tests.feedback.reading import found_in, rows_of, user

# --- tables -----------------------------------------------------------------------------------------


def test_preferences_in_csv() -> None:
    content = 'prompt,chosen,rejected,margin,id\r\nSky?,Blue.,"Gr""een, I\nthink",3,x\r\nSea?,,Wet,,\r\n'
    first, second = rows_of(content, "a.csv")
    assert first == Row(
        2, [user("Sky?")], "x", ("Blue.", 'Gr"een, I\nthink'), (Judged("pairwise", (0, 1), strength=-3),)
    )
    assert second.completions == ("", "Wet") and second.judged[0].strength == -2


def test_labels_and_sets_in_csv() -> None:
    (row,) = rows_of("prompt,completion,label\nP,X,TRUE\n", "a.csv")
    assert row.judged[0].ratings == ({"good": 5},)
    (row,) = rows_of('prompt,completions,ranking\nP,"[""a"", ""b""]","[1, 0]"\n', "a.csv")
    assert (row.completions, row.judged[0].ranking) == (("a", "b"), ((1,), (0,)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "prompt,chosen,rejected,margin\na,b,c,big\n",
            "Line 2: column 'margin': wanted a number, found 'big'",
        ),
        (
            "prompt,chosen,rejected,margin\na,b,c,nan\n",
            "Line 2: column 'margin': wanted a number, found 'nan'",
        ),
        (
            "prompt,chosen,rejected,margin\na,b,c,1_0\n",
            "Line 2: column 'margin': wanted a number, found '1_0'",
        ),
        (
            "prompt,completion,label\na,b,maybe\n",
            "Line 2: column 'label': wanted true or false, found 'maybe'",
        ),
        (
            'prompt,completions\na,"[1"\n',
            "Line 2: column 'completions': not JSON from column 3 on: Expecting ',' delimiter",
        ),
        ("prompt,chosen,rejected\na,b,b\n", "Line 2: chosen and rejected are identical"),
        ("prompt,chosen,rejected\na,b\n", "Line 2: 2 cells, the header has 3"),
    ],
)
def test_a_bad_csv_cell_names_its_column(content: str, expected: str) -> None:
    format = Format.UNPAIRED if "label" in content else Format.COMPLETIONS if "[" in content else Format.TRL
    (bad,) = rows_of(content, format=format)
    assert str(bad) == expected


@settings(deadline=None)
@given(st.text())
def test_guarding_a_cell_loses_nothing_and_leaves_no_formula(text: str) -> None:
    cell = guarded(text)
    assert unguarded(cell) == text
    assert cell[:1] not in ("=", "+", "-", "@", "\t", "\r", "＝", "＋", "－", "＠")


# --- arrays -----------------------------------------------------------------------------------------


def test_an_array_is_read_over_many_pieces_and_its_lines_are_counted() -> None:
    values = [{"prompt": f"{number} é " + "x" * 5000} for number in range(200)]
    content = json.dumps(values, indent=1, ensure_ascii=False)
    assert len(content.encode()) > 3 * BUFFER_BYTES
    assert [row.messages for row in rows_of(content)] == [[user(value["prompt"])] for value in values]
    assert rows_of(gzip.compress(content.encode())) == rows_of(content) == rows_of("\ufeff" + content)
    (bad,) = rows_of('[\n {"prompt": "a"},\n\n {"prompt": ""},\n {"prompt": "b"}\n]')[1:2]
    assert str(bad) == "Line 4: object 2: empty prompt"


def test_reading_an_array_goes_on_after_an_object_that_is_no_row() -> None:
    content = '[{"prompt": "a"}, 7, {"prompt": "b", "prompt": "c"}, {"prompt": NaN}, {"prompt": "d"}]'
    rows = rows_of(content)
    assert [str(row) for row in rows[1:4]] == [
        "Line 1: object 2: wanted an object, found a number",
        "Line 1: object 3: key 'prompt' appears twice",
        "Line 1: object 4: NaN is not JSON",
    ]
    assert rows[4] == Row(5, [user("d")])


# --- which column is which --------------------------------------------------------------------------


def test_columns_can_be_given_other_names_or_left_out() -> None:
    mapping = {"question": "prompt", "good": "chosen", "bad": "rejected", "score": ""}
    line = json.dumps({"question": "Sky?", "good": "Blue.", "bad": "Green.", "score": 4}) + "\n"
    with pytest.raises(Unrecognised, match="found: question, good, bad, score"):
        found_in(line)
    (row,) = rows_of(line, format=Format.TRL, mapping=mapping)
    assert (row.messages, row.completions) == ([user("Sky?")], ("Blue.", "Green."))
    (row,) = rows_of("question,good,bad,score\nSky?,Blue.,Green.,4\n", format=Format.TRL, mapping=mapping)
    assert (row.messages, row.completions) == ([user("Sky?")], ("Blue.", "Green."))


def test_columns_of_a_task_are_renamed_inside_it() -> None:
    value = {"data": {"q": "P", "x": "X", "y": "Y", "note": "n"}, "annotations": []}
    mapping = {"q": "prompt", "x": "answer1", "y": "answer2"}
    (row,) = rows_of(json.dumps(value), format=Format.LABEL_STUDIO, mapping=mapping)
    assert (row.messages, row.completions) == ([user("P")], ("X", "Y"))


def test_an_empty_array_or_table_has_no_rows() -> None:
    for content, name in (("[]", "a.json"), ("prompt,chosen\n", "a.csv"), ("[\n]", "a.json")):
        with pytest.raises(BadFile, match=f"No rows found in {name}"):
            found_in(content, name)
