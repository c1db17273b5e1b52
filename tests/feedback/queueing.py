"""Judgements at a given time: for tests of the queue."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django.conf import settings

from feedback import submitting
from feedback.models import Assignment, Preference, User

NOW = datetime(2026, 3, 1, 9, tzinfo=UTC)
LEASE = timedelta(seconds=settings.LEASE_SECONDS)


def judge(assignment: Assignment, annotator: User, *, key: str, strength: int = 1, **fields) -> Preference:
    fields = {"fencing_token": assignment.fencing_token, "now": NOW, "body_hash": str(strength)} | fields
    return submitting.submit(assignment, annotator, strength=strength, acceptability="", key=key, **fields)
