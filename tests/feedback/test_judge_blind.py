"""Two worlds that differ in all that an annotator must not know look the same to them, byte for byte."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from django.test import Client
from django.urls import reverse

from feedback.models import Preference, Project, User
from tests.factories import (
    make_completion,
    make_member,
    make_model_version,
    make_preference,
    make_project,
    make_prompt,
    make_user,
    put_up,
)
from tests.feedback.judging import Annotator, form_in

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


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
