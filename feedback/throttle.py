"""Guessing has two limits: one name from one address (django-axes' own), one address under any names."""

from __future__ import annotations

from typing import Any

from axes.handlers.database import AxesDatabaseHandler
from axes.helpers import get_cool_off, get_failure_limit
from axes.models import AccessAttempt
from django.conf import settings
from django.db.models import Sum
from django.db.models.functions import Least
from django.http import HttpRequest
from django.utils import timezone


def failures_of(address: str | None) -> int:
    """Within the time that django-axes remembers. A name counts until it is locked: nobody guesses on then.

    So a script with an old password, which tries for ever, does not lock out everybody around it.
    """
    since = timezone.now() - get_cool_off()
    rows = AccessAttempt.objects.filter(ip_address=address, attempt_time__gt=since)
    counted = rows.aggregate(total=Sum(Least("failures_since_start", settings.AXES_FAILURE_LIMIT)))
    return int(counted["total"] or 0)


class TwoLimits(AxesDatabaseHandler):  # type: ignore[misc]  # django-axes brings no types
    """Asked by every way to sign in with a password: our page and the admin's."""

    def get_failures(self, request: HttpRequest, credentials: dict[str, Any] | None = None) -> int:
        failures: int = super().get_failures(request, credentials)
        address = request.axes_ip_address  # type: ignore[attr-defined]  # django-axes sets it before it asks
        if failures_of(address) >= settings.SIGN_IN_FAILURES_OF_ONE_ADDRESS:
            return max(failures, int(get_failure_limit(request, credentials)))
        return failures
