"""What the web process shares: typed htmx requests, what may be cached, answers for htmx."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django_htmx.http import HttpResponseClientRedirect
from django_htmx.middleware import HtmxDetails

if TYPE_CHECKING:
    from feedback.models import User


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


def go_to(request: Request, name: str, *args: object) -> HttpResponse:
    """Send the browser to a named page, in the way its request can follow (htmx or plain)."""
    target = redirect(name, *args)
    return HttpResponseClientRedirect(target.url) if request.htmx else target
