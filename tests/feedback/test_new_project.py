"""The form of a new project."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from feedback.asked import MOST_CANDIDATES
from feedback.models import ComparisonKind, Project
from tests.factories import make_comparison, make_project, make_superuser
from tests.feedback.importing import imported

pytestmark = pytest.mark.django_db


@pytest.fixture
def maker(sign_in: Any) -> Client:
    found: Client = sign_in(make_superuser())
    return found


def make(maker: Client, **fields: str) -> Project:
    before = set(Project.objects.values_list("pk", flat=True))
    answer = maker.post(reverse("project_create"), {"kind": "pairwise", "overlap": "1", **fields})
    assert answer.status_code == 302, answer.content.decode()
    return Project.objects.exclude(pk__in=before).get()


def test_every_kind_is_offered_with_a_line_that_says_what_it_is(maker: Client) -> None:
    html = maker.get(reverse("project_create")).content.decode()
    for kind in ComparisonKind:
        assert f'type="radio" name="kind" value="{kind.value}"' in html
        assert str(kind.label) in html
    assert html.count('<span class="help">') == len(ComparisonKind)
    assert 'value="pairwise" required id="id_kind_0" checked' in html.replace(
        'aria-describedby="id_kind_helptext" ', ""
    ).replace(' aria-describedby="id_kind_helptext"', "")


@pytest.mark.parametrize(
    ("kind", "question", "shown"),
    [
        ("pairwise", "Which answer is better?", 2),
        ("ranking", "Which completion is best, which is worst?", 4),
        ("rating", "How good is each completion?", 2),
        ("demonstration", "What would a very good completion be?", 0),
    ],
)
def test_a_project_of_each_kind_is_ready_for_it(maker: Client, kind: str, question: str, shown: int) -> None:
    project = make(maker, name="Tone", kind=kind)
    assert (project.kind, project.question, project.wanted_candidates) == (kind, question, shown)
    assert make(maker, name="Tone", kind=kind, question="Kinder?").question == "Kinder?"


@pytest.mark.parametrize(
    ("question", "then"), [("", "How good is each completion?"), ("Kinder?", "Kinder?")], ids=["usual", "own"]
)
def test_the_usual_question_goes_with_the_kind_and_an_own_one_stays(
    maker: Client, question: str, then: str
) -> None:
    project = make(maker, name="Tone", kind="ranking", question=question)
    make_comparison(project=project, kind="ranking", texts=("a", "b"))
    settings = reverse("project_settings", args=[project.slug])
    fields = maker.get(settings).context["form"].initial | {"kind": "rating"}
    assert maker.post(settings, fields).status_code == 302
    project.refresh_from_db()
    assert (project.kind, project.question) == ("rating", then)
    # What was put up before is still a ranking, here of two.
    page = maker.get(reverse("judge", args=[project.slug])).content.decode()
    assert f'tabindex="-1">{question or "Which completion is better?"}</h1>' in page


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("Support answers", "support-answers"),
        ("Änderungen & Größen", "anderungen-groen"),
        ("日本語", "project"),
        ("x" * 80, "x" * 70),
    ],
)
def test_an_address_is_made_from_the_name(maker: Client, name: str, slug: str) -> None:
    assert make(maker, name=name, slug="").slug == slug
    assert make(maker, name=name).slug == f"{slug}-2"
    assert make(maker, name=name).slug == f"{slug}-3"


def test_a_typed_address_is_kept_and_never_changed_without_a_word(maker: Client) -> None:
    assert make(maker, name="One", slug="Mine").slug == "mine"
    make_project(slug="taken")
    answer = maker.post(
        reverse("project_create"), {"name": "N", "kind": "pairwise", "overlap": "1", "slug": "taken"}
    )
    assert answer.status_code == 200 and "already exists" in answer.content.decode()


def test_the_settings_say_how_many_completions_a_file_brings(maker: Client) -> None:
    project = make(maker, name="Order", kind="ranking")
    html = maker.get(reverse("project_settings", args=[project.slug])).content.decode()
    assert f"The completions in a row of an imported file stay together, up to {MOST_CANDIDATES}." in html
    many = [str(number) for number in range(MOST_CANDIDATES)]
    imported(project, json.dumps({"prompt": "p", "completions": many}), options={"put_up": True})
    comparison = project.comparisons.get()
    assert comparison.candidates.count() == MOST_CANDIDATES > project.candidates


def test_a_kind_that_there_is_not_is_refused(maker: Client) -> None:
    answer = maker.post(reverse("project_create"), {"name": "N", "kind": "guess", "overlap": "1"})
    assert "not one of the available choices" in answer.content.decode()
    assert not Project.objects.exists()
