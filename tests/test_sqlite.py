"""Writers of one process take turns: nobody waits while others come and go."""

from __future__ import annotations

import threading
import time

import pytest
from django.db import OperationalError, connection, connections, transaction

from feedback.models import User
from rlhf_app.sqlite import base

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="PostgreSQL has locks of its own"),
]


def test_a_turn_ends_with_the_transaction_however_it_ends() -> None:
    with transaction.atomic():
        assert base.TURN.locked()
        with transaction.atomic():
            User.objects.create(username="inner")
        assert base.TURN.locked()
    assert not base.TURN.locked()
    with pytest.raises(ZeroDivisionError), transaction.atomic():
        User.objects.create(username="never")
        raise ZeroDivisionError
    assert not base.TURN.locked() and not User.objects.filter(username="never").exists()
    transaction.set_autocommit(True)
    with transaction.atomic():
        connection.close()
    assert not base.TURN.locked()


def test_eight_writers_have_about_as_many_turns_each() -> None:
    """Without turns the quickest had many times those of the slowest."""
    counts = [0] * 8
    until = time.monotonic() + 2.0

    def write(number: int) -> None:
        while time.monotonic() < until:
            with transaction.atomic():
                User.objects.filter(username="nobody").update(first_name=str(number))
                time.sleep(0.005)
            counts[number] += 1
        connections.close_all()

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(counts) > 0 and max(counts) <= 3 * min(counts), counts


def test_who_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []

    def late() -> None:
        monkeypatch.setitem(connection.settings_dict["OPTIONS"], "timeout", 0.2)
        connection.cursor().execute("PRAGMA busy_timeout=200")
        try:
            with transaction.atomic():
                pass
        except OperationalError as error:
            said.append(str(error))
        connections.close_all()

    with transaction.atomic():
        User.objects.create(username="first")
        thread = threading.Thread(target=late)
        thread.start()
        thread.join()
    assert said == ["database is locked"]
    assert not base.TURN.locked()
