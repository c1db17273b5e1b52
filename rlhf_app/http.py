"""What the web process shares: typed htmx requests, what may be cached, answers for htmx."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponseBase
from django_htmx.middleware import HtmxDetails

if TYPE_CHECKING:
    from feedback.models import User

LONGEST_NUMBER = 18
"""Digits that fit into a database's integer; Python itself refuses to read some thousands."""


class Request(HttpRequest):
    """A signed-in request as our views see it."""

    htmx: HtmxDetails
    user: User  # LoginRequiredMiddleware lets nobody else through


def private_pages_are_not_stored(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Signed-in pages leave no copy in browser or proxy caches (ASVS 5.0, 14.3.2)."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        if request.user.is_authenticated and not response.has_header("Cache-Control"):
            response["Cache-Control"] = "no-store"
        return response

    return middleware


def whole_number(text: str) -> int | None:
    """The number that a query or form names a row or page by; None for what is none, however long it is."""
    return int(text) if text.isdecimal() and len(text) <= LONGEST_NUMBER else None
