"""What a person can do with an import that failed, came late, or is done."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from feedback import imports
from feedback.models import AuditEntry, DataImport, Preference, Project, User
from tests.feedback.importing import THREE
from tests.feedback.uploading import Commits, SignIn, an_import, confirm, rows, send

pytestmark = pytest.mark.django_db
SKIP = "Skip bad rows and import the rest"


@pytest.fixture
def failed(project: Project, engineer: User) -> DataImport:
    content = THREE.replace("chosen", "good") + '{"prompt": "p"}\n'
    options = {"mapping": {"good": "chosen"}, "split": "held_out"}
    data_import = an_import(project, engineer, content.encode(), format="trl", options=options)
    imports.run_import(data_import)
    data_import.refresh_from_db()
    assert data_import.state == "failed"
    return data_import


def page(client: Any, data_import: DataImport) -> str:
    url = reverse("import_detail", args=[data_import.project.slug, data_import.pk])
    return str(client.get(url).content.decode())


def press(client: Any, data_import: DataImport, do: str = "skip_bad_rows") -> Any:
    url = reverse("import_again", args=[data_import.project.slug, data_import.pk])
    return client.post(url, {"do": do}, follow=True)


# --- again ------------------------------------------------------------------------------------------


def test_bad_rows_are_skipped_by_a_button_without_a_second_upload(
    failed: DataImport, project: Project, engineers_browser: Client, doorbell: list[Any], on_commit: Commits
) -> None:
    assert SKIP in page(engineers_browser, failed)
    with on_commit():
        press(engineers_browser, failed)
    new = DataImport.objects.exclude(pk=failed.pk).get()
    assert doorbell == [("feedback.tasks.run_import", (new.pk,))] and new.state == "queued"
    assert AuditEntry.objects.get(action="import.again").detail["of"] == failed.pk
    imports.run_import(new)
    new.refresh_from_db()
    assert (new.state, new.counts["preferences"], new.counts["bad_rows"]) == ("done", 3, 1)
    assert set(project.prompts.values_list("split", flat=True)) == {"held_out"}, "read as before"
    failed.refresh_from_db()
    assert failed.state == "failed" and failed.errors, "its report stays"
    # Neither file needs the other.
    failed.path.unlink()
    assert new.path.read_bytes().startswith(b'{"prompt"')


def test_a_double_click_reads_the_file_once(
    failed: DataImport, engineers_browser: Client, doorbell: list[Any], on_commit: Commits
) -> None:
    with on_commit():
        first, second = press(engineers_browser, failed), press(engineers_browser, failed)
    new = DataImport.objects.exclude(pk=failed.pk).get()
    assert first.request["PATH_INFO"] == second.request["PATH_INFO"]
    assert AuditEntry.objects.filter(action="import.again").count() == 1
    # Read another way, or read again after it has failed, it is another import.
    press(engineers_browser, failed, "nameless")
    assert DataImport.objects.count() == 3
    DataImport.objects.filter(pk=new.pk).update(state="failed")
    press(engineers_browser, failed)
    assert DataImport.objects.count() == 4


def test_only_what_failed_by_bad_rows_has_the_button(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    client = sign_in(engineer)
    done = an_import(project, engineer, THREE.encode())
    imports.run_import(done)
    assert SKIP not in page(client, done)
    assert "upload it again" in press(client, done).content.decode()
    assert DataImport.objects.count() == 1


def test_a_deleted_file_is_told_of(failed: DataImport, engineer: User, sign_in: SignIn) -> None:
    client = sign_in(engineer)
    failed.path.unlink()
    assert "The file is no longer kept" in press(client, failed).content.decode()
    assert DataImport.objects.count() == 1


def test_reviewers_and_unknown_wishes_are_refused(
    failed: DataImport, engineer: User, reviewer: User, sign_in: SignIn
) -> None:
    client = sign_in(reviewer)
    assert SKIP not in page(client, failed)
    assert press(client, failed).status_code == 404
    assert press(sign_in(engineer), failed, "delete").status_code == 400
    assert DataImport.objects.count() == 1


# --- late -------------------------------------------------------------------------------------------


def test_who_confirms_too_late_is_told(
    project: Project, engineer: User, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch, doorbell: list[Any]
) -> None:
    client = sign_in(engineer)
    send(client, project, rows())
    data_import = DataImport.objects.get()
    true = imports.confirm

    def cancelled_just_before(*args: Any, **named: Any) -> bool:
        imports.cancel(data_import, actor=engineer)
        return true(*args, **named)

    monkeypatch.setattr(imports, "confirm", cancelled_just_before)
    answer = client.get(confirm(client, project, data_import).headers["Location"])
    assert "Nothing was changed: the import has been confirmed or cancelled" in answer.content.decode()
    data_import.refresh_from_db()
    assert data_import.state == "cancelled" and doorbell == []
    # And whoever presses the button of a page that is older still.
    url = reverse("import_preview", args=[project.slug, data_import.pk])
    assert "Nothing was changed" in client.post(url, {"do": "import"}, follow=True).content.decode()


# --- done -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("put_up", [True, False])
def test_what_was_put_up_can_be_judged_from_there(
    project: Project, reviewer: User, engineer: User, sign_in: SignIn, put_up: bool
) -> None:
    done = an_import(project, engineer, THREE.encode(), options={"put_up": put_up})
    imports.run_import(done)
    link = f'<a class="btn main" href="{reverse("judge", args=[project.slug])}">Judge</a>'
    assert (link in page(sign_in(reviewer), done)) == put_up
    assert Preference.objects.exists() != put_up
