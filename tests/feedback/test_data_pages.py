"""The data pages: who may, upload, preview, live progress."""

from __future__ import annotations

import gzip
import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from feedback import imports
from feedback.models import DataImport, Preference, Project, Prompt, Role, User
from tests.factories import make_member, make_project, make_prompt
from tests.feedback.uploading import ROW, Commits, SignIn, an_import, confirm, rows, send

pytestmark = pytest.mark.django_db

# --- who may ----------------------------------------------------------------------------------------


def test_each_page_opens_from_its_role_on(
    project: Project, outsider: User, engineer: User, sign_in: SignIn
) -> None:
    prompt = make_prompt(project=project)
    data_import = an_import(project, engineer, rows())
    waiting = an_import(project, engineer, rows(), confirmed=False)
    wanted = {
        reverse("data", args=[project.slug]): Role.REVIEWER,
        reverse("prompt_list", args=[project.slug]): Role.REVIEWER,
        reverse("prompt_detail", args=[project.slug, prompt.pk]): Role.REVIEWER,
        reverse("import_detail", args=[project.slug, data_import.pk]): Role.REVIEWER,
        reverse("import_status", args=[project.slug, data_import.pk]): Role.REVIEWER,
        reverse("import_errors", args=[project.slug, data_import.pk]): Role.REVIEWER,
        reverse("import_upload", args=[project.slug]): Role.ENGINEER,
        reverse("import_preview", args=[project.slug, waiting.pk]): Role.ENGINEER,
        reverse("export_preferences", args=[project.slug]): Role.ENGINEER,
        reverse("guidelines", args=[project.slug]): Role.ANNOTATOR,
    }
    order = list(Role)
    for role in order:
        client = sign_in(make_member(project=project, role=role))
        for url, least in wanted.items():
            expected = 200 if order.index(role) >= order.index(least) else 404
            assert client.get(url).status_code == expected, (role, url)
    stranger = sign_in(outsider)
    assert {stranger.get(url).status_code for url in wanted} == {404}
    assert {Client().get(url).status_code for url in wanted} == {302}


def test_a_foreign_prompt_or_import_is_missing(project: Project, engineer: User, sign_in: SignIn) -> None:
    other = make_project()
    foreign = an_import(other, make_member(project=other), rows())
    client = sign_in(engineer)
    assert client.get(reverse("import_detail", args=[project.slug, foreign.pk])).status_code == 404
    assert client.post(reverse("import_cancel", args=[project.slug, foreign.pk])).status_code == 404
    assert (
        client.get(reverse("prompt_detail", args=[project.slug, make_prompt(project=other).pk])).status_code
        == 404
    )


@pytest.mark.parametrize("role", [Role.ANNOTATOR, Role.REVIEWER])
def test_reviewers_neither_upload_nor_cancel(
    project: Project, engineer: User, role: str, sign_in: SignIn
) -> None:
    data_import = an_import(project, engineer, rows())
    client = sign_in(make_member(project=project, role=role))
    assert send(client, project, rows()).status_code == 404
    assert client.post(reverse("import_cancel", args=[project.slug, data_import.pk])).status_code == 404
    data_import.refresh_from_db()
    assert (DataImport.objects.count(), data_import.state) == (1, "queued")


# --- upload -----------------------------------------------------------------------------------------


def test_an_upload_is_queued_and_a_worker_rung(
    project: Project, engineers_browser: Client, doorbell: list[Any], on_commit: Commits
) -> None:
    packed = gzip.compress(rows())
    with on_commit():
        answer = send(engineers_browser, project, packed, name="a.jsonl.gz")
    data_import = DataImport.objects.get()
    url = reverse("import_preview", args=[project.slug, data_import.pk])
    assert (answer.headers["Location"], data_import.state, doorbell) == (url, "uploaded", [])
    with on_commit():
        answer = confirm(engineers_browser, project, data_import, skip_bad_rows="on")
    assert answer.headers["Location"] == reverse("import_detail", args=[project.slug, data_import.pk])
    assert doorbell == [("feedback.tasks.run_import", (data_import.pk,))]
    data_import.refresh_from_db()
    assert (data_import.format, data_import.skip_bad_rows, data_import.file_name) == (
        "trl",
        True,
        "a.jsonl.gz",
    )
    assert data_import.state == "queued"
    assert data_import.options == {
        "container": "json_lines",
        "put_up": False,
        "nameless": False,
        "ignore_extra": False,
        "split": "train",
        "mapping": {},
    }
    assert data_import.path.read_bytes() == packed


