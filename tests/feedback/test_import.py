"""Imports into the database: nothing lost, nothing doubled, all or nothing, resumed, cancelled, told of."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection
from django.utils import timezone

from feedback import imports, tasks
from feedback.lines import BadFile
from feedback.models import (
    Assignment,
    AuditEntry,
    Candidate,
    Comparison,
    Completion,
    DataImport,
    Preference,
    Project,
    Prompt,
    User,
)
from tests.factories import make_member, make_preference, make_project

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is at the moment."""
    monkeypatch.setattr(imports, "HOLD_SECONDS", 3600.0)
    monkeypatch.setattr(imports, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(imports, "BATCH_ROWS", 100)


def upload(project: Project, content: bytes | str, *, name: str = "pairs.jsonl", **fields: Any) -> DataImport:
    data = content if isinstance(content, bytes) else content.encode()
    values = {"format": "", "options": {}, "skip_bad_rows": False, **fields}
    values.setdefault(
        "actor", User.objects.filter(memberships__project=project).first() or make_member(project=project)
    )
    return imports.receive(
        project, [data[start : start + 1000] for start in range(0, len(data), 1000)], file_name=name, **values
    )


def imported(project: Project, content: bytes | str, **fields: Any) -> DataImport:
    data_import = upload(project, content, **fields)
    imports.run_import(data_import)
    data_import.refresh_from_db()
    return data_import


def pairs(*rows: tuple[str, str, str], **more: Any) -> str:
    lines = (
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}
        for prompt, chosen, rejected in rows
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def number_of_rows() -> dict[str, int]:
    models = (Prompt, Completion, Comparison, Candidate, Assignment, Preference)
    return {model.__name__: model.objects.count() for model in models}


NO_ROWS = dict.fromkeys(("Prompt", "Completion", "Comparison", "Candidate", "Assignment", "Preference"), 0)
THREE = pairs(("p", "a", "b"), ("p", "c", "a"), ("q", "x", "y"))


# --- what a row becomes -----------------------------------------------------------------------------


def test_a_recorded_preference_can_train_at_once(project: Project) -> None:
    done = imported(project, THREE)
    assert (done.state, done.counts) == (
        "done",
        {"rows": 3, "prompts": 2, "completions": 5, "comparisons": 3, "preferences": 3},
    )
    told = {
        (pair.chosen.prompt.last_message, pair.chosen.text, pair.rejected.text, pair.margin)
        for preference in Preference.objects.current()
        for pair in preference.pairs()
    }
    assert told == {("p", "a", "b", 2.0), ("p", "c", "a", 2.0), ("q", "x", "y", 2.0)}
    assert {comparison.state for comparison in Comparison.objects.all()} == {"done"}
    assert {completion.source for completion in Completion.objects.all()} == {"imported"}


def test_imported_judgements_are_marked_and_out_of_human_statistics(project: Project) -> None:
    imported(project, THREE)
    make_preference(project=project)
    importer = User.objects.get(username=f"imported-{project.slug}")
    assert not importer.is_active and not importer.has_usable_password() and not importer.simulated
    assert set(Preference.objects.filter(imported=True).values_list("annotator", flat=True)) == {importer.pk}
    assert Preference.objects.by_people().count() == 1
    assert {tuple(row.shown_order) for row in Preference.objects.filter(imported=True)} == {()}
    assert not project.memberships.filter(user=importer).exists()


def test_the_canonical_order_tells_nothing_of_the_choice(project: Project) -> None:
    rows = [(f"prompt {n}", f"good {n}", f"bad {n}") for n in range(400)]
    imported(project, pairs(*rows))
    first_chosen = Preference.objects.filter(strength__lt=0).count()
    assert 150 < first_chosen < 250  # 5 standard deviations of a fair coin

    other = make_project()
    imported(other, pairs(*[(prompt, rejected, chosen) for prompt, chosen, rejected in rows]))
    for prompt in ("prompt 1", "prompt 2", "prompt 3"):
        orders = [
            [candidate.completion.text for candidate in comparison.candidates.all()]
            for comparison in Comparison.objects.all()
            if comparison.prompt.last_message == prompt
        ]
        assert orders[0] == orders[1]  # the same two texts stand alike, whichever was chosen


def test_pairs_can_be_put_up_for_judging_instead(project: Project) -> None:
    Project.objects.filter(pk=project.pk).update(overlap=3)
    project.refresh_from_db()
    done = imported(project, THREE, options={"put_up": True})
    assert done.counts["comparisons"] == 3 and "preferences" not in done.counts
    assert set(Comparison.objects.values_list("state", "overlap", "purpose")) == {("open", 3, "training")}
    assert not Preference.objects.exists() and not Assignment.objects.exists()


def test_new_prompts_are_for_what_the_form_said(project: Project) -> None:
    done = imported(project, "One\nTwo\n", name="a.txt", options={"split": "held_out"})
    assert list(Prompt.objects.values_list("split", "source")) == [("held_out", f"import {done.pk}")] * 2


def judgement() -> Preference:
    (row,) = Preference.objects.all()
    return row


def test_a_ranking_of_a_file_is_a_ranking_here(project: Project) -> None:
    row = {"prompt": "p", "completions": ["a", "b", "c", "d"], "ranking": [[3], [0, 1], [2]]}
    done = imported(project, json.dumps(row))
    assert done.counts == {"rows": 1, "prompts": 1, "completions": 4, "comparisons": 1, "preferences": 1}
    found = {
        (pair.chosen.text, pair.rejected.text, pair.margin) for pair in judgement().pairs() if not pair.tie
    }
    assert found == {("d", "a", 1.0), ("d", "b", 1.0), ("a", "c", 1.0), ("b", "c", 1.0), ("d", "c", 2.0)}
    assert (judgement().kind, judgement().comparison.kind) == ("ranking", "ranking")
    # The same said in another order is the same.
    same = {"prompt": "p", "completions": ["d", "c", "b", "a"], "ranking": [[0], [2, 3], [1]]}
    assert imported(project, json.dumps(same)).counts == {"rows": 1, "unchanged": 1}
    other = {**row, "ranking": [[2], [0, 1], [3]]}
    assert imported(project, json.dumps(other)).counts["preferences"] == 1


def test_ratings_ties_corrections_and_demonstrations_of_a_file(project: Project) -> None:
    content = [
        {"prompt": "rated", "completions": ["a", "b"], "ratings": [{"helpful": 5}, {"helpful": 2}]},
        {"prompt": "tied", "completions": ["a", "b"], "preferences": [{"tie": [0, 1]}]},
        {"prompt": "mended", "completions": ["a"], "corrections": [{"of": 0, "text": "A!"}]},
    ]
    done = imported(project, "".join(json.dumps(row) + "\n" for row in content))
    assert (done.counts["comparisons"], done.counts["preferences"], done.counts["completions"]) == (3, 3, 6)
    rated, tied, mended = Preference.objects.order_by("pk")
    assert [(pair.chosen.text, pair.margin) for pair in rated.pairs()] == [("a", 3.0)]
    assert [(pair.tie, pair.margin) for pair in tied.pairs()] == [(True, 0.0)]
    assert [(pair.chosen.text, pair.rejected.text) for pair in mended.pairs()] == [("A!", "a")]
    assert mended.written is not None and mended.written.source == "corrected"
    assert mended.written.corrected_from == mended.corrects
    imported(project, json.dumps({"prompt": "shown", "completion": "so"}))
    shown = Preference.objects.order_by("-pk")[0]
    assert [text.text for text in shown.demonstrations()] == ["so"] and shown.pairs() == []
    assert shown.written is not None and shown.written.source == "written"


def test_both_bad_of_a_battle_is_kept_and_trains_nothing(project: Project) -> None:
    sides = {
        f"conversation_{side}": [{"role": "user", "content": "p"}, {"role": "assistant", "content": side}]
        for side in "ab"
    }
    imported(project, json.dumps({"winner": "tie (bothbad)", **sides}))
    assert (judgement().strength, judgement().acceptability, judgement().pairs()) == (0, "neither", [])


def test_completions_alone_are_kept_and_can_be_put_up(project: Project) -> None:
    row = json.dumps({"prompt": "p", "completions": ["a", "b", "c"]})
    assert imported(project, row).counts == {"rows": 1, "prompts": 1, "completions": 3}
    done = imported(project, row, options={"put_up": True})
    assert done.counts == {"rows": 1, "comparisons": 3}
    assert imported(project, row, options={"put_up": True}).counts == {"rows": 1, "unchanged": 1}
    ranks = make_project(kind="ranking", candidates=3)
    many = json.dumps({"prompt": "p", "completions": [str(number) for number in range(11)]})
    imported(ranks, many, options={"put_up": True})
    sizes = sorted(one.candidates.count() for one in Comparison.objects.filter(project=ranks))
    assert sizes == [3, 8]
    assert set(Comparison.objects.filter(project=ranks).values_list("kind", "state")) == {("ranking", "open")}


def test_people_whom_a_file_tells_apart_share_a_comparison(project: Project) -> None:
    def task(who: int, side: str) -> dict[str, Any]:
        result = [{"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": side}}]
        return {"result": result, "completed_by": who}

    data = {"prompt": "p", "answer1": "a", "answer2": "b"}
    tasks_of = {"data": data, "annotations": [task(1, "left"), task(2, "right"), task(3, "left")]}
    done = imported(project, json.dumps([tasks_of]), name="a.json")
    assert (done.counts["comparisons"], done.counts["preferences"]) == (1, 3)
    assert Preference.objects.values("annotator").distinct().count() == 3
    names = set(Preference.objects.values_list("annotator__username", flat=True))
    assert names == {f"imported-{project.slug}.{who}" for who in (1, 2, 3)}
    assert not User.objects.filter(username__in=names, is_active=True).exists()
    assert imported(project, json.dumps([tasks_of]), name="b.json").counts == {"rows": 1, "unchanged": 1}
    # One more annotation in a later export of the same project is added, the rest is there.
    tasks_of["annotations"].append(task(4, "left"))  # type: ignore[attr-defined]
    later = imported(project, json.dumps([tasks_of]), name="c.json")
    assert later.counts == {"rows": 1, "preferences": 1}
    # A changed mind elsewhere does not make two judgements of one person.
    tasks_of["annotations"] = [task(1, "right")]
    assert imported(project, json.dumps([tasks_of]), name="d.json").counts == {"rows": 1, "unchanged": 1}


