"""The data pages: prompts and their search, and export."""

from __future__ import annotations

import json
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient, Client
from django.urls import reverse

from feedback import imports
from feedback.models import AuditEntry, DataImport, Project, Prompt, Role, User
from tests.factories import make_completion, make_member, make_preference, make_project, make_prompt
from tests.feedback.uploading import SignIn, an_import, rows, send

pytestmark = pytest.mark.django_db

# --- prompts ----------------------------------------------------------------------------------------


def shown(client: Client, project: Project, **query: str) -> set[int]:
    page = client.get(reverse("prompt_list", args=[project.slug]), query)
    assert page.status_code == 200
    return {row["prompt"].pk for row in page.context["rows"]}


def test_search_finds_text_of_any_turn_and_nothing_else(
    project: Project, reviewer: User, sign_in: SignIn
) -> None:
    turns = [
        {"role": "user", "content": "Grüße aus “Köln”"},
        {"role": "assistant", "content": '100% sicher_\\ {"role"}'},
        {"role": "user", "content": "Danke"},
    ]
    first = Prompt.objects.create(project=project, messages=turns)
    second = make_prompt(project=project, text="Nothing alike")
    make_prompt(text="Grüße")  # of another project
    client = sign_in(reviewer)
    for text in ("Grüße aus", "“Köln”", "100% s", "sicher_\\", '{"role"}', "danke"):
        assert shown(client, project, q=text) == {first.pk}, text
    for text in ("content", "user", "assist", "sicherX", "1000%", "'; DROP TABLE feedback_prompt; --", "%"):
        assert shown(client, project, q=text) <= ({first.pk} if text == "%" else set()), text
    assert shown(client, project) == {first.pk, second.pk}


def test_filters_by_split_completions_and_import(project: Project, engineer: User, sign_in: SignIn) -> None:
    held_out = make_prompt(project=project, split=Prompt.Split.HELD_OUT)
    written = make_completion(prompt=make_prompt(project=project), source="written").prompt
    data_import = an_import(project, engineer, rows(2))
    imports.run_import(data_import)
    client = sign_in(engineer)
    assert shown(client, project, split="held_out") == {held_out.pk}
    assert shown(client, project, source="written") == {written.pk}
    assert len(shown(client, project, imported_by=str(data_import.pk))) == 2


@pytest.mark.parametrize(
    "query", [{"split": "user__password"}, {"source": "x"}, {"imported_by": "-1"}, {"q": "x" * 201}]
)
def test_unknown_filters_are_refused(
    project: Project, reviewer: User, sign_in: SignIn, query: dict[str, str]
) -> None:
    assert sign_in(reviewer).get(reverse("prompt_list", args=[project.slug]), query).status_code == 400


def test_wild_page_numbers_show_a_page(project: Project, reviewer: User, sign_in: SignIn) -> None:
    make_prompt(project=project)
    client = sign_in(reviewer)
    for page in ("-1", "0", "x", "9" * 40):
        assert len(shown(client, project, page=page)) == 1


def test_lists_ask_the_same_number_of_questions_for_more_rows(
    project: Project, reviewer: User, sign_in: SignIn, django_assert_max_num_queries: Any
) -> None:
    for _number in range(60):
        make_completion(prompt=make_prompt(project=project))
    client = sign_in(reviewer)
    for name in ("prompt_list", "data"):
        with django_assert_max_num_queries(14):
            assert client.get(reverse(name, args=[project.slug])).status_code == 200


def test_a_prompt_shows_its_turns_completions_and_what_hides_in_them(
    project: Project, reviewer: User, sign_in: SignIn
) -> None:
    prompt = make_prompt(project=project, text="<script>alert(1)</script>")
    make_completion(prompt=prompt, text="safe\u202eevil")
    page = sign_in(reviewer).get(reverse("prompt_detail", args=[project.slug, prompt.pk])).content.decode()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script>alert" not in page
    assert "\u202e" not in page and "RLO" in page


def test_a_huge_completion_makes_no_huge_page(project: Project, reviewer: User, sign_in: SignIn) -> None:
    prompt = make_prompt(project=project)
    make_completion(prompt=prompt, text="a b " * 500_000)
    client = sign_in(reviewer)
    url = reverse("prompt_detail", args=[project.slug, prompt.pk])
    assert len(client.get(url).content) < 300_000
    assert len(client.get(url + "?full").content) > 2_000_000


