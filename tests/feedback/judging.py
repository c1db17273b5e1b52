"""A browser of an annotator: for tests of the judging pages."""

from __future__ import annotations

import re
from typing import Any

from django.http import HttpResponse
from django.test import Client
from django.urls import reverse

from feedback.models import Project

HTMX = {"HX-Request": "true"}


class Annotator:
    """What a browser does on the judging page."""

    def __init__(self, client: Client, project: Project) -> None:
        self.client = client
        self.path = reverse("judge", args=[project.slug])
        self.responses: list[HttpResponse] = []

    def get(self, **options: Any) -> str:
        return self.text(self.client.get(self.path, **options))

    def post(self, fields: dict[str, Any], path: str = "", **options: Any) -> HttpResponse:
        response = self.client.post(path or self.path, fields, headers=HTMX, **options)
        self.responses.append(response)
        return response

    def text(self, response: HttpResponse) -> str:
        self.responses.append(response)
        return response.content.decode()

    def verb(self, name: str) -> str:
        return f"{self.path}{name}/"


def form_in(html: str) -> dict[str, str]:
    """The hidden fields of the judgement form."""
    form = html[html.index('id="judgement"') :]
    return {
        name: re.search(rf'name="{name}" value="([^"]+)"', form)[1]
        for name in ("assignment", "fencing_token", "key")
    }  # type: ignore[index]
