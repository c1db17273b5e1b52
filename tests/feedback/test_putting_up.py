"""How comparisons come to be: the project's kind of judgement decides what is put up."""

from __future__ import annotations

import pytest

from feedback.models import Comparison, Completion, Project
from feedback.putting_up import ask_for_demonstrations, put_up
from tests.factories import make_completion, make_project, make_prompt

pytestmark = pytest.mark.django_db


def written(project: Project, *counts: int) -> dict[int, list[Completion]]:
    prompts = [make_prompt(project=project) for _ in counts]
    return {
        prompt.pk: [make_completion(prompt=prompt) for _ in range(count)]
        for prompt, count in zip(prompts, counts, strict=True)
    }


def shown(project: Project) -> list[list[int]]:
    rows = Comparison.objects.filter(project=project).order_by("pk")
    return [list(row.candidates.values_list("completion", flat=True)) for row in rows]


@pytest.mark.parametrize(
    ("kind", "candidates", "sizes"),
    [
        ("pairwise", 2, [2, 2, 2]),
        ("pairwise", 8, [2, 2, 2]),
        ("ranking", 4, [4, 3]),
        ("ranking", 3, [3, 3]),
        ("rating", 1, [1] * 8),
        ("rating", 3, [3, 2, 3]),
        ("demonstration", 2, [0, 0]),
    ],
)
def test_the_kind_decides_how_many_are_shown(kind: str, candidates: int, sizes: list[int]) -> None:
    project = make_project(kind=kind, candidates=candidates, overlap=3)
    made = written(project, 5, 3)
    assert put_up(project, made) == len(sizes)
    assert [len(row) for row in shown(project)] == sizes
    assert set(Comparison.objects.values_list("kind", "overlap", "purpose")) == {(kind, 3, "training")}
    assert put_up(project, made) == 0, "the same groups are not put up twice"


def test_the_order_of_the_completions_is_kept() -> None:
    project = make_project(kind="ranking", candidates=4)
    made = written(project, 4)
    put_up(project, made)
    assert shown(project) == [[row.pk for row in rows] for rows in made.values()]


def test_what_was_compared_in_pairs_can_still_be_rated() -> None:
    project = make_project()
    made = written(project, 2)
    put_up(project, made)
    project.kind = "rating"
    assert put_up(project, made, overlap=2) == 1
    assert list(Comparison.objects.order_by("pk").values_list("kind", "overlap")) == [
        ("pairwise", 1),
        ("rating", 2),
    ]


def test_demonstrations_are_asked_for_once_and_of_this_project_alone() -> None:
    project = make_project()
    ours, theirs = make_prompt(project=project), make_prompt()
    assert ask_for_demonstrations(project, [ours.pk, theirs.pk]) == 1
    assert ask_for_demonstrations(project, [ours.pk]) == 0
    assert Comparison.objects.get().prompt == ours
