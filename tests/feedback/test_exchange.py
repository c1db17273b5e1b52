"""Reading files: every row by hand."""

from __future__ import annotations

import gzip
import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.exchange.formats import Format
from feedback.exchange.rows import Degree, Row, preferred
from feedback.exchange.transcripts import common_length
from feedback.lines import BadRow
from tests.feedback.read_as import GOOD, assistant, line, rows_of, user

# --- HH-RLHF ----------------------------------------------------------------------------------------


def test_hh_splits_at_the_last_shared_assistant_turn() -> None:
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a fruit\n\nAssistant: "
    (row,) = rows_of(line(chosen=start + "An apple.", rejected=start + "An anvil."), Format.HH)
    assert row == preferred(
        1, [user("Hi"), assistant("Hello."), user("Name a fruit")], "", "An apple.", "An anvil.", Degree(2)
    )


@pytest.mark.parametrize(
    ("chosen", "rejected", "expected"),
    [
        # one answer is the beginning of the other
        ("\n\nHuman: q\n\nAssistant: yes", "\n\nHuman: q\n\nAssistant: yes, sir", ("yes", "yes, sir")),
        # an empty answer is an answer
        ("\n\nHuman: q\n\nAssistant: ", "\n\nHuman: q\n\nAssistant: no", ("", "no")),
        # the transcripts part in an earlier turn: the rest of each stays whole
        (
            "\n\nHuman: q\n\nAssistant: a\n\nHuman: r\n\nAssistant: b",
            "\n\nHuman: q\n\nAssistant: c\n\nHuman: s\n\nAssistant: d",
            ("a\n\nHuman: r\n\nAssistant: b", "c\n\nHuman: s\n\nAssistant: d"),
        ),
        # white space at the ends is text
        ("\n\nHuman: q\n\nAssistant:  a \n", "\n\nHuman: q\n\nAssistant: b\n", (" a \n", "b\n")),
    ],
)
def test_hh_keeps_every_byte(chosen: str, rejected: str, expected: tuple[str, str]) -> None:
    (row,) = rows_of(line(chosen=chosen, rejected=rejected), Format.HH)
    assert row.messages == [user("q")]
    assert row.completions == expected


turns = st.lists(
    st.tuples(
        st.sampled_from(["Human", "Assistant"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    ),
    max_size=5,
)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@settings(deadline=None)
@given(middle=turns, question=texts, chosen=texts, rejected=texts)
def test_hh_rows_put_together_again_are_the_transcripts(
    middle: list[tuple[str, str]], question: str, chosen: str, rejected: str
) -> None:
    start = "\n\nHuman: first" + "".join(f"\n\n{who}: {text}" for who, text in middle)
    # The last turn before the answers is a question: it holds no mark of another turn, and is not blank.
    last = "q" + re.sub("\n+", "\n", question)
    start += f"\n\nHuman: {last}\n\nAssistant: "
    pair = {"chosen": start + chosen, "rejected": start + rejected}
    if "\x00" in start or chosen == rejected:
        return
    names = {"user": "Human", "assistant": "Assistant"}
    (row,) = rows_of(json.dumps(pair, ensure_ascii=False).replace("\u2028", "\\u2028") + "\n", Format.HH)
    if isinstance(row, BadRow):
        pytest.fail(str(row))
    prompt = "".join(f"\n\n{names[turn['role']]}: {turn['content']}" for turn in row.messages)
    assert prompt + "\n\nAssistant: " + row.completions[0] == pair["chosen"]
    assert prompt + "\n\nAssistant: " + row.completions[1] == pair["rejected"]


@settings(deadline=None)
@given(texts, texts)
def test_common_length_equals_the_slow_definition(first: str, second: str) -> None:
    slow = 0
    while slow < min(len(first), len(second)) and first[slow] == second[slow]:
        slow += 1
    assert common_length(first, second) == slow
    assert common_length(first, first + second) == len(first)


# --- TRL and prompts --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (
            {"prompt": "Sky?", "chosen": " Blue.", "rejected": " Green."},
            ([user("Sky?")], "", " Blue.", " Green.", Degree(2)),
        ),
        (
            {"chosen": "The sky is blue.", "rejected": "The sky is green."},
            ([user("The sky is")], "", "blue.", "green.", Degree(2)),
        ),
        (
            {"prompt": [user("Sky?")], "chosen": [assistant("Blue.")], "rejected": [assistant("Green.")]},
            ([user("Sky?")], "", "Blue.", "Green.", Degree(2)),
        ),
        (
            {
                "chosen": [user("Sky?"), assistant("Blue.")],
                "rejected": [user("Sky?"), assistant("Green.")],
                "margin": 3.0,
                "id": 17,
            },
            ([user("Sky?")], "17", "Blue.", "Green.", Degree(3)),
        ),
    ],
    ids=["standard explicit", "standard implicit", "conversational explicit", "conversational implicit"],
)
def test_trl_reads_all_four_shapes(columns: dict[str, Any], expected: tuple[Any, ...]) -> None:
    (row,) = rows_of(line(**columns), Format.TRL)
    assert row == preferred(1, *expected)


@pytest.mark.parametrize(
    ("margin", "strength", "kept"),
    [(0, 1, 0.0), (0.4, 1, 0.4), (1, 1, None), (1.6, 2, 1.6), (2.0, 2, None), (3, 3, None), (40, 3, 40.0),
     (None, 2, None)],
)  # fmt: skip
def test_a_margin_becomes_the_nearest_strength_and_stays_beside_it(
    margin: float | None, strength: int, kept: float | None
) -> None:
    (row,) = rows_of(line(prompt="p", chosen="a", rejected="b", margin=margin), Format.TRL)
    assert (row.judged[0].strength, row.judged[0].margin) == (-strength, kept)


def test_prompts_are_read_from_jsonl_csv_and_text() -> None:
    expected = [Row(1, [user("One")], ""), Row(2, [user("Two, two")], "x")]
    assert rows_of(line(prompt="One") + line(messages=[user("Two, two")], id="x"), Format.PROMPTS) == expected
    assert rows_of('prompt,id\r\nOne,\r\n"Two, two",x\r\n', Format.PROMPTS) == [
        row._replace(line=row.line + 1) for row in expected
    ]
    assert rows_of("One\r\n\n  \nTwo, two\n", Format.PROMPTS_TXT) == [
        expected[0],
        Row(4, [user("Two, two")], ""),
    ]


def test_a_csv_cell_may_span_lines_and_its_first_line_is_named() -> None:
    assert rows_of('prompt\n"a\nb"\nc\n', Format.PROMPTS) == [
        Row(2, [user("a\nb")], ""),
        Row(4, [user("c")], ""),
    ]


def test_bom_is_stripped_and_gzip_unpacked() -> None:
    content = b"\xef\xbb\xbf" + GOOD.encode()
    assert (
        rows_of(gzip.compress(content), Format.TRL)
        == rows_of(content, Format.TRL)
        == rows_of(GOOD, Format.TRL)
    )
    assert isinstance(rows_of(GOOD, Format.TRL)[0], Row)
