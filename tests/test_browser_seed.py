"""The seed of the browser tests makes what its visitors rely on."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import connection

from feedback import guards
from feedback.models import Comparison
from tests.browser.seed import fill
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
