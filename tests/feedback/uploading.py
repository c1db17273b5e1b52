"""A browser that sends files: for tests of the data pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import reverse

from feedback import imports
from feedback.models import DataImport, Project, User

SignIn = Callable[[User], Client]
Commits = Callable[[], AbstractContextManager[Any]]


ROW = {"prompt": "Where is it?", "chosen": "On its way.", "rejected": "No idea."}


def rows(number: int = 3) -> bytes:
    return b"".join(json.dumps({**ROW, "prompt": f"Where is {n}?"}).encode() + b"\n" for n in range(number))


def send(
    client: Client, project: Project, content: bytes, *, name: str = "pairs.jsonl", **fields: Any
) -> Any:
    form = {"file": SimpleUploadedFile(name, content), **fields}
    return client.post(reverse("import_upload", args=[project.slug]), form)


def confirm(client: Client, project: Project, data_import: DataImport, **fields: Any) -> Any:
    """What the preview page sends when "Import" is pressed: its own choices, unless told otherwise."""
    url = reverse("import_preview", args=[project.slug, data_import.pk])
    form = client.get(url).context["form"]
    shown = {field.name: field.value() or "" for field in form if field.widget_type != "checkbox"}
    data = {**shown, "columns_of": shown["format"], "do": "import", **fields}
    return client.post(url, {name: value for name, value in data.items() if value is not None})


def an_import(project: Project, engineer: User, content: bytes, **fields: Any) -> DataImport:
    values = {"format": "", "options": {}, "skip_bad_rows": False, **fields}
    return imports.receive(project, [content], file_name="a.jsonl", actor=engineer, **values)
