"""The product's URL map, and addresses that fail on purpose: what people see then can be looked at."""

from __future__ import annotations

from typing import NoReturn

from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.db import OperationalError
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import REASON_NO_CSRF_COOKIE
from django.shortcuts import render
from django.urls import path
from django.views.csrf import csrf_failure

from rlhf_app.urls import handler500 as handler500
from rlhf_app.urls import urlpatterns as product

FAILURES = {
    400: SuspiciousOperation("on purpose"),
    403: PermissionDenied("on purpose"),
    500: RuntimeError("on purpose"),
    503: OperationalError("on purpose"),
}


@login_not_required
def fail(request: HttpRequest, status: int) -> NoReturn:
    raise FAILURES[status]


@login_not_required
def out_of_date(request: HttpRequest) -> HttpResponse:
    return csrf_failure(request, reason=REASON_NO_CSRF_COOKIE)


@login_not_required
def locked_out(request: HttpRequest) -> HttpResponse:
    return render(request, "registration/locked_out.html", status=429)


urlpatterns = [
    path("on-purpose/<int:status>/", fail),
    path("on-purpose/csrf/", out_of_date),
    path("on-purpose/locked-out/", locked_out),
    *product,
]
