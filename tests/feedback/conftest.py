"""What several files share: people, judgements of each kind, batches of one size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from feedback import imports
from feedback.models import Comparison, Project, User
from tests.factories import (
    make_comparison,
    make_completion,
    make_member,
    make_preference,
    make_project,
    make_user,
)
from tests.feedback.exporting import (
    changed,
    compared,
    corrected,
)
from tests.feedback.judging import Annotator
from tests.feedback.uploading import Commits


@pytest.fixture
def batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is at the moment."""
    monkeypatch.setattr(imports, "HOLD_SECONDS", 3600.0)
    monkeypatch.setattr(imports, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(imports, "BATCH_ROWS", 100)


@pytest.fixture
def told_of(project: Project) -> Project:
    """A project with a judgement of each kind, a change of mind, a withdrawal, gold and review."""
    plain = make_preference(
        comparison=compared(project, "a", "b"), strength=2, acceptability="one", comment="so"
    )
    make_preference(comparison=compared(project, "a", "c"), strength=-3, flags=["unsafe"], active_ms=1234)
    make_preference(comparison=compared(project, "b", "c"), strength=0, acceptability="neither")
    make_preference(comparison=compared(project, "c", "d"), strength=0, acceptability="both")
    ranked = compared(project, "a", "b", "c", "d", kind="ranking")
    make_preference(comparison=ranked, ranking=[[3], [0, 1], [2]])
    rated = compared(project, "a", "b", kind="rating", question="Rated?")
    make_preference(comparison=rated, ratings=[{"helpful": 5, "honest": 5}, {"helpful": 2, "honest": 4}])
    mended = compared(project, "x", "y", question="Mended?")
    make_preference(comparison=mended, strength=1, **corrected(mended, 1, "y, mended"))
    empty = compared(project, kind="demonstration", question="Shown?")
    shown = make_completion(prompt=empty.prompt, text="like this", source="written")
    make_preference(comparison=empty, written=shown)
    changed(plain, strength=3, comment="no: so")
    changed(make_preference(comparison=compared(project, "e", "f"), strength=1), withdrawn=True)
    make_preference(comparison=compared(project, "e", "g"), strength=1, simulated=True)
    gold = compared(project, "g", "h", purpose="gold", gold_answer={"strength": 2})
    make_preference(comparison=gold, strength=1)
    make_preference(comparison=compared(project, "i", "j", purpose="review"), strength=1)
    make_preference(project=make_project(), strength=1)
    return project


@pytest.fixture
def mei(project: Project, sign_in: Callable[[User], Client]) -> Annotator:
    """An annotator of the project, at her browser."""
    return Annotator(sign_in(make_member(project=project)), project)


@pytest.fixture
def people(project: Project) -> list[User]:
    return [make_member(project=project) for _ in range(3)]


@pytest.fixture
def disputed(project: Project) -> Comparison:
    """Two people, opposite ways."""
    comparison = make_comparison(project=project, texts=("left", "right"), overlap=2)
    for strength in (-3, 2):
        make_preference(comparison=comparison, strength=strength)
    return comparison


@pytest.fixture
def ana(project: Project) -> User:
    return make_member(project=project, user=make_user(username="ana"))


@pytest.fixture
def ben(project: Project) -> User:
    return make_member(project=project, user=make_user(username="ben"))


@pytest.fixture
def engineers_browser(engineer: User, sign_in: Callable[[User], Client]) -> Client:
    return sign_in(engineer)


@pytest.fixture
def on_commit(django_capture_on_commit_callbacks: Any) -> Commits:
    """`with on_commit():` at its end all is done that waits for the end of the transaction."""
    return lambda: django_capture_on_commit_callbacks(execute=True)
