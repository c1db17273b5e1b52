"""The queue against a ledger in plain Python: any mix of its verbs, of withdrawing work, and of waiting."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

from django.conf import settings
from hypothesis import HealthCheck, note
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.django import TestCase
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from feedback import queue, submitting, taking_back
from feedback.models import Assignment, Comparison, Preference
from tests.factories import make_comparison, make_member, make_project

LEASE = timedelta(seconds=settings.LEASE_SECONDS)
DAY = timedelta(hours=24)
PEOPLE = st.integers(0, 2)
WORK = st.integers(0, 3)


@dataclass
class Place:
    """What the ledger knows of one person's work on one comparison."""

    state: str = "unseen"  # unseen, leased, judged, skipped
    until: datetime | None = None
    closed: tuple[datetime, int] | None = None
    token: int = 0
    key: str = ""
    strength: int | None = None
    late: bool = False
    order: list[int] = field(default_factory=list)


class QueueMachine(RuleBasedStateMachine):
    """Time only moves by `wait`; every verb ticks one microsecond so that "the latest" is never a draw."""

    @initialize(overlaps=st.lists(st.integers(1, 3), min_size=4, max_size=4))
    def set_up(self, overlaps: list[int]) -> None:
        project = make_project()
        self.project = project
        self.people = [make_member(project=project) for _ in range(3)]
        self.work = [
            make_comparison(project=project, overlap=overlap, priority=-number)
            for number, overlap in enumerate(overlaps)
        ]
        self.overlaps = overlaps
        self.now = datetime(2026, 3, 1, tzinfo=UTC)
        self.places = {(person, work): Place() for person in range(3) for work in range(4)}
        self.count = 0
        self.withdrawn: set[int] = set()

    # --- the ledger's own arithmetic ---

    def tick(self) -> datetime:
        self.now += timedelta(microseconds=1)
        self.count += 1
        return self.now

    def is_live(self, place: Place) -> bool:
        return place.state == "leased" and place.until is not None and place.until > self.now

    def taken(self, work: int) -> int:
        places = [self.places[person, work] for person in range(3)]
        return sum(place.state == "judged" or self.is_live(place) for place in places)

    def open(self, work: int) -> bool:
        judged = sum(self.places[person, work].state == "judged" for person in range(3))
        return judged < self.overlaps[work] and work not in self.withdrawn

    def expected_claim(self, person: int) -> int | None:
        mine = [(self.places[person, work].until, work) for work in range(4)]
        live = [(until, work) for until, work in mine if self.is_live(self.places[person, work])]
        held = [(until, work) for until, work in live if work not in self.withdrawn]
        if held:
            return max(held)[1]
        for work in range(4):  # priorities fall with the number
            free = self.open(work) and self.taken(work) < self.overlaps[work]
            if free and self.places[person, work].state not in ("judged", "skipped"):
                return work
        return None

    def expected_ahead(self, person: int, work: int) -> int | None:
        place = self.places[person, work]
        if not self.is_live(place) or place.until is None:
            return None
        others = [
            (self.places[person, other].until, other)
            for other in range(4)
            if other != work and self.is_live(self.places[person, other]) and other not in self.withdrawn
        ]
        if others:
            until, other = max(others)
            return other if until is not None and until < place.until else None
        for other in range(4):
            free = self.open(other) and self.taken(other) < self.overlaps[other]
            if other != work and free and self.places[person, other].state not in ("judged", "skipped"):
                return other
        return None

    def row(self, person: int, work: int) -> Assignment:
        return Assignment.objects.get(annotator=self.people[person], comparison=self.work[work])

    # --- verbs ---

    @rule(person=PEOPLE)
    def claim(self, person: int) -> None:
        now = self.tick()
        wanted = self.expected_claim(person)
        got = queue.claim(self.project, self.people[person], now=now)
        note(f"claim by {person}: wanted {wanted}")
        assert (None if got is None else self.work.index(got.comparison)) == wanted
        if got is None or wanted is None:
            return
        place = self.places[person, wanted]
        if not self.is_live(place):
            place.token += 1
        assert got.fencing_token == place.token
        assert not place.order or place.order == got.shown_order, "the shown order was redrawn"
        place.state, place.until, place.order = "leased", now + LEASE, got.shown_order

    @rule(person=PEOPLE, work=WORK)
    def claim_ahead(self, person: int, work: int) -> None:
        place = self.places[person, work]
        if not place.token:
            return
        now = self.tick()
        wanted = self.expected_ahead(person, work)
        with mock.patch.object(queue, "PLENTY", 1):
            got = queue.claim_ahead(self.row(person, work), self.people[person], now=now)
        note(f"ahead of {work} by {person}: wanted {wanted}")
        assert (None if got is None else self.work.index(got.comparison)) == wanted
        if got is None or wanted is None:
            return
        other = self.places[person, wanted]
        if not self.is_live(other):
            other.token += 1
            other.until = place.until - timedelta(seconds=1) if place.until else None
        assert got.fencing_token == other.token and got.lease_expires_at == other.until
        other.state, other.order = "leased", got.shown_order

    @rule(person=PEOPLE, work=WORK, stale=st.booleans())
    def renew(self, person: int, work: int, stale: bool) -> None:
        place = self.places[person, work]
        if not place.token:
            return
        now = self.tick()
        row, token = self.row(person, work), place.token - stale
        free = self.open(work) and self.taken(work) < self.overlaps[work]
        wanted = place.state == "leased" and not stale and (self.is_live(place) or free)
        got = queue.renew(row, self.people[person], fencing_token=token, now=now)
        assert (got is not None) == wanted
        if wanted:
            place.until = now + LEASE

    @rule(person=PEOPLE, work=WORK, strength=st.integers(-3, 3), stale=st.booleans(), replay=st.booleans())
    def submit(self, person: int, work: int, strength: int, stale: bool, replay: bool) -> None:
        place = self.places[person, work]
        if not place.token:
            return
        now = self.tick()
        replay = replay and bool(place.key)
        key = place.key if replay else f"{self.project.slug}-{self.count}"
        row, before = self.row(person, work), Preference.objects.count()
        arguments: dict[str, Any] = {
            "fencing_token": place.token - stale,
            "strength": strength,
            "acceptability": "",
            "key": key,
            "body_hash": "replayed" if replay else key,
            "now": now,
        }
        if replay:
            try:
                submitting.submit(row, self.people[person], **arguments)
            except submitting.KeyReused:
                assert Preference.objects.count() == before
                return
            raise AssertionError("a key was taken for another body")
        preference = submitting.submit(row, self.people[person], **arguments)
        if place.state == "judged":
            assert Preference.objects.count() == before
            assert preference.idempotency_key == place.key
            return
        late = stale or not self.is_live(place) or work in self.withdrawn
        assert preference.late == late
        place.late = late
        place.strength = strength if place.order == [0, 1] else -strength
        place.state, place.key, place.closed, place.until = "judged", key, (now, self.count), None

    @rule(person=PEOPLE, work=WORK, stale=st.booleans())
    def skip(self, person: int, work: int, stale: bool) -> None:
        place = self.places[person, work]
        if not place.token:
            return
        now = self.tick()
        row = self.row(person, work)
        token = place.token - stale
        submitting.skip(row, self.people[person], fencing_token=token, reason="unclear", now=now)
        if place.state == "leased" and not stale:
            place.state, place.closed, place.until = "skipped", (now, self.count), None

    @rule(person=PEOPLE)
    def undo(self, person: int) -> None:
        now = self.tick()
        mine = [(self.places[person, work], work) for work in range(4) if work not in self.withdrawn]
        closed = [
            (place.closed, work)
            for place, work in mine
            if place.state in ("judged", "skipped") and place.closed and place.closed[0] > now - DAY
        ]
        got = taking_back.undo(self.project, self.people[person], now=now)
        if not closed:
            assert got is None
            return
        work = max(closed)[1]
        place = self.places[person, work]
        if place.state == "skipped" and not (self.open(work) and self.taken(work) < self.overlaps[work]):
            assert got is None
            return
        assert got is not None and got.comparison == self.work[work]
        was_judged_late = place.state == "judged" and place.late
        place.state, place.until, place.strength, place.late = "leased", now + LEASE, None, False
        place.token += 1
        # A judgement given in time has a slot of its own; an extra one is only given a free slot.
        if was_judged_late and self.taken(work) > self.overlaps[work]:
            place.until = now
        assert (got.state == "leased") == self.is_live(place)
        assert got.fencing_token == place.token

    @rule(person=PEOPLE, other=PEOPLE, strength=st.integers(-3, 3), takes_back=st.booleans())
    def overtaken(self, person: int, other: int, strength: int, takes_back: bool) -> None:
        """A lease runs out, somebody else takes the comparison on, and the first one finishes all the same.

        Single steps come to this too rarely.
        """
        self.claim(person)
        self.now += LEASE
        held = [work for work in range(4) if self.places[person, work].state == "leased"]
        self.claim(other)
        for work in held:
            self.submit(person, work, strength, stale=False, replay=False)
        if takes_back:
            self.undo(person)

    @rule(work=st.sampled_from([1, 3]))
    def withdraw(self, work: int) -> None:
        """What closing a review does; half of the work stays, or soon nothing would be left to try."""
        self.tick()
        Comparison.objects.filter(pk=self.work[work].pk).update(state=Comparison.State.WITHDRAWN)
        self.withdrawn.add(work)

    @rule(length=st.sampled_from([timedelta(seconds=1), LEASE / 2, LEASE, DAY]))
    def wait(self, length: timedelta) -> None:
        self.now += length

    # --- what must hold after every step ---

    @invariant()
    def overlap_is_kept(self) -> None:
        for number, comparison in enumerate(getattr(self, "work", [])):
            rows = Assignment.objects.filter(comparison=comparison)
            live = rows.filter(state="leased", lease_expires_at__gt=self.now).count()
            judged = rows.filter(state="judged").count()
            extra = sum(self.places[person, number].late for person in range(3))
            assert live + judged <= self.overlaps[number] + extra, "only late judgements may go beyond"
            now = Comparison.objects.get(pk=comparison.pk)
            state = now.state
            assert now.missing == max(0, self.overlaps[number] - judged)
            standing = "done" if judged >= self.overlaps[number] else "open"
            assert state == ("withdrawn" if number in self.withdrawn else standing)

    @invariant()
    def judgements_are_the_ledgers(self) -> None:
        places = getattr(self, "places", {})
        wanted = {
            (self.people[person].pk, self.work[work].pk, place.strength)
            for (person, work), place in places.items()
            if place.state == "judged"
        }
        current = Preference.objects.current().filter(comparison__project=getattr(self, "project", None))
        found = list(current.values_list("annotator", "comparison", "strength"))
        assert len(found) == len(wanted) and set(found) == wanted


class TestQueueMachine(TestCase):
    def test_queue_agrees_with_a_ledger(self) -> None:
        run_state_machine_as_test(
            QueueMachine,
            settings=examples(
                max_examples=40,
                stateful_step_count=30,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
            ),
        )
