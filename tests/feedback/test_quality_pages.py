"""The pages of quality and disagreements: who sees them, what they say and leave out, what they cost."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse
from django.utils import timezone

from feedback.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    Preference,
    Project,
    Prompt,
    User,
)
from feedback.views.quality_charts import number, shade
from tests.factories import make_member, make_preference, make_user
from tests.feedback.deciding import judged_by

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


def page(client: Client, project: Project, name: str = "quality", query: str = "") -> Any:
    return client.get(reverse(name, args=[project.slug]) + query)


def test_reviewers_and_above(
    project: Project, annotator: User, reviewer: User, engineer: User, sign_in: SignIn
) -> None:
    for name in ("quality", "disagreements"):
        assert page(sign_in(annotator), project, name).status_code == 404
        for person in (reviewer, engineer):
            assert page(sign_in(person), project, name).status_code == 200
    assert reverse("quality", args=[project.slug]) in page(sign_in(reviewer), project).content.decode()


def test_an_empty_project_says_what_to_do(project: Project, reviewer: User, sign_in: SignIn) -> None:
    client = sign_in(reviewer)
    assert "Nobody has judged here yet" in page(client, project).content.decode()
    assert "Nothing by simulated" in page(client, project, query="?by=simulated").content.decode()
    assert "People agree" in page(client, project, "disagreements").content.decode()
    assert (
        "Nothing is decided yet" in page(client, project, "disagreements", "?show=decided").content.decode()
    )


def test_the_page_has_each_figure_in_words_and_drawn(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn
) -> None:
    draw = random.Random(1)
    for _number in range(20):
        better = draw.choice((-2, 2))
        judged_by(people, project, better, better, draw.randrange(-3, 4))
    html = page(sign_in(reviewer), project).content.decode()
    for words in ("Raw agreement", "Fleiss&#x27; kappa", "Krippendorff&#x27;s alpha", "Who agrees with whom"):
        assert words in html
    # Every drawing has its words, and none needs a style attribute or a script. Three figures; all and
    # three people by position, by length where lengths differ, and by time.
    drawn = 3 + 4 + 4 + (4 if "Longer preferred" in html else 0)
    assert html.count("<svg") == html.count('role="img" aria-label="') == drawn
    assert " style=" not in html
    assert "People disagree on" in html


def test_people_and_simulated_annotators_are_never_mixed(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn
) -> None:
    comparison = judged_by(people, project, 1, 1)
    robot = make_user(username="the-robot", simulated=True)
    make_preference(comparison=comparison, annotator=robot, strength=-3, simulated=True)
    client = sign_in(reviewer)
    ours = page(client, project)
    assert ours.context["judged"] == 2 and "the-robot" not in ours.content.decode()
    theirs = page(client, project, query="?by=simulated")
    assert theirs.context["judged"] == 1 and "not people" in theirs.content.decode()
    assert people[0].username not in theirs.content.decode()


def test_disagreements_are_in_pages_and_leave_when_decided(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn
) -> None:
    for _number in range(12):
        judged_by(people, project, -1, 2)
    client = sign_in(reviewer)
    first = page(client, project, "disagreements")
    assert (len(first.context["rows"]), first.context["undecided"]) == (10, 12)
    assert len(page(client, project, "disagreements", "?page=2").context["rows"]) == 2
    pk = first.context["rows"][0]["comparison"].pk
    client.post(reverse("adjudication", args=[project.slug, pk]), {"since": "", "strength": "1"})
    after = page(client, project, "disagreements")
    assert (after.context["undecided"], after.context["decided"]) == (11, 1)
    (row,) = page(client, project, "disagreements", "?show=decided").context["rows"]
    assert row["comparison"].pk == pk and row["decision"]["words"] == "B slightly"
    assert [said["words"] for said in row["said"]] == ["A slightly", "B better"]


@pytest.fixture
def only_three(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages look at the latest three judgements of a kind."""
    for name in ("feedback.quality_rows.LATEST", "feedback.quality.LATEST", "feedback.views.quality.LATEST"):
        monkeypatch.setattr(name, 3)


@pytest.mark.usefixtures("only_three")
def test_pages_say_what_they_leave_out_only_when_they_do(
    project: Project, people: list[User], sign_in: SignIn
) -> None:
    client = sign_in(make_member(project=project, role="reviewer"))
    judged_by(people, project, 1, -1, 2)  # three: all of them are looked at
    listed, figures = reverse("disagreements", args=[project.slug]), reverse("quality", args=[project.slug])
    assert "latest 3 judgements" not in client.get(listed).content.decode()
    assert "latest 3 judgements" not in client.get(figures).content.decode()
    judged_by(people, project, 1)
    assert "earlier disagreements are not listed" in client.get(listed).content.decode()
    assert "latest 3 judgements" in client.get(figures).content.decode()
    decided = client.get(f"{listed}?show=decided").content.decode()
    assert "not listed" not in decided  # of decisions there all are


