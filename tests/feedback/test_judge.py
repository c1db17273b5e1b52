"""The judging pages: who may come in, what they show and hide, and that one judgement stays one."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.http import HttpResponse
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from feedback.models import Assignment, Preference, Project, User
from tests.factories import (
    make_comparison,
    make_completion,
    make_member,
    make_model_version,
    make_preference,
    make_project,
    make_prompt,
    make_user,
    put_up,
)

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]
HTMX = {"HX-Request": "true"}


class Annotator:
    """What a browser does on the judging page."""

    def __init__(self, client: Client, project: Project) -> None:
        self.client = client
        self.path = reverse("judge", args=[project.slug])
        self.responses: list[HttpResponse] = []

    def get(self, **options: Any) -> str:
        return self.text(self.client.get(self.path, **options))

    def post(self, fields: dict[str, Any], path: str = "", **options: Any) -> HttpResponse:
        response = self.client.post(path or self.path, fields, headers=HTMX, **options)
        self.responses.append(response)
        return response

    def text(self, response: HttpResponse) -> str:
        self.responses.append(response)
        return response.content.decode()

    def verb(self, name: str) -> str:
        return f"{self.path}{name}/"


def form_in(html: str) -> dict[str, str]:
    """The hidden fields of the judgement form."""
    form = html[html.index('id="judgement"') :]
    return {
        name: re.search(rf'name="{name}" value="([^"]+)"', form)[1]
        for name in ("assignment", "fencing_token", "key")
    }  # type: ignore[index]


@pytest.fixture
def mei(project: Project, sign_in: SignIn) -> Annotator:
    return Annotator(sign_in(make_member(project=project)), project)


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


def world(*, secret: bool) -> tuple[Project, User]:
    """Three comparisons; in the secret world all that an annotator must not know is different."""
    rate = 0.5 if secret else 0
    project = make_project(slug="secret" if secret else "plain", name="Same", overlap=2, gold_rate=rate)
    version = make_model_version(project=project) if secret else None
    peer = make_member(
        project=project,
        user=make_user(username="peer-of-mine" if secret else "somebody", simulated=not secret),
    )
    for number, purpose in enumerate(("gold", "review", "training")):
        prompt = make_prompt(project=project, text=f"Prompt {number}")
        about = (
            {"finish_reason": "length", "sampling": {"seed": 987654321}, "logprob": -3.25} if secret else {}
        )
        completions = [
            make_completion(prompt=prompt, text=f"text {number} {side}", model_version=version, **about)
            for side in "xy"
        ]
        kept = {"purpose": purpose, "gold_answer": {"strength": 3} if purpose == "gold" else None}
        comparison = put_up(prompt, completions, priority=-number, **(kept if secret else {}))
        said = {"comment": "what a peer said", "strength": 3} if secret else {"strength": -1}
        make_preference(comparison=comparison, annotator=peer, **said)
    return project, make_member(project=project, user=make_user(username=f"me-{project.slug}"))


def walk(browser: Annotator) -> list[str]:
    """Everything an annotator meets: judge, skip, undo, a mistake, a replay, the empty page, own progress."""
    html = browser.get()
    fields = form_in(html) | {"strength": "2", "active_ms": "900"}
    browser.post({**fields, "strength": ""})
    browser.post(fields)
    browser.post(fields)
    browser.post({**fields, "strength": "-3"})
    fields = form_in(browser.get()) | {"reason": "unclear"}
    browser.post(fields, browser.verb("renew"))
    browser.post(fields, browser.verb("skip"))
    browser.post({}, browser.verb("undo"))
    for _rest in range(2):
        browser.post(form_in(browser.get()) | {"strength": "-1"})
    browser.get()
    browser.text(browser.client.get(reverse("progress", args=[browser.path.split("/")[2]])))
    return [f"{r.status_code} {sorted(r.headers)} {r.content.decode()}" for r in browser.responses]


def without_names(text: str) -> str:
    """Cut what differs between any two people and projects: keys, tokens, row numbers, names, times."""
    text = re.sub(r'(name="(?:key|csrfmiddlewaretoken|assignment)" value=)"[^"]*"', r"\1", text)
    text = re.sub(r'(X-CSRFToken": )"[^"]*"', r"\1", text)
    text = re.sub(r'(data-(?:person|assignment)=)"\d+"', r"\1", text)
    text = re.sub(r'datetime="[^"]*">[^<]*<|\d+ \w{3} \d\d:\d\d', "", text)
    return re.sub(r"\b(?:me-)?(?:secret|plain)\b", "NAME", text)


def test_judge_is_blind(sign_in: SignIn, monkeypatch: pytest.MonkeyPatch) -> None:
    # The coins are no difference: each world shows its comparisons in the same order and the same way round.
    monkeypatch.setattr("feedback.queue.draw_order", lambda count: [0, 1])
    monkeypatch.setattr("feedback.queue.gold_is_due", lambda project: True)
    seen = {}
    for secret in (False, True):
        project, me = world(secret=secret)
        seen[secret] = walk(Annotator(sign_in(me), project))
    assert len(seen[True]) == 15
    assert [status[:3] for status in seen[True]].count("422") == 2
    assert list(map(without_names, seen[True])) == list(map(without_names, seen[False]))
    everything = "\n".join(seen[True])
    version = (
        Preference.objects.filter(comment="what a peer said")
        .first()
        .comparison.completions.first()
        .model_version
    )  # type: ignore[union-attr]
    assert version is not None
    for hidden in (
        version.content_hash,
        str(version),
        "987654321",
        "peer-of-mine",
        "what a peer said",
        "gold",
    ):
        assert hidden not in everything


# --- one judgement stays one ------------------------------------------------------------------------


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


def test_submit_after_the_lease_is_kept_and_says_so(
    project: Project, mei: Annotator, sign_in: SignIn
) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get())
    Assignment.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    Annotator(sign_in(make_member(project=project)), project).get()  # takes it over
    response = mei.post(fields | {"strength": "2"})
    assert response.status_code == 200
    said = "Saved. Your time for it had run out; it counts as an extra judgement."
    assert said in response.content.decode()
    assert Preference.objects.get().late


def test_undo_of_an_extra_judgement_says_that_others_have_it(
    project: Project, mei: Annotator, sign_in: SignIn
) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get())
    Assignment.objects.update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    Annotator(sign_in(make_member(project=project)), project).get()  # takes it over
    mei.post(fields | {"strength": "2"})
    html = mei.post({"assignment": fields["assignment"]}, mei.verb("undo")).content.decode()
    assert "It was an extra judgement: others have the comparison now." in html
    assert 'id="judgement"' not in html


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


def test_judge_says_why_nothing_is_left(project: Project, mei: Annotator, sign_in: SignIn) -> None:
    assert "Nothing to judge yet" in mei.get()
    make_comparison(project=project)
    other = Annotator(sign_in(make_member(project=project)), project)
    theirs = form_in(other.get())
    assert "in somebody" in mei.get()
    other.post(theirs | {"strength": "1"})
    assert "All judged" in mei.get()


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
