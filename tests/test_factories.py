"""The rows that other tests stand on are what they claim to be."""

import pytest

from feedback.models import Comparison, Preference
from tests import factories
from training.core import protocol

pytestmark = pytest.mark.django_db


def test_a_preference_is_in_force_and_closes_its_comparison() -> None:
    preference = factories.make_preference(strength=-1)
    comparison = Comparison.objects.get(pk=preference.comparison_id)
    assert list(Preference.objects.current()) == [preference]
    assert comparison.state == Comparison.State.DONE
    (pair,) = preference.pairs()
    assert pair.chosen == comparison.candidates.get(position=0).completion


def test_a_comparison_that_wants_two_judgements_stays_open_after_one() -> None:
    preference = factories.make_preference(comparison=factories.make_comparison(overlap=2))
    assert Comparison.objects.get(pk=preference.comparison_id).state == Comparison.State.OPEN


def test_a_model_version_lies_in_a_folder_that_verifies() -> None:
    version = factories.make_model_version(files={"weights.txt": "1 2 3"})
    assert protocol.verify(version.path) == version.content_hash


def test_a_ring_is_recorded_and_no_broker_is_asked(doorbell: list) -> None:
    from rlhf_app.celery import app

    @app.task(name="tests.ring")
    def ring(pk: int) -> None: ...

    ring.delay(7)
    assert doorbell == [("tests.ring", (7,))]