def test_reasons_are_translated_where_they_are_shown(
    project: Project, people: list[User], sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged_by(people, project, 1, 1)
    client = sign_in(make_member(project=project, role="reviewer"))
    page = reverse("quality", args=[project.slug])
    assert "everybody always gave the same one answer" in client.get(page).content.decode()
    monkeypatch.setattr("feedback.views.quality._", lambda words: f"<{words}>")
    assert "&lt;everybody always gave the same one answer&gt;" in client.get(page).content.decode()


def test_numbers_and_shades() -> None:
    assert [number(value) for value in (None, 0.5, -0.25, -0.001)] == ["–", "0.50", "−0.25", "0.00"]
    assert [shade(value) for value in (None, -0.3, 0.1, 0.2, 0.59, 0.7, 1)] == [0, 0, 1, 2, 3, 4, 5]


# --- cost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["quality", "disagreements"])
def test_the_number_of_queries_does_not_grow(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn, name: str
) -> None:
    client = sign_in(reviewer)
    judged_by(people, project, -1, 2)
    with CaptureQueriesContext(connection) as few:
        page(client, project, name)
    for kind in ("pairwise", "ranking", "rating"):
        fill(project, people, 8, kind=kind)
    with CaptureQueriesContext(connection) as many:
        assert page(client, project, name).status_code == 200
    assert len(many) == len(few) <= 16


@pytest.mark.parametrize("name", ["quality", "disagreements"])
@pytest.mark.parametrize("kind", ["pairwise", "ranking", "rating"])
def test_twice_the_judgements_are_at_most_twice_the_work(
    project: Project, people: list[User], reviewer: User, sign_in: SignIn, kind: str, name: str
) -> None:
    """Counted in calls of functions, which no busy machine changes.

    Of what each page costs anyhow nothing is seen in the steps: the second step is of twice the judgements,
    and of a square it would cost four times the first.
    """
    client = sign_in(reviewer)
    cost = []
    for before, more in ((0, 130), (130, 130), (260, 260)):
        fill(project, people, more, kind=kind, begin=before)
        page(client, project, name)  # what is read once in a process
        cost.append(calls_of(lambda: page(client, project, name)))
    assert cost[2] - cost[1] < 2.2 * (cost[1] - cost[0])


def calls_of(work: Callable[[], object]) -> int:
    count = 0

    def counted(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counted)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def fill(project: Project, people: list[User], comparisons: int, *, kind: str, begin: int = 0) -> None:
    """Comparisons of this kind, each judged by three people at random."""
    draw, now, count = random.Random(2), timezone.now(), 4 if kind == "ranking" else 2
    prompts = Prompt.objects.bulk_create(
        Prompt(project=project, messages=[{"role": "user", "content": str(n)}], content_hash=f"{kind} {n}")
        for n in range(begin, begin + comparisons)
    )
    texts = Completion.objects.bulk_create(
        Completion(prompt=prompt, text="word " * draw.randrange(2, 90), text_hash=str(n), source="imported")
        for prompt in prompts
        for n in range(count)
    )
    made = Comparison.objects.bulk_create(
        Comparison(project=project, prompt=prompt, kind=kind, overlap=3, missing=0, shuffle=n)
        for n, prompt in enumerate(prompts)
    )
    Candidate.objects.bulk_create(
        Candidate(comparison=row, completion=texts[n * count + place], position=place)
        for n, row in enumerate(made)
        for place in range(count)
    )
    held = Assignment.objects.bulk_create(
        Assignment(
            comparison=row, annotator=person, state="judged", lease_expires_at=now,
            shown_order=draw.sample(range(count), count),
        )
        for row in made
        for person in draw.sample(people, 3)
    )  # fmt: skip
    Preference.objects.bulk_create(
        Preference(
            assignment=row, comparison=row.comparison, annotator=row.annotator, kind=kind,
            shown_order=row.shown_order, idempotency_key=f"{kind} {begin} {n}", body_hash="",
            active_ms=draw.randrange(2000, 60_000), **said_of(project, kind, count, draw),
        )
        for n, row in enumerate(held)
    )  # fmt: skip


def said_of(project: Project, kind: str, count: int, draw: random.Random) -> dict[str, Any]:
    if kind == "pairwise":
        return {"strength": draw.randrange(-3, 4)}
    if kind == "ranking":
        return {"ranking": [[place] for place in draw.sample(range(count), count)]}
    return {"ratings": [{name: draw.randrange(1, 6) for name in project.criteria} for _ in range(count)]}
