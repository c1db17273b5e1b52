"""Files out: what each format holds, that the same state gives the same bytes, and comes in again."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback import imports
from feedback.exports import ExportFormat, Selection, export
from feedback.models import Comparison, Message, Preference, Project, Prompt
from tests.factories import (
    make_completion,
    make_member,
    make_preference,
    make_project,
    put_up,
)

pytestmark = pytest.mark.django_db
needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="the package pyarrow is not installed"
)
FORMATS = [
    pytest.param(format, marks=needs_pyarrow if format == ExportFormat.PARQUET else ())
    for format in ExportFormat
]
EVERYTHING = Selection(purposes=(), current=False)


@pytest.fixture(autouse=True)
def batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is at the moment."""
    monkeypatch.setattr(imports, "HOLD_SECONDS", 3600.0)
    monkeypatch.setattr(imports, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(imports, "BATCH_ROWS", 100)


def told(project: Project, format: str = "trl", selection: Selection = Selection()) -> bytes:  # noqa: B008
    return b"".join(export(project, ExportFormat(format), selection))


def lines(project: Project, format: str = "trl", selection: Selection = Selection()) -> list[Any]:  # noqa: B008
    return [json.loads(line) for line in told(project, format, selection).decode().split("\n") if line]


def imported(project: Project, content: bytes | str, *, name: str = "a.jsonl", **fields: Any) -> Any:
    values = {"format": "", "options": {}, "skip_bad_rows": False, **fields}
    data = content if isinstance(content, bytes) else content.encode()
    data_import = imports.receive(
        project, [data], file_name=name, actor=make_member(project=project), **values
    )
    imports.run_import(data_import)
    data_import.refresh_from_db()
    assert (data_import.state, data_import.errors) == ("done", [])
    return data_import


def again(content: bytes, format: str) -> Project:
    """A fresh project with what was exported from another one."""
    project = make_project()
    name = {"csv": "a.csv", "parquet": "a.parquet", "label_studio": "a.json"}.get(format, "a.jsonl")
    imported(project, content, name=name)
    return project


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def compared(project: Project, *texts: str, question: str = "Where?", **fields: Any) -> Comparison:
    prompt, _made = Prompt.objects.get_or_create(
        project=project,
        content_hash=Prompt.hash_of([user(question)]),
        defaults={"messages": [user(question)]},
    )
    known = {completion.text: completion for completion in prompt.completions.all()}
    shown = [known.get(text) or make_completion(prompt=prompt, text=text) for text in texts]
    return put_up(prompt, shown, **fields)


def corrected(comparison: Comparison, position: int, text: str) -> dict[str, Any]:
    original = comparison.candidates.get(position=position).completion
    written = make_completion(
        prompt=comparison.prompt, text=text, source="corrected", corrected_from=original
    )
    return {"written": written, "corrects": original}


@pytest.fixture
def told_of(project: Project) -> Project:
    """A project with a judgement of each kind, a change of mind, a withdrawal, gold and review."""
    plain = make_preference(
        comparison=compared(project, "a", "b"), strength=2, acceptability="one", comment="so"
    )
    make_preference(comparison=compared(project, "a", "c"), strength=-3, flags=["unsafe"], active_ms=1234)
    make_preference(comparison=compared(project, "b", "c"), strength=0, acceptability="neither")
    make_preference(comparison=compared(project, "c", "d"), strength=0, acceptability="both")
    ranked = compared(project, "a", "b", "c", "d", kind="ranking")
    make_preference(comparison=ranked, ranking=[[3], [0, 1], [2]])
    rated = compared(project, "a", "b", kind="rating", question="Rated?")
    make_preference(comparison=rated, ratings=[{"helpful": 5, "honest": 5}, {"helpful": 2, "honest": 4}])
    mended = compared(project, "x", "y", question="Mended?")
    make_preference(comparison=mended, strength=1, **corrected(mended, 1, "y, mended"))
    empty = compared(project, kind="demonstration", question="Shown?")
    shown = make_completion(prompt=empty.prompt, text="like this", source="written")
    make_preference(comparison=empty, written=shown)
    changed(plain, strength=3, comment="no: so")
    changed(make_preference(comparison=compared(project, "e", "f"), strength=1), withdrawn=True)
    make_preference(comparison=compared(project, "e", "g"), strength=1, simulated=True)
    gold = compared(project, "g", "h", purpose="gold", gold_answer={"strength": 2})
    make_preference(comparison=gold, strength=1)
    make_preference(comparison=compared(project, "i", "j", purpose="review"), strength=1)
    make_preference(project=make_project(), strength=1)
    return project


def changed(earlier: Preference, **fields: Any) -> Preference:
    return Preference.objects.create(
        assignment=earlier.assignment,
        comparison=earlier.comparison,
        annotator=earlier.annotator,
        shown_order=earlier.shown_order,
        idempotency_key=f"after {earlier.pk}",
        body_hash="0" * 64,
        supersedes=earlier,
        **fields,
    )


# --- rows by hand -----------------------------------------------------------------------------------


def pairs_of(project: Project, **selection: Any) -> list[tuple[str, str, float]]:
    rows = lines(project, "trl", Selection(**selection))
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"], row["margin"]) for row in rows]


RANKED = [("d", "a", 1.0), ("d", "b", 1.0), ("a", "c", 1.0), ("b", "c", 1.0), ("d", "c", 2.0)]


def test_trl_holds_every_pair_that_has_a_better_side(told_of: Project) -> None:
    assert lines(told_of)[0] == {
        "prompt": [user("Where?")],
        "chosen": [assistant("a")],
        "rejected": [assistant("c")],
        "margin": 3.0,
    }
    expected = [("a", "c", 3.0), *RANKED, ("a", "b", 2.0), ("y", "x", 1.0), ("y, mended", "y", 1.0)]
    expected += [("b", "a", 3.0), ("g", "e", 1.0)]
    assert sorted(pairs_of(told_of)) == sorted(expected)
    assert pairs_of(told_of)[-2:] == [("b", "a", 3.0), ("g", "e", 1.0)]  # oldest first


def test_hh_is_two_transcripts(project: Project) -> None:
    turns = [user("Hi"), assistant("Hello."), user("Name a fruit")]
    prompt = Prompt.objects.create(project=project, messages=turns)
    sides = [make_completion(prompt=prompt, text=text) for text in ("An anvil.", "An apple.")]
    make_preference(comparison=put_up(prompt, sides), strength=1)
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a fruit\n\nAssistant: "
    assert lines(project, "hh") == [{"chosen": start + "An apple.", "rejected": start + "An anvil."}]


def test_unpaired_labels(project: Project) -> None:
    def labels(**fields: Any) -> dict[str, bool]:
        Preference.objects.all()
        own = make_project()
        kind = fields.pop("kind", "pairwise")
        comparison = compared(own, "a", "b", *fields.pop("more", ()), kind=kind)
        make_preference(comparison=comparison, **fields)
        return {row["completion"][0]["content"]: row["label"] for row in lines(own, "unpaired")}

    assert labels(strength=2) == {"a": False, "b": True}
    assert labels(strength=-1, acceptability="one") == {"a": True, "b": False}
    assert labels(strength=2, acceptability="both") == {"a": True, "b": True}
    assert labels(strength=2, acceptability="neither") == {"a": False, "b": False}
    assert labels(strength=0) == {}
    assert labels(strength=0, acceptability="both") == {"a": True, "b": True}
    assert labels(strength=0, acceptability="neither") == {"a": False, "b": False}
    # Whatever stands between the best and the worst is neither good nor bad.
    assert labels(kind="ranking", more=("c", "d"), ranking=[[2], [0, 1], [3]]) == {"c": True, "d": False}
    rated = [{"helpful": 5, "honest": 2}, {"helpful": 4, "honest": 2}]
    assert labels(kind="rating", ratings=rated) == {"a": True}  # b is in the middle


def test_demonstrations_hold_what_people_wrote(told_of: Project) -> None:
    assert lines(told_of, "demonstrations") == [
        {"prompt": [user("Mended?")], "completion": [assistant("y, mended")]},
        {"prompt": [user("Shown?")], "completion": [assistant("like this")]},
    ]


def test_label_studio_tasks(project: Project) -> None:
    comparison = compared(project, "a", "b")
    make_preference(comparison=comparison, strength=-3, active_ms=21400, comment="short")
    (task,) = json.loads(told(project, "label_studio"))
    assert task["data"] == {"prompt": "Where?", "messages": [user("Where?")], "answer1": "a", "answer2": "b"}
    (annotation,) = task["annotations"]
    assert annotation["lead_time"] == 21.4 and annotation["was_cancelled"] is False
    assert annotation["result"][0] == {
        "from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "left"}
    }  # fmt: skip
    assert json.loads(told(make_project(), "label_studio")) == []


def test_csv_is_safe_in_a_spreadsheet(project: Project) -> None:
    comparison = compared(project, "=1+1", "+a", question='@SUM("x")\r\nnext')
    make_preference(comparison=comparison, strength=-2)
    content = told(project, "csv").decode()
    assert list(csv.reader(io.StringIO(content, newline=""))) == [
        ["prompt", "messages", "chosen", "rejected", "margin"],
        ['\'@SUM("x")\r\nnext', "", "'=1+1", "'+a", "2.0"],
    ]


def test_everything_that_is_recorded(told_of: Project) -> None:
    rows = lines(told_of, "judgements", EVERYTHING)
    assert len(rows) == Preference.objects.filter(comparison__project=told_of).count() == 14
    first = rows[0]
    row = Preference.objects.get(pk=first["judgement"])
    candidates = [candidate.completion for candidate in row.comparison.candidates.all()]
    assert {key: first[key] for key in first if key not in ("candidates", "annotator")} == {
        "judgement": row.pk,
        "project": told_of.slug,
        "comparison": row.comparison_id,
        "purpose": "training",
        "kind": "pairwise",
        "prompt": {"id": row.comparison.prompt_id, "external_id": "", "split": "train", "source": ""},
        "messages": [user("Where?")],
        "gold_answer": None,
        "strength": 2,
        "ranking": [],
        "ratings": [],
        "acceptability": "one",
        "written": None,
        "corrects": None,
        "flags": [],
        "comment": "so",
        "shown_order": row.shown_order,
        "guideline": row.guideline.version if row.guideline else None,
        "opened_at": row.assignment and row.assignment.created_at.isoformat(),
        "judged_at": row.created_at.isoformat(),
        "active_ms": row.active_ms,
        "late": False,
        "simulated": False,
        "imported": False,
        "withdrawn": False,
        "supersedes": None,
        "in_force": False,
        "adjudication": False,
        "overruled": False,
    }
    assert [(one["completion"], one["text"]) for one in first["candidates"]] == [
        (completion.pk, completion.text) for completion in candidates
    ]
    later = next(one for one in rows if one["supersedes"] == row.pk)
    assert later["in_force"] and later["strength"] == 3 and later["annotator"] == first["annotator"]
    gold = next(one for one in rows if one["purpose"] == "gold")
    assert gold["gold_answer"] == {"strength": 2}
    mended = next(one for one in rows if one["corrects"] is not None)
    assert (mended["corrects"], mended["written"]["text"]) == (1, "y, mended")


def test_an_annotator_has_a_pseudonym_of_the_project(project: Project, settings: Any) -> None:
    somebody = make_member(project=project)
    other = make_project()
    for own in (project, project, other):
        make_preference(project=own, annotator=somebody)
    (one, two), (three,) = (lines(own, "judgements") for own in (project, other))
    assert one["annotator"] == two["annotator"] != three["annotator"]
    assert somebody.username not in json.dumps([one, three])


# --- which judgements -------------------------------------------------------------------------------


def test_a_selection_by_purpose_split_time_annotator_and_origin(told_of: Project) -> None:
    assert pairs_of(told_of, purposes=("gold",)) == [("h", "g", 1.0)]
    assert pairs_of(told_of, purposes=("review",)) == [("j", "i", 1.0)]
    assert len(pairs_of(told_of, purposes=())) == len(pairs_of(told_of)) + 2
    assert len(pairs_of(told_of, include_simulated=False)) == len(pairs_of(told_of)) - 1
    assert pairs_of(told_of, split="held_out") == []
    Prompt.objects.filter(messages=[user("Mended?")]).update(split="held_out")
    assert pairs_of(told_of, split="held_out") == [("y", "x", 1.0), ("y, mended", "y", 1.0)]
    assert pairs_of(told_of, since=datetime(2100, 1, 1, tzinfo=UTC)) == []
    mender = Preference.objects.exclude(corrects=None).get().annotator_id
    assert pairs_of(told_of, annotator=mender) == [("y", "x", 1.0), ("y, mended", "y", 1.0)]
    imported(told_of, '{"prompt": "p", "chosen": "new", "rejected": "old"}\n')
    assert ("new", "old", 2.0) in pairs_of(told_of)
    assert ("new", "old", 2.0) not in pairs_of(told_of, include_imported=False)


def test_judgements_no_longer_in_force_only_stand_where_everything_stands(told_of: Project) -> None:
    current = {row["judgement"] for row in lines(told_of, "judgements", Selection(purposes=()))}
    every = {row["judgement"]: row["in_force"] for row in lines(told_of, "judgements", EVERYTHING)}
    assert {pk for pk, in_force in every.items() if in_force} == current
    assert len(every) == len(current) + 3
    for format in ("trl", "hh", "unpaired", "csv", "demonstrations", "label_studio"):
        assert told(told_of, format, EVERYTHING) == told(told_of, format, Selection(purposes=()))


def test_judging_during_an_export_does_not_change_it(
    told_of: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.exported_rows.CHUNK_ROWS", 2)
    before = told(told_of, "judgements", EVERYTHING)
    pieces = export(told_of, ExportFormat.JUDGEMENTS, EVERYTHING)
    first = next(pieces)
    last = Preference.objects.filter(comparison__project=told_of).order_by("-pk")[0]
    changed(last, strength=-3)
    make_preference(project=told_of)
    assert first + b"".join(pieces) == before


@pytest.mark.parametrize("format", FORMATS)
def test_two_exports_of_the_same_state_are_the_same_bytes(told_of: Project, format: str) -> None:
    assert told(told_of, format, EVERYTHING) == told(told_of, format, EVERYTHING)
    assert told(make_project(), format) == told(make_project(), format)


def test_an_export_asks_few_questions_however_many_rows(
    project: Project, django_assert_max_num_queries: Any
) -> None:
    imported(
        project,
        "".join(json.dumps({"prompt": f"p{n}", "chosen": "a", "rejected": "b"}) + "\n" for n in range(450)),
    )
    assert [row["prompt"] for row in lines(project)] == [[user(f"p{n}")] for n in range(450)]
    for format in ("trl", "hh", "unpaired", "demonstrations", "csv", "label_studio", "judgements"):
        with django_assert_max_num_queries(1 + 2 * 2):
            told(project, format)


@pytest.mark.parametrize("format", FORMATS)
def test_no_kind_of_judgement_asks_questions_of_its_own(
    told_of: Project, format: str, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(3):
        told(told_of, format, EVERYTHING)


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


NOT_KEPT = ("judgement", "project", "comparison", "opened_at", "imported", "guideline", "supersedes")
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
