"""The seed of the browser tests makes what its visitors rely on."""

from __future__ import annotations

import pytest

from feedback.models import Comparison
from tests.browser.seed import fill
from training import registry
from training.models import Review, Run

pytestmark = pytest.mark.django_db


def test_every_state_is_there() -> None:
    done = fill()
    assert set(Run.objects.values_list("state", flat=True)) == set(Run.State.values)
    assert registry.promoted(done.project) == done.versions["v1"]
    assert done.reviews["closed"].state == Review.State.CLOSED
    verdict = done.reviews["closed"].verdict
    assert verdict["complete"] and verdict["planned"] + verdict["same_text"] == 24
    assert verdict["wins"] + verdict["ties"] + verdict["losses"] == verdict["planned"]
    assert Comparison.objects.open().filter(purpose=Comparison.Purpose.REVIEW).exists()
