"""What is submitted, be it twice, late, with a gap or to a closed project: one judgement stays one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from feedback.models import Assignment, Preference, Project, User
from tests.factories import (
    make_comparison,
    make_member,
    make_preference,
)
from tests.feedback.judging import Annotator, form_in

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


def test_submit_answers_with_the_next_comparison(project: Project, mei: Annotator) -> None:
    for number in range(2):
        make_comparison(project=project, priority=-number, texts=(f"a{number}", f"b{number}"))
    answer = form_in(mei.get()) | {
        "strength": "-2",
        "acceptability": "one",
        "active_ms": "1500",
        "comment": "hm",
    }
    response = mei.post(answer | {"flags": ["unsafe", "private"]})
    assert response.status_code == 200
    assert "a1" in response.content.decode() and "<html" not in response.content.decode()
    preference = Preference.objects.get()
    shown_first = preference.shown_order[0]
    assert preference.strength == (-2 if shown_first == 0 else 2)
    assert (preference.acceptability, preference.active_ms) == ("one", 1500)
    assert (preference.comment, preference.flags) == ("hm", ["unsafe", "private"])


def test_submit_without_script_redirects_back(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    response = mei.client.post(mei.path, form_in(mei.get()) | {"strength": "0"})
    assert (response.status_code, response["Location"]) == (302, mei.path)
    assert Preference.objects.get().strength == 0


def test_submit_resent_is_one_judgement(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    make_comparison(project=project)
    answer = form_in(mei.get()) | {"strength": "1", "active_ms": "10"}
    first = mei.post(answer)
    again = mei.post(answer | {"active_ms": "99"})
    assert (first.status_code, again.status_code) == (200, 200)
    assert form_in(first.content.decode())["assignment"] == form_in(again.content.decode())["assignment"]
    assert Preference.objects.count() == 1


def test_submit_same_key_other_answer_is_refused_in_words(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    answer = form_in(mei.get()) | {"strength": "1"}
    mei.post(answer)
    response = mei.post(answer | {"strength": "-1"})
    assert response.status_code == 422
    assert "Sent before with another judgement" in response.content.decode()
    assert abs(Preference.objects.get().strength or 0) == 1 and Preference.objects.count() == 1


def test_submit_from_two_tabs_is_one_judgement(project: Project, mei: Annotator) -> None:
    for _number in range(2):
        make_comparison(project=project)
    one, two = form_in(mei.get()), form_in(mei.get())
    assert one["assignment"] == two["assignment"] and one["key"] != two["key"]
    mei.post(one | {"strength": "3"})
    response = mei.post(two | {"strength": "-3"})
    assert response.status_code == 200
    assert "already, in another tab" in response.content.decode()
    assert Preference.objects.get().idempotency_key == one["key"]


# --- after the lease --------------------------------------------------------------------------------


@pytest.fixture
def overtaken(project: Project, mei: Annotator, sign_in: SignIn) -> dict[str, str]:
    """Mei's form, still open when her lease ran out and somebody else took the comparison over."""
    make_comparison(project=project)
    fields = form_in(mei.get())
    Assignment.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    Annotator(sign_in(make_member(project=project)), project).get()
    return fields


def test_submit_after_the_lease_is_kept_and_says_so(mei: Annotator, overtaken: dict[str, str]) -> None:
    response = mei.post(overtaken | {"strength": "2"})
    assert response.status_code == 200
    said = "Saved. Your time for it had run out; it counts as an extra judgement."
    assert said in response.content.decode()
    assert Preference.objects.get().late


def test_undo_of_an_extra_judgement_says_that_others_have_it(
    mei: Annotator, overtaken: dict[str, str]
) -> None:
    mei.post(overtaken | {"strength": "2"})
    html = mei.post({"assignment": overtaken["assignment"]}, mei.verb("undo")).content.decode()
    assert "It was an extra judgement: others have the comparison now." in html
    assert 'id="judgement"' not in html


