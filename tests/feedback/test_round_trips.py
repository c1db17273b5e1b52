"""Files out and in again: nothing is lost on the way, whatever the texts."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback.exports import Selection
from feedback.models import Comparison, Preference, Project, Prompt
from tests.factories import (
    make_preference,
    make_project,
)
from tests.feedback.exporting import (
    EVERYTHING,
    again,
    assistant,
    compared,
    imported,
    lines,
    needs_pyarrow,
    pairs_of,
    told,
    user,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("batches_of_one_size")]

# --- out and in again -------------------------------------------------------------------------------

SAME_BYTES = [
    pytest.param(format, marks=needs_pyarrow if format == "parquet" else ())
    for format in ("trl", "hh", "csv", "parquet", "unpaired", "demonstrations")
]


@pytest.mark.parametrize("format", SAME_BYTES)
def test_what_was_exported_comes_in_again_as_the_same_file(told_of: Project, format: str) -> None:
    """Margins of ratings lie between the steps of a judgement: here they are whole.

    Formats without margins say of some judgements the same, and the same is kept once.
    """
    once = told(told_of, format)
    kept = once
    if format in ("hh", "unpaired"):
        kept = b"".join(dict.fromkeys(once.splitlines(keepends=True)))
        assert 2 < kept.count(b"\n") < once.count(b"\n")
    assert told(again(once, format), format) == kept


def meanings(project: Project) -> list[Any]:
    """What all judgements in force say, without any number of a row."""
    found = []
    for row in Preference.objects.filter(comparison__project=project).current().order_by("pk"):
        pairs = sorted(
            (sorted((pair.chosen.text, pair.rejected.text)), "tie", 0.0)
            if pair.tie
            else ([pair.chosen.text, pair.rejected.text], "better", pair.margin)
            for pair in row.pairs()
        )
        texts = sorted(candidate.completion.text for candidate in row.comparison.candidates.all())
        written = [completion.text for completion in row.demonstrations()]
        found.append(
            (row.comparison.prompt.messages, row.kind, texts, pairs, written, row.acceptability, row.comment)
        )
    return found


@pytest.mark.parametrize("format", ["label_studio", "judgements"])
def test_every_kind_of_judgement_comes_in_again(told_of: Project, format: str) -> None:
    content = told(told_of, format, Selection(purposes=()))
    assert meanings(again(content, format)) == meanings(told_of)


def test_label_studio_tasks_reach_a_fixed_point(told_of: Project) -> None:
    """The first import decides anew which completion stands first; from then on nothing changes."""
    once = told(again(told(told_of, "label_studio"), "label_studio"), "label_studio")
    assert told(again(once, "label_studio"), "label_studio") == once


NOT_KEPT = ("judgement", "project", "comparison", "imported", "guideline", "supersedes")
"""Numbers of this installation, and what only an assignment made here has."""


def test_an_export_of_everything_loses_nothing_but_numbers(told_of: Project) -> None:
    content = told(told_of, "judgements", Selection(purposes=()))
    other = again(content, "judgements")

    def facts(row: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in row.items() if key not in NOT_KEPT}
        kept["prompt"] = kept["prompt"]["external_id"]
        kept["candidates"] = [completion["text"] for completion in row["candidates"]]
        kept["written"] = row["written"] and row["written"]["text"]
        return kept

    rows = lines(told_of, "judgements", Selection(purposes=()))
    assert list(map(facts, lines(other, "judgements", Selection(purposes=())))) == list(map(facts, rows))
    # What it was for stays too: neither gold nor review judgements train anything there.
    assert set(
        Comparison.objects.filter(project=other, purpose="review").values_list("state", flat=True)
    ) == {"withdrawn"}
    assert pairs_of(other) == pairs_of(told_of)


def test_judgements_of_one_comparison_stay_together(project: Project) -> None:
    comparison = compared(project, "a", "b", overlap=3)
    for strength in (2, 2, -1):
        make_preference(comparison=comparison, strength=strength)
    other = again(told(project, "judgements"), "judgements")
    (one,) = Comparison.objects.filter(project=other)
    assert sorted(row.strength or 0 for row in one.preferences.all()) == [-1, 2, 2]
    assert one.preferences.values("annotator").distinct().count() == 3


def test_a_project_s_own_export_adds_nothing_to_it(told_of: Project) -> None:
    before = Preference.objects.count(), Comparison.objects.count(), Prompt.objects.count()
    done = imported(told_of, told(told_of, "judgements", Selection(purposes=())))
    assert (Preference.objects.count(), Comparison.objects.count(), Prompt.objects.count()) == before
    assert done.counts == {"rows": 11, "unchanged": 11}


def test_an_export_with_history_brings_back_what_is_in_force(told_of: Project) -> None:
    other = again(told(told_of, "judgements", EVERYTHING), "judgements")
    assert sorted(map(str, meanings(other))) == sorted(map(str, meanings(told_of)))


# --- any text ---------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
plain = texts.filter(lambda text: "\n\n" not in text and "\r" not in text)
turn = st.tuples(st.sampled_from(["user", "assistant"]), texts)
rows = st.tuples(st.lists(turn, max_size=3), texts, texts, texts, st.sampled_from([1.0, 2.0, 3.0]))


def files_for_any_text(check: Callable[[str, str, list[Any]], None]) -> Callable[..., None]:
    @hypothesis_settings(
        max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
    )
    @given(st.lists(rows, min_size=1, max_size=6))
    def test(settings: Any, generated: list[Any]) -> None:
        found = {}
        for messages, question, chosen, rejected, margin in generated:
            if chosen != rejected:
                prompt = [{"role": role, "content": text} for role, text in messages]
                row = {
                    "prompt": [*prompt, user("?" + question)],
                    "chosen": [assistant(chosen)],
                    "rejected": [assistant(rejected)],
                    "margin": margin,
                }
                found[json.dumps(row)] = row  # the same row twice is kept once
        if found:
            with tempfile.TemporaryDirectory() as folder:
                settings.ARTIFACT_ROOT = Path(folder)
                check("\n".join(found), "", list(found.values()))

    return test


def trl_and_csv(content: str, _name: str, expected: list[Any]) -> None:
    first = make_project()
    imported(first, content)
    once = told(first)
    assert [json.loads(line) for line in once.decode().split("\n") if line] == expected
    assert told(again(once, "trl")) == once
    table = told(first, "csv")
    second = again(table, "csv")
    assert told(second) == once and told(second, "csv") == table
    judgements = again(told(first, "judgements"), "judgements")
    assert told(judgements) == once
    tasks = again(told(first, "label_studio"), "label_studio")
    assert told(tasks) == once


test_any_text_comes_back_to_the_byte = files_for_any_text(trl_and_csv)


@hypothesis_settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(plain, texts, texts), min_size=1, max_size=6))
def test_any_transcript_comes_back_to_the_byte(settings: Any, generated: list[tuple[str, str, str]]) -> None:
    found = {}
    for question, chosen, rejected in generated:
        if chosen != rejected:
            start = f"\n\nHuman: ?{question}\n\nAssistant: "
            row = {"chosen": start + chosen, "rejected": start + rejected}
            found[json.dumps(row)] = row
    if found:
        with tempfile.TemporaryDirectory() as folder:
            settings.ARTIFACT_ROOT = Path(folder)
            project = make_project()
            imported(project, "\n".join(found))
            assert lines(project, "hh") == list(found.values())


# --- Parquet ----------------------------------------------------------------------------------------


@needs_pyarrow
def test_parquet_holds_turns(told_of: Project, tmp_path: Path) -> None:
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    path.write_bytes(told(told_of, "parquet"))
    assert parquet.read_table(path).to_pylist() == lines(told_of, "trl")
