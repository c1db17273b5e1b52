"""The seed of the browser tests makes what its visitors rely on."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from feedback import guards
from feedback.models import Comparison
from tests.browser.seed import fill
from tests.browser.seed_runs import beat
from training import registry
from training.guards import ALL
from training.models import Review, Run

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def guarded(db: None) -> Any:
    """Screenshots seed a database that migrations have guarded."""
    guards.install(connection, ALL)
    yield
    guards.remove(connection, ALL)


def test_every_state_is_there() -> None:
    done = fill()
    assert set(Run.objects.values_list("state", flat=True)) == set(Run.State.values)
    assert registry.promoted(done.project) == done.versions["v1"]
    assert done.reviews["closed"].state == Review.State.CLOSED
    verdict = done.reviews["closed"].verdict
    assert verdict["complete"] and verdict["planned"] + verdict["same_text"] == 24
    assert verdict["wins"] + verdict["ties"] + verdict["losses"] == verdict["planned"]
    assert Comparison.objects.open().filter(purpose=Comparison.Purpose.REVIEW).exists()


def test_a_running_run_looks_like_one() -> None:
    """A phase that some algorithm tells of, and a heart that has beaten since somebody looked."""
    going = fill().runs["going"]
    core = Path(__file__).parents[1] / "training" / "core"
    phases = {name for path in core.glob("*.py") for name in re.findall(r'Phase\("(\w+)"', path.read_text())}
    assert going.phase in phases
    Run.objects.filter(pk=going.pk).update(heartbeat_at=timezone.now() - timedelta(minutes=9))
    beat()
    going.refresh_from_db()
    assert going.heartbeat_at and timezone.now() - going.heartbeat_at < timedelta(minutes=1)
