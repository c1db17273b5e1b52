"""How long uploaded files are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.urls import reverse
from django.utils import timezone

from feedback import imports, tasks
from feedback.models import AuditEntry, DataImport, Project, User
from tests.feedback.importing import THREE
from tests.feedback.uploading import SignIn, an_import

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("doorbell")]
BAD = THREE + '{"prompt": "p"}\n'


@pytest.fixture
def kept(project: Project, engineer: User, settings: Any) -> dict[str, DataImport]:
    """An import in each state, all of them 31 days old."""
    settings.IMPORT_KEEP_DAYS = 30
    found = {
        state: an_import(project, engineer, (BAD if state == "failed" else THREE).encode())
        for state in ("done", "failed", "cancelled", "running")
    }
    for state in ("done", "failed"):
        imports.run_import(found[state])
    imports.cancel(found["cancelled"], actor=engineer)
    ended = timezone.now() - timedelta(days=31)
    DataImport.objects.filter(finished_at__isnull=False).update(finished_at=ended)
    DataImport.objects.filter(pk=found["running"].pk).update(state="running", heartbeat_at=timezone.now())
    return found


def there(kept: dict[str, DataImport]) -> set[str]:
    return {state for state, data_import in kept.items() if data_import.path.exists()}


def test_files_go_when_their_time_is_over_and_reports_stay(
    kept: dict[str, DataImport], project: Project, reviewer: User, sign_in: SignIn
) -> None:
    tasks.sweep_imports()
    assert there(kept) == {"running"}
    entries = AuditEntry.objects.filter(action="import.file_deleted")
    assert {entry.detail["days"] for entry in entries} == {30} and len(entries) == 3
    tasks.sweep_imports()
    assert entries.count() == 3, "each is told of once"
    page = sign_in(reviewer).get(reverse("import_detail", args=[project.slug, kept["failed"].pk]))
    html = page.content.decode()
    assert "File deleted" in html and "Line 4: &#x27;chosen&#x27; missing" in html
    assert "Skip bad rows and" not in html


def test_a_file_stays_for_as_long_as_the_setting_says(kept: dict[str, DataImport], settings: Any) -> None:
    for days in (32, 0):
        settings.IMPORT_KEEP_DAYS = days
        tasks.sweep_imports()
        assert there(kept) == set(kept)


def test_a_second_import_leaves_other_files_as_they_are(kept: dict[str, DataImport], engineer: User) -> None:
    """A transaction that is rolled back leaves its link behind, and its number free for the next one."""
    other, failed = kept["done"].path, kept["failed"].path
    there = {path: path.read_bytes() for path in (other, failed)}
    newest = DataImport.objects.latest("pk").pk
    for linked in (other, failed):
        newest += 1
        DataImport(pk=newest).path.hardlink_to(linked)
        new = imports.again(kept["failed"], actor=engineer, skip_bad_rows=True, nameless=False)
        assert new is not None and new.pk == newest
        assert new.path.read_bytes() == there[failed]
        DataImport.objects.filter(pk=new.pk).update(state="failed")  # else the next is the same one
    assert {path: path.read_bytes() for path in there} == there


def test_a_file_that_is_gone_already_is_no_error(kept: dict[str, DataImport]) -> None:
    kept["done"].path.unlink()
    tasks.sweep_imports()
    assert not DataImport.objects.exclude(state="running").filter(file_deleted_at=None).exists()
