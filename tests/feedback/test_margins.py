"""A margin between the steps: it comes out as it went in, and training goes by the nearest step."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feedback.models import Preference, Project
from tests.factories import make_project
from tests.feedback.exporting import again, imported, lines, needs_pyarrow, told

pytestmark = pytest.mark.django_db
MARGINS = [0.37, 0, 1e-7, 12.5, 0.1 + 0.2, 2.0, 1.5]


def rows(*margins: float) -> str:
    return "".join(
        json.dumps(
            {
                "prompt": [{"role": "user", "content": f"p{number}"}],
                "chosen": [{"role": "assistant", "content": "a"}],
                "rejected": [{"role": "assistant", "content": "b"}],
                "margin": float(margin),
            }
        )
        + "\n"
        for number, margin in enumerate(margins)
    )


def test_a_file_with_margins_comes_out_to_the_byte(project: Project) -> None:
    content = rows(*MARGINS)
    imported(project, content)
    assert told(project, "trl") == content.encode()


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=4))
def test_any_margin_comes_out_to_the_byte(margins: list[float]) -> None:
    project = make_project()
    content = rows(*margins)
    imported(project, content)
    assert told(project, "trl") == content.encode()


@pytest.mark.parametrize("format", ["csv", "judgements", pytest.param("parquet", marks=needs_pyarrow)])
def test_other_formats_bring_the_margin_back(project: Project, format: str) -> None:
    imported(project, rows(*MARGINS))
    assert told(again(told(project, format), format), "trl") == told(project, "trl")


def test_everything_says_margin_and_strength(project: Project) -> None:
    imported(project, rows(0.37, 2))
    found = [(abs(row["strength"]), row["margin"]) for row in lines(project, "judgements")]
    assert found == [(1, 0.37), (2, None)]


def test_training_goes_by_the_step(project: Project) -> None:
    imported(project, rows(0.37, 12.5, 1.6))
    pairs = [row.pairs()[0] for row in Preference.objects.order_by("pk")]
    assert [(pair.margin, pair.stated) for pair in pairs] == [(1.0, 0.37), (3.0, 12.5), (2.0, 1.6)]


def test_two_margins_of_one_pair_are_two_judgements_and_one_again_is_none(project: Project) -> None:
    one, other = rows(0.37), rows(0.4)
    assert imported(project, one + other).counts["preferences"] == 2
    assert imported(project, one).counts == {"rows": 1, "unchanged": 1}