def test_a_broker_that_is_down_is_no_error(
    project: Project, engineer: User, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch, on_commit: Commits
) -> None:
    from celery.app.task import Task
    from kombu.exceptions import OperationalError

    def refuse(*args: Any, **named: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(Task, "apply_async", refuse)
    client = sign_in(engineer)
    send(client, project, rows())
    with on_commit():
        assert confirm(client, project, DataImport.objects.get()).status_code == 302
    assert DataImport.objects.get().state == "queued"


@pytest.mark.parametrize(
    ("content", "name", "status", "reason"),
    [
        (b"", "a.jsonl", 422, "No rows found in a.jsonl"),
        (b"\n\n", "a.jsonl", 422, "No rows found in a.jsonl"),
        (b"PK\x03\x04 xl/", "a.csv", 422, "Looks like an Excel file"),
        (b"x" * (2 * 1024 * 1024), "a.jsonl", 413, "The file is over 1 MiB"),
    ],
)
def test_a_refused_upload_says_why(
    project: Project,
    engineer: User,
    sign_in: SignIn,
    settings: Any,
    content: bytes,
    name: str,
    status: int,
    reason: str,
) -> None:
    settings.IMPORT_MAX_BYTES = 1024 * 1024
    answer = send(sign_in(engineer), project, content, name=name)
    assert answer.status_code == status
    assert reason in answer.content.decode()
    assert not DataImport.objects.exists()


def test_no_file_and_unknown_choices_are_named(project: Project, engineer: User, sign_in: SignIn) -> None:
    client = sign_in(engineer)
    for fields in ({}, {"url": "https://files.example/pairs.jsonl"}):
        answer = client.post(reverse("import_upload", args=[project.slug]), fields)
        assert answer.status_code == 422
        assert "Choose a file of your computer: import by URL is disabled." in answer.content.decode()
    send(client, project, rows())
    answer = confirm(client, project, DataImport.objects.get(), format="excel")
    assert answer.status_code == 422 and b"not one of the available choices" in answer.content
    assert DataImport.objects.get().state == "uploaded"


def test_a_path_in_the_file_name_is_cut_off(project: Project, engineer: User, sign_in: SignIn) -> None:
    send(sign_in(engineer), project, rows(), name="../../etc/passwd.jsonl")
    data_import = DataImport.objects.get()
    assert data_import.file_name == "passwd.jsonl"
    assert data_import.path.name == str(data_import.pk)


def test_the_same_file_again_says_so(project: Project, engineer: User, sign_in: SignIn) -> None:
    first = an_import(project, engineer, rows())
    imports.run_import(first)
    client = sign_in(engineer)
    page = client.get(send(client, project, rows()).headers["Location"]).content.decode()
    assert f"Already imported as import {first.pk} (same sha256)" in page


# --- preview ----------------------------------------------------------------------------------------


def test_the_preview_shows_rows_as_they_would_be_imported(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    content = json.dumps({**ROW, "chosen": "<b>On</b> its\u202e way.", "margin": 3}).encode() + b"\n{}\n"
    client = sign_in(engineer)
    page = client.get(send(client, project, content).headers["Location"])
    html = page.content.decode()
    assert "Where is it?" in html and "&lt;b&gt;On&lt;/b&gt; its" in html and "\u202e" not in html
    assert "1 is much better than 2" in html
    assert "Line 2: &#x27;chosen&#x27; missing" in html
    assert not Prompt.objects.exists()


def test_columns_nobody_recognises_are_pointed_at_on_the_preview(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    client = sign_in(engineer)
    content = b"question,good,bad,score\nWhere?,Here.,No idea.,4\nWhen?,Now.,Never.,5\n"
    url = send(client, project, content, name="a.csv").headers["Location"]
    form = client.get(url).context["form"]
    # A proposal by the names alone, which a person changes or confirms.
    assert [(field.label, field.value()) for field in form.column_fields()] == [
        ("question", "prompt"),
        ("good", "chosen"),
        ("bad", "rejected"),
        ("score", ""),
    ]
    data_import = DataImport.objects.get()
    confirm(client, project, data_import, column_1="rejected", column_2="chosen", column_3="margin")
    data_import.refresh_from_db()
    assert data_import.options["mapping"] == {
        "question": "prompt",
        "good": "rejected",
        "bad": "chosen",
        "score": "margin",
    }
    imports.run_import(data_import)
    data_import.refresh_from_db()
    assert (data_import.state, data_import.errors) == ("done", [])
    page = client.get(reverse("import_detail", args=[project.slug, data_import.pk])).content.decode()
    assert "<bdi>good</bdi> is read as rejected" in page
    (first, second) = Preference.objects.order_by("pk")
    assert [(pair.chosen.text, pair.rejected.text, pair.margin) for pair in first.pairs()] == [
        ("No idea.", "Here.", 3.0)
    ]


def test_one_column_cannot_be_two_and_another_format_asks_anew(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    client = sign_in(engineer)
    url = send(client, project, b"question,good\nWhere?,Here.\n", name="a.csv").headers["Location"]
    data_import = DataImport.objects.get()
    twice = confirm(client, project, data_import, column_0="prompt", column_1="prompt")
    assert twice.status_code == 422 and "prompt is “question” already" in twice.content.decode()
    again = client.post(url, {"format": "demonstrations", "columns_of": "prompts", "do": "show"})
    assert [field.value() for field in again.context["form"].column_fields()] == ["prompt", ""]
    shown = {"format": "demonstrations", "columns_of": "demonstrations", "do": "show"}
    page = client.post(url, {**shown, "column_0": "prompt", "column_1": "completion"})
    assert "a demonstration" in page.content.decode() and page.context["problems"] == []
    data_import.refresh_from_db()
    assert data_import.state == "uploaded"


def test_an_import_that_is_confirmed_or_cancelled_has_no_preview(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    client = sign_in(engineer)
    url = send(client, project, rows()).headers["Location"]
    data_import = DataImport.objects.get()
    client.post(reverse("import_cancel", args=[project.slug, data_import.pk]))
    data_import.refresh_from_db()
    assert data_import.state == "cancelled"
    assert client.get(url).status_code == 302
    assert client.post(url, {"do": "import", "format": "trl"}).status_code == 302
    data_import.refresh_from_db()
    assert data_import.state == "cancelled"


def test_a_file_that_waits_to_be_confirmed_is_not_imported(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    send(sign_in(engineer), project, rows())
    assert imports.take_back() == []
    imports.run_import(DataImport.objects.get())
    assert DataImport.objects.get().state == "uploaded" and not Prompt.objects.exists()


# --- progress ---------------------------------------------------------------------------------------


def test_the_status_polls_until_the_import_has_ended(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    data_import = an_import(project, engineer, rows())
    client = sign_in(engineer)
    url = reverse("import_status", args=[project.slug, data_import.pk])
    waiting = client.get(url)
    assert waiting.status_code == 200
    assert f'hx-get="{url}"' in waiting.content.decode() and "waits for a worker" in waiting.content.decode()
    imports.run_import(data_import)
    ended = client.get(url)
    assert ended.status_code == 286
    assert "hx-get" not in ended.content.decode() and ">done<" in ended.content.decode().lower()


def test_the_report_names_every_bad_row(project: Project, engineer: User, sign_in: SignIn) -> None:
    data_import = an_import(project, engineer, rows() + b'{"chosen": "<script>"}\n{"a" 1}\n')
    imports.run_import(data_import)
    page = (
        sign_in(engineer).get(reverse("import_detail", args=[project.slug, data_import.pk])).content.decode()
    )
    assert "Line 4: &#x27;rejected&#x27; missing" in page
    assert "Line 5: not JSON from column 6 on: Expecting &#x27;:&#x27; delimiter" in page
    assert "Nothing was written" in page


def test_all_bad_rows_can_be_downloaded(project: Project, engineer: User, sign_in: SignIn) -> None:
    data_import = an_import(project, engineer, rows(1) + b'{"chosen": "<b>"}\n' * 250 + rows(1))
    imports.run_import(data_import)
    client = sign_in(engineer)
    url = reverse("import_errors", args=[project.slug, data_import.pk])
    page = client.get(reverse("import_detail", args=[project.slug, data_import.pk])).content.decode()
    assert url in page and "and 150 more" in page
    answer = client.get(url)
    lines = b"".join(answer.streaming_content).decode().splitlines()
    assert lines == [f"Line {number}: 'rejected' missing" for number in range(2, 252)]
    assert answer["Content-Type"] == "text/plain; charset=utf-8"
    assert answer["Content-Disposition"] == f'attachment; filename="import-{data_import.pk}-bad-rows.txt"'
    data_import.path.unlink()
    assert client.get(url).status_code == 404


def test_cancel_by_the_button(project: Project, engineer: User, sign_in: SignIn) -> None:
    data_import = an_import(project, engineer, rows())
    client = sign_in(engineer)
    url = reverse("import_cancel", args=[project.slug, data_import.pk])
    assert client.get(url).status_code == 405
    client.post(url)
    data_import.refresh_from_db()
    assert data_import.state == "cancelled"
    assert b"had ended before" in client.post(url, follow=True).content