def test_the_overview_counts(project: Project, engineer: User, sign_in: SignIn) -> None:
    make_preference(project=project)
    make_preference(project=project, simulated=True)
    make_preference()  # of another project
    imports.run_import(an_import(project, engineer, rows()))
    context = sign_in(engineer).get(reverse("data", args=[project.slug])).context
    assert context["preferences"] == {"people": 1, "imported": 3, "simulated": 1}
    assert context["comparisons"] == {"open": 0, "done": 5}
    assert [(value, number) for value, _label, number in context["splits"]] == [
        ("train", 5),
        ("held_out", 0),
        ("review", 0),
    ]


# --- export -----------------------------------------------------------------------------------------


def test_the_export_is_a_safe_attachment(project: Project, engineer: User, sign_in: SignIn) -> None:
    imports.run_import(an_import(project, engineer, rows()))
    make_preference(project=project, simulated=True)
    client = sign_in(engineer)
    url = reverse("export_preferences", args=[project.slug])
    answer = client.get(url, {"with_imported": "on"})
    lines = b"".join(answer.streaming_content).decode().splitlines()
    assert [json.loads(line)["prompt"][0]["content"] for line in lines] == [
        "Where is 0?",
        "Where is 1?",
        "Where is 2?",
    ]
    assert answer["Content-Disposition"].startswith(f'attachment; filename="trl-{project.slug}-')
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Content-Type"] == "application/jsonl; charset=utf-8"
    number = {
        query: len(b"".join(client.get(url + query).streaming_content).splitlines())
        for query in ("", "?with_simulated=on", "?with_simulated=on&with_imported=on")
    }
    assert list(number.values()) == [0, 1, 4]
    assert set(
        AuditEntry.objects.filter(action="preferences.exported").values_list("project", flat=True)
    ) == {project.pk}


def test_the_form_selects_what_is_exported(project: Project, engineer: User, sign_in: SignIn) -> None:
    mine = make_preference(project=project)
    make_preference(project=project)
    stranger = make_preference()
    client = sign_in(engineer)
    url = reverse("export_preferences", args=[project.slug])

    def number(**query: Any) -> int:
        answer = client.get(url, query)
        assert answer.status_code == 200
        return len(b"".join(answer.streaming_content).splitlines())

    assert number() == 2
    assert number(annotator=mine.annotator_id) == 1
    assert number(purpose="gold") == 0
    assert number(purpose="all", format="judgements", every="on") == 2
    assert number(since="2100-01-01") == 0
    assert number(split="review") == 0
    assert number(format="csv") == 3
    for wrong in (
        {"annotator": stranger.annotator_id},
        {"format": "xml"},
        {"purpose": "comparison__project"},
        {"split": "x"},
        {"since": "yesterday"},
    ):
        answer = client.get(url, wrong)
        assert answer.status_code == 400, wrong
        assert b'class="errors"' in answer.content
    kept = AuditEntry.objects.filter(action="preferences.exported").first()
    assert kept is not None and kept.detail["format"] == "csv"


@pytest.mark.parametrize(
    ("format", "extension", "content_type"),
    [
        ("hh", "jsonl", "application/jsonl; charset=utf-8"),
        ("csv", "csv", "text/csv; charset=utf-8"),
        ("label_studio", "json", "application/json; charset=utf-8"),
    ],
)
def test_a_download_is_named_by_its_format(
    project: Project, engineer: User, sign_in: SignIn, format: str, extension: str, content_type: str
) -> None:
    make_preference(project=project)
    answer = sign_in(engineer).get(reverse("export_preferences", args=[project.slug]), {"format": format})
    assert answer["Content-Type"] == content_type
    assert answer["Content-Disposition"].startswith(f'attachment; filename="{format}-{project.slug}-')
    assert answer["Content-Disposition"].endswith(f'.{extension}"')


@pytest.mark.django_db(transaction=True)
def test_under_asgi_the_export_is_sent_while_it_is_read() -> None:
    project = make_project()
    engineer = make_member(project=project, role=Role.ENGINEER)
    imports.run_import(an_import(project, engineer, rows(300)))

    async def download() -> list[bytes]:
        client = AsyncClient()
        await client.aforce_login(engineer, backend="django.contrib.auth.backends.ModelBackend")
        url = reverse("export_preferences", args=[project.slug])
        answer = await client.get(url, {"with_imported": "on"})
        assert answer.is_async
        return [chunk async for chunk in answer.streaming_content]

    chunks = async_to_sync(download)()
    assert [len(chunk.splitlines()) for chunk in chunks] == [250, 50]


def test_a_file_name_with_a_turned_reading_direction_is_straightened(
    project: Project, engineer: User, sign_in: SignIn
) -> None:
    send(sign_in(engineer), project, rows(), name="a\u202elnosj.exe")
    assert DataImport.objects.get().file_name == "alnosj.exe"
