"""Judgements that no page sends: each is refused beside what was typed, and nothing is recorded."""

from __future__ import annotations

from typing import Any

import pytest

from feedback.models import Preference, Project
from tests.factories import make_comparison
from tests.feedback.judging import Annotator, form_in

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"strength": ""}, "Choose one of the seven steps first"),
        ({"strength": ["-2", "2"]}, "“strength” was sent with several values: -2, 2."),
        ({"strength": "4"}, "Select a valid choice. 4 is not one of the available choices."),
        ({"acceptability": ["both", "neither"]}, "“acceptability” was sent with several values"),
        ({"stregth": "1"}, "Unknown key “stregth”."),
        ({"rank_0": "1"}, "Unknown key “rank_0”."),
        ({"is_gold": "1"}, "Unknown key “is_gold”."),
        ({"flags": "spam"}, "Select a valid choice. spam is not one of the available choices."),
        ({"comment": "x" * 4001}, "at most 4000 characters (it has 4001)"),
    ],
)
def test_a_judgement_that_cannot_be_meant_is_refused_and_kept(
    project: Project, mei: Annotator, change: dict[str, Any], reason: str
) -> None:
    make_comparison(project=project)
    response = mei.post(form_in(mei.get()) | {"strength": "2", "comment": "typed"} | change)
    html = response.content.decode()
    assert response.status_code == 422 and reason in html
    assert "typed</textarea>" in html or "xxx</textarea>" in html
    assert not Preference.objects.exists()


def test_the_same_value_twice_is_one_answer(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    response = mei.post(form_in(mei.get()) | {"strength": ["2", "2"], "flags": ["unsafe", "private"]})
    assert response.status_code == 200
    assert Preference.objects.get().flags == ["unsafe", "private"]


def test_a_key_over_128_characters_is_refused(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    response = mei.post(form_in(mei.get()) | {"strength": "2", "key": "k" * 129})
    assert response.status_code == 422 and "at most 128 characters (it has 129)" in response.content.decode()
    assert not Preference.objects.exists()
