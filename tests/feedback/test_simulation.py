"""Simulated annotators: the taste they state, and that they work through the pages and nothing else."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.urls import reverse

from feedback import simulation
from feedback.annotating import PageError, read_page
from feedback.models import Assignment, Membership, Preference, Project, User
from feedback.simulation import Helpful, SimulatedAnnotator
from tests.factories import make_comparison, make_member, make_project, make_prompt, make_user

ASKED = [{"role": "user", "content": "My order 4711 was due on Monday and the kettle is still not here."}]
GOOD = (
    "I am sorry about the late parcel. I have sent a new kettle for order 4711. It will reach you by Friday."
)
PLAIN = "I have sent a new kettle for order 4711 by express today. It will reach you by Friday."
WORSE = {
    "wrong number": GOOD.replace("4711", "1234"),
    "wrong goods": GOOD.replace("kettle", "toaster"),
    "evasion": "There can be many reasons for the late parcel. Such things depend on many factors.",
    "curtness": "Order 4711 is late. That is all.",
    "over-apology": "I am so sorry. I apologise, I really do. Please forgive us, please forgive me.",
    "selling": "Great news! The new toaster is on sale this week. You will love the toaster, everybody does.",
    "empty ticket": "Your request has been received. Please do not reply to this message.",
    "blame": "You should have looked at the tracking page for order 4711.",
    "rambling": GOOD + " Many people ask about such things, and in winter even more people ask." * 5,
    "repetition": GOOD + " " + GOOD,
    "no end": GOOD[:-10],
    "nothing": "",
}


@pytest.mark.parametrize("what", WORSE)
def test_taste_prefers_help_to(what: str) -> None:
    taste = Helpful()
    assert taste.score(ASKED, GOOD) > taste.score(ASKED, WORSE[what]) + 0.5
    assert SimulatedAnnotator(taste).judge(ASKED, WORSE[what], GOOD).strength > 0
    assert SimulatedAnnotator(taste).judge(ASKED, GOOD, WORSE[what]).strength < 0


def test_taste_likes_courtesy_a_little() -> None:
    assert 0 < Helpful().score(ASKED, GOOD) - Helpful().score(ASKED, PLAIN) < 1


def test_equal_answers_tie_and_say_whether_they_are_good_enough() -> None:
    assert SimulatedAnnotator(Helpful()).judge(ASKED, GOOD, GOOD) == (0, "both")
    assert SimulatedAnnotator(Helpful()).judge(ASKED, WORSE["blame"], WORSE["blame"]) == (0, "neither")
    assert SimulatedAnnotator(Helpful()).judge(ASKED, WORSE["evasion"], GOOD).acceptability == "one"


@pytest.mark.parametrize(
    ("habits", "low", "high"),
    [
        # The share of 2,000 judgements that goes to the worse one, on the left; four standard deviations.
        ({"noise": 0.1}, 0.073, 0.127),
        ({"position_bias": 0.2}, 0.164, 0.236),
        ({"shuffled": True}, 0.455, 0.545),
        ({}, 0.0, 0.0),
    ],
)
def test_noise_bias_and_the_control_have_their_shares(habits: Any, low: float, high: float) -> None:
    annotator = SimulatedAnnotator(Helpful(), seed=7, **habits)
    left = sum(annotator.judge(ASKED, WORSE["evasion"], GOOD).strength < 0 for _ in range(2000))
    assert low <= left / 2000 <= high


def test_the_trainer_cannot_know_the_taste() -> None:
    root = Path(simulation.__file__).parent.parent
    for source in (root / "training").rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            module = (node.module or "") if isinstance(node, ast.ImportFrom) else ""
            assert not any("simulation" in f"{module}.{name}" for name in names), source


def simulate(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    call_command("simulate_annotators", *arguments)
    summary: dict[str, Any] = json.loads(capsys.readouterr().out)
    return summary


@pytest.mark.django_db(transaction=True)
def test_command_judges_through_the_pages(live_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    project = make_project(slug="desk")
    for number in range(12):
        prompt = make_prompt(project=project, text=f"Order 47{number:02d} is late. The kettle is not here.")
        good = GOOD.replace("4711", f"47{number:02d}")
        make_comparison(prompt=prompt, texts=(good, WORSE["evasion"]))
    arguments = ["desk", "--annotators", "3", "--base-url", live_server.url, "--noise", "0", "--seed", "1"]
    summary = simulate(capsys, *arguments, "--judgements", "8")
    assert (summary["judged"], summary["errors"], summary["ties"]) == (8, 0, 0)
    preferences = list(Preference.objects.all())
    assert len(preferences) == 8
    # Candidate 0 is the helpful one in each, wherever it was shown.
    assert all(row.strength is not None and row.strength < 0 and row.simulated for row in preferences)
    assert not Preference.objects.by_people().exists()
    assert not Assignment.objects.filter(state="leased").exists(), "leases stay behind"
    robots = User.objects.filter(simulated=True)
    assert robots.count() == 3 == Membership.objects.filter(project=project, role="annotator").count()
    assert not any(robot.has_usable_password() for robot in robots)
    rest = simulate(capsys, *arguments, "--judgements", "100")
    assert rest["judged"] == 4 and Preference.objects.count() == 12


@pytest.mark.django_db(transaction=True)
def test_command_says_when_the_pages_fail(live_server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    make_project(slug="desk")
    with pytest.raises(CommandError, match="2 requests failed"):
        call_command(
            "simulate_annotators", "desk", "--annotators", "2", "--base-url", live_server.url + "/nowhere"
        )
    assert json.loads(capsys.readouterr().out)["errors"] == 2


@pytest.mark.django_db
def test_command_takes_over_nobodys_account() -> None:
    project = make_project(slug="desk")
    person = make_member(project=project, user=make_user(username="simulated-desk-1", password="x" * 12))
    with pytest.raises(CommandError, match="is a person's account"):
        call_command("simulate_annotators", "desk", "--base-url", "http://127.0.0.1:1")
    person.refresh_from_db()
    assert person.check_password("x" * 12)


@pytest.mark.django_db
def test_a_page_of_another_kind_is_refused_in_words(
    project: Project, sign_in: Callable[[User], Client]
) -> None:
    make_comparison(project=project, kind="rating")
    html = sign_in(make_member(project=project)).get(reverse("judge", args=[project.slug])).content.decode()
    with pytest.raises(PageError, match="asks for a rating; simulated annotators judge pairs only"):
        read_page(html)
