"""The judging pages: who may come in, what they show and hide, and how one leaves or takes back."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from feedback.models import Assignment, Preference, Project, User
from tests.factories import (
    make_comparison,
    make_member,
    make_preference,
    make_project,
    make_prompt,
)
from tests.feedback.judging import Annotator, form_in

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]

# --- who may come in --------------------------------------------------------------------------------


def test_judge_every_role_may_judge(project: Project, sign_in: SignIn) -> None:
    for role in ("annotator", "reviewer", "engineer", "admin"):
        client = sign_in(make_member(project=project, role=role))
        assert client.get(reverse("judge", args=[project.slug])).status_code == 200
        assert client.get(reverse("progress", args=[project.slug])).status_code == 200


def test_judge_outsiders_find_nothing(project: Project, outsider: User, sign_in: SignIn) -> None:
    make_comparison(project=project)
    client = sign_in(outsider)
    for name in ("judge", "progress"):
        assert client.get(reverse(name, args=[project.slug])).status_code == 404
    for name in ("judge", "judge_skip", "judge_undo", "judge_renew"):
        assert client.post(reverse(name, args=[project.slug]), {"assignment": 1}).status_code == 404
    assert not Assignment.objects.exists()


def test_judge_asks_strangers_to_sign_in(project: Project, client: Client) -> None:
    response = client.get(reverse("judge", args=[project.slug]))
    assert (response.status_code, response["Location"].split("?")[0]) == (302, reverse("sign_in"))


def test_judge_another_persons_assignment_is_not_found(
    project: Project, mei: Annotator, sign_in: SignIn
) -> None:
    make_comparison(project=project)
    theirs = form_in(mei.get()) | {"strength": "1", "reason": "unclear"}
    other = Annotator(sign_in(make_member(project=project)), project)
    for path in (other.path, other.verb("skip"), other.verb("undo"), other.verb("renew")):
        assert other.post(theirs, path).status_code == 404
    assert Assignment.objects.get().state == "leased"
    assert not Preference.objects.exists()


def test_judge_an_assignment_of_another_project_is_not_found(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get()) | {"strength": "1"}
    elsewhere = make_project()
    make_member(project=elsewhere, user=User.objects.get(pk=Assignment.objects.get().annotator_id))
    assert mei.post(fields, reverse("judge", args=[elsewhere.slug])).status_code == 404
    assert not Preference.objects.exists()


@pytest.mark.parametrize("assignment", ["", "x", "-1", "99999999999999999999999", "²"])
def test_judge_refuses_a_broken_assignment(project: Project, mei: Annotator, assignment: str) -> None:
    for path in (mei.path, mei.verb("skip"), mei.verb("renew")):
        assert mei.post({"assignment": assignment, "strength": "1"}, path).status_code == 404


# --- what the page shows and hides ------------------------------------------------------------------


def test_judge_shows_the_turns_and_both_completions_in_the_drawn_order(
    project: Project, mei: Annotator
) -> None:
    prompt = make_prompt(
        project=project,
        messages=[
            {"role": "user", "content": "Where is it?"},
            {"role": "assistant", "content": "Which order?"},
            {"role": "user", "content": "Order 7."},
        ],
    )
    make_comparison(prompt=prompt, texts=("canonical zero", "canonical one"))
    html = mei.get()
    places = [html.index(text) for text in ("Where is it?", "Which order?", "Order 7.")]
    assert places == sorted(places)
    zero_first = html.index("canonical zero") < html.index("canonical one")
    assert Assignment.objects.get().shown_order == ([0, 1] if zero_first else [1, 0])


def test_judge_shows_hostile_text_as_text(project: Project, mei: Annotator) -> None:
    payload = "<script>x</script><img src=x onerror=x><div hx-get=/x hx-trigger=load>{{ 7|add:1 }}"
    make_comparison(
        prompt=make_prompt(project=project, text=payload), texts=(payload + "1", "pay\u200bpal \u202eevil")
    )
    html = mei.get()
    for live in ("<script>x", "<img", "<div hx-get=/x"):
        assert live not in html
    assert "{{ 7|add:1 }}" in html
    assert html.count("&lt;script&gt;x") == 2
    assert "\u202e" not in html and "\u200b" not in html
    assert ">RLO</span>" in html and ">ZERO WIDTH SPACE</span>" in html


def test_judge_says_why_nothing_is_left(project: Project, mei: Annotator, sign_in: SignIn) -> None:
    assert "Nothing to judge yet" in mei.get()
    make_comparison(project=project)
    other = Annotator(sign_in(make_member(project=project)), project)
    theirs = form_in(other.get())
    assert "in somebody" in mei.get()
    other.post(theirs | {"strength": "1"})
    assert "All judged" in mei.get()


# --- skip, undo, renew ------------------------------------------------------------------------------


def test_skip_shows_the_next_and_undo_brings_it_back(project: Project, mei: Annotator) -> None:
    for number in range(2):
        make_comparison(project=project, priority=-number)
    first = form_in(mei.get())
    second = form_in(mei.post(first | {"reason": "language"}, mei.verb("skip")).content.decode())
    assert second["assignment"] != first["assignment"]
    assert Assignment.objects.get(pk=first["assignment"]).skip_reason == "language"
    back = form_in(mei.post({"assignment": first["assignment"]}, mei.verb("undo")).content.decode())
    assert back["assignment"] == first["assignment"]
    assert mei.post(back | {"reason": "because"}, mei.verb("skip")).status_code == 422


def test_undo_fills_in_what_was_said(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    mei.post(form_in(mei.get()) | {"strength": "-3", "acceptability": "neither", "comment": "first thought"})
    html = mei.post({}, mei.verb("undo")).content.decode()
    assert re.search(r'value="-3" required checked', html)
    assert re.search(r'value="neither" checked', html)
    assert "first thought" in html


def test_renew_says_when_the_comparison_is_lost(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get())
    assert mei.post(fields, mei.verb("renew")).status_code == 204
    Assignment.objects.update(fencing_token=2)
    assert mei.post(fields, mei.verb("renew")).status_code == 409


# --- own progress -----------------------------------------------------------------------------------


def test_progress_counts_only_own_judgements_in_force(project: Project, mei: Annotator) -> None:
    me = User.objects.get(pk=mei.client.session["_auth_user_id"])
    for milliseconds in (1000, 9000, 5000):
        make_preference(project=project, annotator=me, active_ms=milliseconds)
    make_preference(project=project)
    make_preference(project=make_project(), annotator=me)
    make_preference(project=project, annotator=me, imported=True, shown_order=[])
    Assignment.objects.filter(preferences__imported=True).update(shown_order=[])
    html = mei.get()
    assert "3 today" in html and "about 5 s each" in html
    mei.post({}, mei.verb("undo"))
    response = mei.client.get(reverse("progress", args=[project.slug]))
    assert (response.context["total"], response.context["today"].judged) == (2, 2)
    assert len(response.context["recent"]) == 2


def test_progress_changes_a_chosen_judgement(project: Project, mei: Annotator) -> None:
    for number in range(3):
        make_comparison(project=project, priority=-number)
    first = form_in(mei.get())
    second = form_in(mei.post(first | {"strength": "1"}).content.decode())
    mei.post(second | {"strength": "1"})
    response = mei.client.post(mei.verb("undo"), {"assignment": first["assignment"]})
    assert response["Location"] == mei.path
    assert form_in(mei.get())["assignment"] == first["assignment"]