# --- in a closed project ----------------------------------------------------------------------------


def test_submit_to_a_closed_project_says_so_and_gives_back_what_was_typed(
    project: Project, mei: Annotator
) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get())
    Assignment.objects.update(draft={"comment": "begun"})
    Project.objects.update(archived_at=timezone.now())
    response = mei.post(fields | {"strength": "2", "comment": "<b>why</b>"})
    assert (response.status_code, response["X-Judging"]) == (409, "closed")
    html = response.content.decode()
    assert "Project closed" in html and "was not saved" in html
    assert "&lt;b&gt;why&lt;/b&gt;" in html
    assert not Preference.objects.exists()
    assert Assignment.objects.get().draft == {"comment": "begun"}
    Project.objects.update(archived_at=None)
    assert mei.post(fields | {"strength": "2"}).status_code == 200
    assert Preference.objects.get().strength is not None


def test_every_verb_of_a_closed_project_says_so(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get()) | {"reason": "unclear"}
    Project.objects.update(archived_at=timezone.now())
    answers = [mei.post(fields, mei.verb(name)) for name in ("skip", "undo", "ahead", "draft", "renew")]
    answers += [mei.client.get(mei.path), mei.client.get(mei.verb("text"), {"assignment": 1, "place": 0})]
    for answer in answers:
        assert (answer.status_code, answer["X-Judging"]) == (409, "closed")
        html = answer.content.decode()
        assert "Project closed" in html and "was not saved" not in html
    assert Assignment.objects.get().state == "leased"


def test_a_closed_project_tells_only_who_worked_in_it(
    project: Project, outsider: User, sign_in: SignIn
) -> None:
    Project.objects.update(archived_at=timezone.now())
    client = sign_in(outsider)
    assert client.get(reverse("judge", args=[project.slug])).status_code == 404
    assert client.post(reverse("judge", args=[project.slug]), {"assignment": 1}).status_code == 404


# --- with a gap -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ({"strength": ""}, "Choose one of the seven steps"),
        ({"strength": "4"}, "Select a valid choice"),
        ({"strength": "0", "acceptability": "one"}, "A tie has no better one"),
        ({"strength": "1", "comment": "x" * 4001}, "at most 4000"),
        ({"strength": "1", "flags": ["model"]}, "Select a valid choice"),
        ({"strength": "1", "key": "k" * 129}, "at most 128"),
        ({"strength": "1", "written": "x"}, "Say which completion this text improves."),
        ({"strength": "1", "written": "x", "corrects": "2"}, "There is no completion at this place."),
    ],
)
def test_submit_refused_keeps_what_was_said(
    project: Project, mei: Annotator, said: dict[str, Any], wanted: str
) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get())
    response = mei.post({"comment": "typed with care"} | fields | said)
    html = response.content.decode()
    assert response.status_code == 422 and wanted in html
    assert said.get("comment", "typed with care") in html
    assert form_in(html)["assignment"] == fields["assignment"]
    assert not Preference.objects.exists()


# --- cost -------------------------------------------------------------------------------------------


def queries_of_a_submit(mei: Annotator, fields: dict[str, str]) -> int:
    with CaptureQueriesContext(
        connection,
    ) as captured:
        assert mei.post(fields | {"strength": "1"}).status_code == 200
    return len(captured)


def test_submit_costs_the_same_however_much_there_is(project: Project, mei: Annotator) -> None:
    for _number in range(4):
        make_comparison(project=project)
    few = queries_of_a_submit(mei, form_in(mei.get()))
    for _number in range(40):
        make_preference(project=project)
        make_comparison(project=project)
    for _number in range(20):
        mei.post(form_in(mei.get()) | {"strength": "1"})
    many = queries_of_a_submit(mei, form_in(mei.get()))
    assert many == few == (20 if connection.features.has_select_for_update else 18)
