"""Imports at work: all or nothing, resumed, cancelled, discarded, told of."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import os
import re
import time
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
    AuditEntry,
    DataImport,
    Preference,
    Project,
)
from tests.factories import make_member
from tests.feedback.importing import NO_ROWS, THREE, Killed, die_at, imported, number_of_rows, pairs, upload

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("batches_of_one_size")]

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


def test_uploads_that_were_cut_off_are_deleted_after_a_day(artifact_root: Path) -> None:
    folder = artifact_root / "imports"
    folder.mkdir(parents=True)
    for name, hours in (("upload-old", 25), ("upload-new", 23), ("7", 100)):
        path = folder / name
        path.write_bytes(b"half a row")
        then = time.time() - hours * 3600
        os.utime(path, (then, then))
    tasks.sweep_imports()
    assert sorted(path.name for path in folder.iterdir()) == ["7", "upload-new"]


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
        (
            (project.slug, "https://files.example/a.jsonl"),
            "Import by URL is disabled: download the file first.",
        ),
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
