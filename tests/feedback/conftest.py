"""What tests of imports and exports share."""

from __future__ import annotations

import pytest

from feedback import imports
from feedback.models import Project
from tests.factories import (
    make_completion,
    make_preference,
    make_project,
)
from tests.feedback.exporting import (
    changed,
    compared,
    corrected,
)


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
