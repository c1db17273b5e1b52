"""Rows of input files, and which of them make up a step."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tests.core import tiny
from training.core import data, protocol
from training.core.chat import Chat
from training.core.types import UNKNOWN, Failure


@pytest.fixture
def chat() -> Chat:
    return Chat(tiny.tokenizer())


# --- batches (items 39, 40) -------------------------------------------------------------------------


def test_token_batches_hold_every_row_once_within_the_budget() -> None:
    lengths = [1 + (index * 7919) % 60 for index in range(500)]
    batches = data.token_batches(lengths, 256, seed=0, epoch=0)
    assert Counter(row for batch in batches for row in batch) == Counter(range(500))
    assert all(max(lengths[row] for row in batch) * len(batch) <= 256 for batch in batches)
    padded = sum(max(lengths[row] for row in batch) * len(batch) for batch in batches)
    assert padded < 1.15 * sum(lengths)
    assert batches != data.token_batches(lengths, 256, seed=0, epoch=1)
    assert batches == data.token_batches(lengths, 256, seed=0, epoch=0)


def test_a_row_longer_than_the_budget_stands_alone() -> None:
    batches = data.token_batches([50, 3, 3], 10, seed=0, epoch=0)
    assert [0] in batches and sorted(map(len, batches)) == [1, 2]


def test_pair_batches_hold_every_pair_once_and_are_as_many_in_every_epoch() -> None:
    lengths = [1 + (index * 7919) % 60 for index in range(131)]
    for epoch in range(3):
        batches = data.pair_batches(lengths, 8, seed=0, epoch=epoch)
        assert Counter(row for batch in batches for row in batch) == Counter(range(131))
        assert len(batches) == 17


def test_every_prompt_is_seen_once_before_any_is_seen_again() -> None:
    drawn = [row for step in range(1, 8) for row in data.draw_prompts(10, 7, 0, step)]
    for start in range(0, 40, 10):
        assert sorted(drawn[start : start + 10]) == list(range(10))
    assert drawn[:10] != drawn[10:20]
    assert sorted(Counter(data.draw_prompts(3, 7, 0, 1)).values()) == [2, 2, 3]


def test_the_learning_rate_rises_falls_and_ends_just_above_zero() -> None:
    shares = [data.learning_rate_share(step, 10, 0.2) for step in range(1, 11)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1.0, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8])
    assert [data.learning_rate_share(step, 4, 0.0) for step in range(1, 5)] == [1.0, 0.75, 0.5, 0.25]


# --- pairs (items 13, 54) ---------------------------------------------------------------------------


def pair(**changes: object) -> dict[str, object]:
    row = {**tiny.preferences(1)[0], "split": "train", "chosen": "the cup is blue", "rejected": "the cup"}
    return {**row, **changes}


def test_pairs_that_teach_nothing_are_counted_and_left_out(chat: Chat, tmp_path: Path) -> None:
    rows = [
        pair(),
        pair(rejected="the cup is blue "),
        pair(rejected="the hat " * 200),
        pair(weight=0.0),
        pair(tie=True),
        pair(split="held_out"),
        pair(prompt=[*tiny.question("a " * 90), {"role": "assistant", "content": "b"}, *tiny.question("c")]),
    ]
    train, held_out, counts = data.pairs(tiny.write_rows(tmp_path / "p.jsonl", rows), chat, 64)
    assert (len(train), len(held_out)) == (3, 1)
    assert (counts.read, counts.equal, counts.too_long, counts.shortened) == (7, 1, 1, 1)
    assert [kept.tie for kept in train] == [False, True, False]
    assert train[2].prompt_ids == chat.prompt_ids(tiny.question("c"))
    told = " ".join(note.message for note in counts.notes(64))
    assert told.startswith("3 pairs to learn from, 1 held out. ")
    assert "1 of 7 pairs have twice the same text" in told and "over 64 tokens" in told


def test_what_a_row_says_beside_its_texts_may_be_missing(chat: Chat, tmp_path: Path) -> None:
    """A file from elsewhere names no annotators: all its judgements share one number."""
    told = pair(margin=2.0, weight=0.5, annotator=0, agreement=0.75)
    bare = {name: told[name] for name in ("prompt", "chosen", "rejected", "split")}
    kept, _, _ = data.pairs(tiny.write_rows(tmp_path / "p.jsonl", [told, bare]), chat, 64)
    assert kept[0][3:] == (2.0, False, 0.5, 0, 0.75)
    assert kept[1][3:] == (0.0, False, 1.0, UNKNOWN, None)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("margin", -1, "a number of at least 0"),
        ("margin", float("nan"), "a number of at least 0"),
        ("margin", "2", "a number of at least 0"),
        ("weight", float("inf"), "a number of at least 0"),
        ("weight", True, "a number of at least 0"),
        ("tie", 1, "true or false"),
        ("margin", 10**400, "a number of at least 0"),
        ("annotator", "ann", "a whole number of at least 0, or null"),
        ("annotator", -1, "a whole number of at least 0, or null"),
        ("agreement", 1.5, "a number from 0 to 1, or null"),
    ],
)
def test_what_a_row_says_beside_its_texts_is_named_where_it_makes_no_sense(
    chat: Chat, tmp_path: Path, name: str, value: object, wanted: str
) -> None:
    """A margin below 0 was read from the wrong end of the strengths."""
    path = tiny.write_rows(tmp_path / "p.jsonl", [pair(), pair(**{name: value})])
    with pytest.raises(protocol.ProtocolError) as failed:
        data.pairs(path, chat, 64)
    assert str(failed.value) == f"p.jsonl, line 2: {name} is {json.dumps(value)[:40]}, wanted {wanted}"


def test_what_nobody_else_says_is_null(chat: Chat, tmp_path: Path) -> None:
    rows = [pair(annotator=None, agreement=None, margin=3, tie=False, weight=1)]
    kept, _, _ = data.pairs(tiny.write_rows(tmp_path / "p.jsonl", rows), chat, 64)
    assert kept[0][3:] == (3.0, False, 1.0, UNKNOWN, None)


def test_only_ties_or_equal_texts_fail_with_the_numbers(chat: Chat, tmp_path: Path) -> None:
    rows = [pair(tie=True), pair(chosen="the cup")]
    with pytest.raises(Failure, match="of 2, 1 have equal texts") as failed:
        data.pairs(tiny.write_rows(tmp_path / "p.jsonl", rows), chat, 64)
    assert failed.value.code == "no_data"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"prompt": [], "chosen": "a"', "p.jsonl, line 2 is not JSON: "),
        ('{"prompt": "\xff"}', "p.jsonl, line 2 is not JSON: "),
        ('{"prompt": "a"}', "line 2: prompt is not a list"),
        ('{"prompt": [{"role": "user", "content": "a"}]}', "line 2: chosen is missing$"),
        ("7", "line 2: prompt is missing$"),
        (json.dumps({**tiny.preferences(1)[0], "chosen": "\ud800"}), "line 2: chosen is not a text$"),
        (json.dumps({**tiny.preferences(1)[0], "split": 3}), "line 2: split is not a text$"),
        (json.dumps({**tiny.preferences(1)[0], "prompt": []}), "line 2: prompt is not a list of messages"),
        (
            json.dumps({**tiny.preferences(1)[0], "prompt": [{"role": "user"}]}),
            "line 2: prompt is not a list of",
        ),
    ],
)
def test_a_broken_line_is_named(chat: Chat, tmp_path: Path, line: str, told: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps(tiny.preferences(1)[0]) + "\n" + line + "\n", encoding="latin-1")
    with pytest.raises(protocol.ProtocolError, match=told):
        data.pairs(path, chat, 64)


def test_a_folder_in_the_place_of_a_file_is_told_of(chat: Chat, tmp_path: Path) -> None:
    with pytest.raises(protocol.ProtocolError, match="p.jsonl cannot be read: Is a directory"):
        data.pairs(tiny_folder(tmp_path / "p.jsonl"), chat, 64)


def tiny_folder(path: Path) -> Path:
    path.mkdir()
    return path


# --- prompts ----------------------------------------------------------------------------------------


def test_prompts_without_room_for_an_answer_are_left_out_by_name_and_number(
    chat: Chat, tmp_path: Path
) -> None:
    rows = [*tiny.prompts(3), {"prompt": tiny.question("x" * 80), "prompt_id": 9}]
    path = tiny.write_rows(tmp_path / "p.jsonl", rows)
    kept, notes = data.prompts(path, chat, limit=96, new_tokens=20)
    assert [prompt.prompt_id for prompt in kept] == [100, 101, 102]
    longest = len(chat.prompt_ids(tiny.question("x" * 80)))
    fits = max(len(prompt.ids) for prompt in kept)
    assert [note.level for note in notes] == ["log", "warning"]
    assert notes[0].message == f"3 prompts of up to {fits} tokens." and fits < longest
    assert "1 of 4 prompts are too long" in notes[1].message
    assert (
        f"context of 96 tokens leaves 76 beside 20 new ones, the longest prompt has {longest}"
        in notes[1].message
    )
    with pytest.raises(Failure, match="4 of 4 prompts are too long") as failed:
        data.prompts(path, chat, limit=96, new_tokens=95)
    assert failed.value.code == "context_too_small"
    with pytest.raises(Failure, match="p.jsonl holds no prompt") as failed:
        data.prompts(tiny.write_rows(path, []), chat, limit=96, new_tokens=20)
    assert failed.value.code == "no_data"


def test_a_split_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    rows = [{**tiny.preferences(2)[0], "split": "review"}]
    path = tiny.write_rows(tmp_path / "snapshot.jsonl", rows)
    with pytest.raises(protocol.ProtocolError, match="line 1: split is 'review', wanted train or held_out"):
        data.pairs(path, Chat(tiny.tokenizer()), 64)