def test_gold_comparisons_can_be_put_up_from_a_file(project: Project) -> None:
    row = {
        "judgement": 1, "project": "elsewhere", "comparison": 1, "purpose": "gold", "kind": "pairwise",
        "messages": [{"role": "user", "content": "p"}], "candidates": [{"text": "a"}, {"text": "b"}],
        "gold_answer": {"strength": 3}, "strength": 1, "in_force": True,
    }  # fmt: skip
    imported(project, json.dumps(row), options={"put_up": True})
    (comparison,) = Comparison.objects.all()
    assert (comparison.purpose, comparison.gold_answer, comparison.state) == ("gold", {"strength": 3}, "open")
    assert [candidate.completion.text for candidate in comparison.candidates.all()] == ["a", "b"]
    assert not Preference.objects.exists()


def test_rows_of_one_object_are_written_together(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that dies within a tree must not take it for written."""
    replies = [
        {"role": "assistant", "text": f"a{n}", "rank": n, "message_id": f"a{n}", "replies": [
            {"role": "prompter", "text": f"q{n}", "message_id": f"q{n}", "replies": [
                {"role": "assistant", "text": "x", "message_id": f"x{n}"}]}]}
        for n in range(150)
    ]  # fmt: skip
    trees = [
        {"message_tree_id": f"t{n}", "prompt": {"role": "prompter", "text": f"p{n}", "replies": replies[:60]}}
        for n in range(5)
    ]
    data_import = upload(project, "".join(json.dumps(tree) + "\n" for tree in trees))
    with monkeypatch.context() as patched:
        die_at(patched, 2)
        with pytest.raises(Killed):
            imports.run_import(data_import)
    data_import.refresh_from_db()
    assert data_import.last_line == 2  # 61 rows each: the second tree filled the first batch
    DataImport.objects.update(heartbeat_at=timezone.now() - timezone.timedelta(seconds=120))
    assert imports.take_back() == [data_import.pk]
    tasks.run_import(data_import.pk)
    data_import.refresh_from_db()
    assert data_import.state == "done"
    assert (Prompt.objects.count(), Preference.objects.count()) == (5 * 61, 5)


# --- again ------------------------------------------------------------------------------------------


def test_the_same_file_again_changes_nothing(project: Project) -> None:
    imported(project, THREE)
    before = number_of_rows()
    again = imported(project, THREE)
    assert number_of_rows() == before
    assert again.counts == {"rows": 3, "unchanged": 3}


def test_rows_of_other_files_and_within_a_file_are_not_doubled(project: Project) -> None:
    imported(project, THREE)
    mixed = imported(project, THREE + pairs(("q", "x", "z"), ("q", "x", "z")), name="more.jsonl")
    assert (mixed.counts["comparisons"], mixed.counts["completions"], mixed.counts["unchanged"]) == (1, 1, 4)


def test_two_people_who_disagree_are_both_kept(project: Project) -> None:
    done = imported(project, pairs(("p", "a", "b"), ("p", "b", "a")))
    assert done.counts["preferences"] == 2 and done.counts["completions"] == 2
    texts = {
        (pair.chosen.text, pair.rejected.text) for row in Preference.objects.all() for pair in row.pairs()
    }
    assert texts == {("a", "b"), ("b", "a")}
    other = make_project()
    assert (
        imported(other, pairs(("p", "a", "b"), ("p", "b", "a")), options={"put_up": True}).counts[
            "comparisons"
        ]
        == 1
    )


def test_two_projects_share_nothing(project: Project) -> None:
    imported(project, THREE)
    other = imported(make_project(), THREE)
    assert other.counts["preferences"] == 3
    assert Preference.objects.count() == 6


def test_prompts_again_are_counted_as_there(project: Project) -> None:
    imported(project, "One\nTwo\n", name="a.txt")
    again = imported(project, "Two\nThree\nThree\n", name="b.txt")
    assert (again.counts["prompts"], again.counts["unchanged"]) == (1, 2)


# --- bad rows ---------------------------------------------------------------------------------------


def test_one_bad_row_stops_the_whole_file(project: Project) -> None:
    failed = imported(project, THREE + '{"chosen": "a"}\n' + THREE)
    assert failed.state == "failed"
    assert failed.errors == [{"line": 4, "reason": "'rejected' missing"}]
    assert failed.counts == {"rows": 7, "bad_rows": 1}
    assert number_of_rows() == NO_ROWS


def test_bad_rows_can_be_skipped_and_are_told_of(project: Project) -> None:
    done = imported(project, THREE + '{"chosen": "a"}\n' + pairs(("r", "1", "2")), skip_bad_rows=True)
    assert (done.state, done.counts["preferences"], done.counts["bad_rows"]) == ("done", 4, 1)
    assert done.errors == [{"line": 4, "reason": "'rejected' missing"}]


def test_the_first_hundred_errors_are_kept_and_all_are_counted(project: Project) -> None:
    failed = imported(project, THREE + "{\n" * 250)
    assert (len(failed.errors), failed.counts["bad_rows"]) == (100, 250)
    hopeless = imported(project, THREE + "{\n" * 5000)
    assert hopeless.counts["bad_rows"] == 1000


def test_a_file_that_is_no_file_is_refused_and_leaves_nothing(project: Project, artifact_root: Path) -> None:
    with pytest.raises(BadFile, match="looks like an Excel file"):
        upload(project, b"PK\x03\x04 xl/workbook.xml", name="a.csv")
    assert list((artifact_root / "imports").iterdir()) == []
    assert not DataImport.objects.exists()


def test_a_file_over_the_limit_is_refused_while_it_comes(
    project: Project, settings: Any, artifact_root: Path
) -> None:
    settings.IMPORT_MAX_BYTES = 1024 * 1024
    taken = []

    def endless() -> Iterator[bytes]:
        for number in itertools.count():
            taken.append(number)
            yield b"x" * 65536

    with pytest.raises(BadFile, match="file over 1 MiB"):
        imports.receive(
            project,
            endless(),
            file_name="a",
            format="trl",
            options={},
            skip_bad_rows=False,
            actor=make_member(),
        )
    assert len(taken) == 17
    assert list((artifact_root / "imports").iterdir()) == []


def test_a_bomb_fails_in_the_worker_without_rows(project: Project, settings: Any) -> None:
    settings.IMPORT_MAX_BYTES = 1024 * 1024
    bomb = gzip.compress(THREE.encode() + (b" " * 1023 + b"\n") * 4096)
    failed = imported(project, bomb, name="a.jsonl.gz")
    assert failed.errors == [{"line": 0, "reason": "archive unpacks to more than 1 MiB"}]
    assert number_of_rows() == NO_ROWS


def test_a_stored_file_that_changed_is_not_imported(project: Project) -> None:
    data_import = upload(project, THREE)
    data_import.path.write_text(THREE.replace("a", "z"))
    imports.run_import(data_import)
    data_import.refresh_from_db()
    assert data_import.state == "failed" and "sha256" in data_import.errors[0]["reason"]
    assert number_of_rows() == NO_ROWS


# --- twice, killed, cancelled -----------------------------------------------------------------------

MANY = pairs(*[(f"p{number}", "a", "b") for number in range(450)])


def test_a_task_that_comes_twice_runs_once(project: Project) -> None:
    data_import = upload(project, THREE)
    tasks.run_import(data_import.pk)
    tasks.run_import(data_import.pk)
    tasks.run_import(10**9)  # a row that is gone
    data_import.refresh_from_db()
    assert (data_import.state, data_import.attempt, data_import.counts["preferences"]) == ("done", 1, 3)


class Killed(BaseException):
    """What a worker's death looks like from inside: nothing after it runs."""


def die_at(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """The process dies inside the n-th batch's transaction, after its rows were written."""
    true = imports.write_rows
    calls = itertools.count(1)

    def write_rows(*args: Any) -> Any:
        added = true(*args)
        if next(calls) == batch:
            raise Killed
        return added

    monkeypatch.setattr(imports, "write_rows", write_rows)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_a_killed_import_goes_on_after_what_it_wrote(
    project: Project, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    data_import = upload(project, MANY)
    with monkeypatch.context() as patched:
        die_at(patched, batch)
        with pytest.raises(Killed):
            imports.run_import(data_import)
    data_import.refresh_from_db()
    assert data_import.state == "running"
    assert data_import.last_line == (batch - 1) * imports.BATCH_ROWS == Preference.objects.count()

    assert imports.take_back() == []  # it beat a moment ago: it may be alive
    DataImport.objects.update(heartbeat_at=timezone.now() - timezone.timedelta(seconds=120))
    assert imports.take_back() == [data_import.pk]
    tasks.run_import(data_import.pk)
    data_import.refresh_from_db()
    assert (data_import.state, data_import.counts) == (
        "done",
        {
            "rows": 450,
            "prompts": 450,
            "completions": 900,
            "comparisons": 450,
            "preferences": 450,
        },
    )
    assert Preference.objects.count() == 450


def test_a_worker_given_up_for_dead_writes_no_more(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sleeps through its lease, another one takes over and finishes; then it wakes."""
    data_import = upload(project, MANY)
    true = imports.write_batch
    calls = itertools.count(1)

    def write_batch(claim: Any, *args: Any, **named: Any) -> int:
        if next(calls) == 2:
            DataImport.objects.update(heartbeat_at=timezone.now() - timezone.timedelta(seconds=120))
            (again,) = imports.take_back()
            imports.run_import(DataImport.objects.get(pk=again))
        return true(claim, *args, **named)

    monkeypatch.setattr(imports, "write_batch", write_batch)
    imports.run_import(data_import)
    data_import.refresh_from_db()
    assert (data_import.state, data_import.attempt, data_import.counts["preferences"]) == ("done", 2, 450)
    assert "unchanged" not in data_import.counts
    assert Preference.objects.count() == 450


def test_a_poisonous_import_is_given_up_after_three_attempts(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_import = upload(project, MANY)
    die_at(monkeypatch, 1)
    monkeypatch.setattr(imports, "check", lambda claim: (_ for _ in ()).throw(Killed()))
    for _attempt in range(3):
        with pytest.raises(Killed):
            imports.run_import(data_import)
        DataImport.objects.update(heartbeat_at=timezone.now() - timezone.timedelta(seconds=120))
        imports.take_back()
    data_import.refresh_from_db()
    assert data_import.state == "failed"
    assert data_import.errors[0]["reason"].startswith("stopped 3 times")


def test_cancelling_stops_at_the_next_batch_and_the_rest_can_follow(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    data_import = upload(project, MANY)
    actor = data_import.created_by
    true = imports.write_batch
    calls = itertools.count(1)

    def write_batch(*args: Any, **named: Any) -> int:
        if next(calls) == 3:
            assert imports.cancel(data_import, actor=actor)
        return true(*args, **named)

    with monkeypatch.context() as patched:
        patched.setattr(imports, "write_batch", write_batch)
        imports.run_import(data_import)
    data_import.refresh_from_db()
    assert (data_import.state, Preference.objects.count()) == ("cancelled", 200)
    assert not imports.cancel(data_import, actor=actor)
    tasks.run_import(data_import.pk)
    assert Preference.objects.count() == 200
    rest = imported(project, MANY)
    assert (rest.counts["preferences"], rest.counts["unchanged"]) == (250, 200)


def test_a_batch_that_holds_the_lock_for_long_makes_the_next_one_smaller(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("only SQLite lets one writer in at a time")
    sizes = []
    true = imports.write_rows
    monkeypatch.setattr(imports, "write_rows", lambda *args: sizes.append(len(args[2])) or true(*args))
    monkeypatch.setattr(imports, "BATCH_ROWS", 200)
    monkeypatch.setattr(imports, "HOLD_SECONDS", 0.0)
    imported(project, MANY)
    assert sizes == [200] + [100] * 2 + [50]


def test_huge_rows_are_written_a_few_at_a_time(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    true = imports.write_rows
    monkeypatch.setattr(imports, "write_rows", lambda *args: sizes.append(len(args[2])) or true(*args))
    huge = "x" * 1_500_000
    done = imported(project, pairs(*[(f"p{number}", huge, "b") for number in range(7)]))
    assert (done.state, sizes) == ("done", [3, 3, 1])


def test_a_queued_import_can_be_cancelled(project: Project) -> None:
    data_import = upload(project, THREE)
    assert imports.cancel(data_import, actor=data_import.created_by)
    tasks.run_import(data_import.pk)
    data_import.refresh_from_db()
    assert (data_import.state, number_of_rows()) == ("cancelled", NO_ROWS)


def test_the_sweep_rings_for_what_waits(project: Project, doorbell: list[Any]) -> None:
    waiting = upload(project, THREE)
    imported(project, THREE, name="done.jsonl")
    tasks.sweep_imports()
    assert doorbell == [("feedback.tasks.run_import", (waiting.pk,))]


def test_an_upload_nobody_confirmed_is_discarded_after_a_week(project: Project, doorbell: list[Any]) -> None:
    old, newer = (upload(project, THREE, confirmed=False) for _number in range(2))
    waiting = upload(project, THREE)
    day = timedelta(days=1)
    for data_import, age in ((old, 7 * day + day / 24), (newer, 7 * day - day / 24), (waiting, 30 * day)):
        DataImport.objects.filter(pk=data_import.pk).update(created_at=timezone.now() - age)
    tasks.sweep_imports()
    tasks.sweep_imports()
    states = dict(DataImport.objects.values_list("pk", "state"))
    assert states == {old.pk: "cancelled", newer.pk: "uploaded", waiting.pk: "queued"}
    assert [data_import.path.exists() for data_import in (old, newer, waiting)] == [False, True, True]
    old.refresh_from_db()
    assert old.errors == [{"line": 0, "reason": "not confirmed within 7 days: the file was deleted"}]
    assert old.finished_at is not None
    entry = AuditEntry.objects.get(action="import.discarded")
    assert (entry.actor, entry.project, entry.target) == (None, project, f"feedback.DataImport {old.pk}")
    asked = {"format": "trl", "options": {}, "skip_bad_rows": False}
    assert not imports.confirm(old, actor=make_member(project=project), **asked)


def test_uploads_ends_and_cancels_are_in_the_audit_trail(project: Project) -> None:
    imported(project, THREE)
    imports.cancel(upload(project, THREE), actor=make_member())
    assert list(AuditEntry.objects.order_by("id").values_list("action", flat=True)) == [
        "import.uploaded",
        "import.done",
        "import.uploaded",
        "import.cancelled",
    ]


# --- by the command line ----------------------------------------------------------------------------


def run_command(*arguments: Any) -> dict[str, Any]:
    said = io.StringIO()
    call_command("import_file", *map(str, arguments), stdout=said)
    report: dict[str, Any] = json.loads(said.getvalue())
    return report


def test_the_command_imports_and_reports(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("question,good,bad\np,a,b\np,c,a\n")
    columns = ("--column", "question=prompt", "--column", "good=chosen", "--column", "bad=rejected")
    report = run_command(project.slug, path, "--format", "trl", *columns)
    assert (report["state"], report["counts"]["preferences"], report["errors"]) == ("done", 2, [])
    entry = AuditEntry.objects.get(action="import.uploaded")
    assert entry.actor is not None and entry.actor.is_superuser
    assert run_command(project.slug, path, "--format", "trl", *columns)["counts"]["unchanged"] == 2


def test_the_command_fails_with_what_the_page_would_say(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(THREE + '{"chosen": "a"}\n')
    with pytest.raises(CommandError, match=r"^Nothing was written\.$"):
        run_command(project.slug, path)
    assert number_of_rows() == NO_ROWS
    path.write_text("")
    with pytest.raises(CommandError, match=r"^No rows found in a\.jsonl$"):
        run_command(project.slug, path)
    for arguments, reason in (
        (("nowhere", path), "There is no project at /p/nowhere/."),
        ((project.slug, path, "--user", "nobody"), "There is no user nobody."),
        ((project.slug, path, "--column", "x"), "--column: wanted THEIRS=OURS, each of THEIRS once."),
    ):
        with pytest.raises(CommandError, match=f"^{re.escape(reason)}$"):
            run_command(*arguments)


def test_the_command_can_look_before_it_imports(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(THREE)
    said = io.StringIO()
    call_command("import_file", project.slug, str(path), "--preview", stdout=said)
    first = json.loads(said.getvalue().splitlines()[0])
    assert (first["completions"], first["judged"]) == (["a", "b"], ["1 is better than 2"])
    assert number_of_rows() == NO_ROWS
