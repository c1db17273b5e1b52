"""Files into a project, as the worker brings them in: for tests of imports."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from feedback import imports
from feedback.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    DataImport,
    Preference,
    Project,
    Prompt,
    User,
)
from tests.factories import make_member


def upload(project: Project, content: bytes | str, *, name: str = "pairs.jsonl", **fields: Any) -> DataImport:
    data = content if isinstance(content, bytes) else content.encode()
    values = {"format": "", "options": {}, "skip_bad_rows": False, **fields}
    values.setdefault(
        "actor", User.objects.filter(memberships__project=project).first() or make_member(project=project)
    )
    return imports.receive(
        project, [data[start : start + 1000] for start in range(0, len(data), 1000)], file_name=name, **values
    )


def imported(project: Project, content: bytes | str, **fields: Any) -> DataImport:
    data_import = upload(project, content, **fields)
    imports.run_import(data_import)
    data_import.refresh_from_db()
    return data_import


def pairs(*rows: tuple[str, str, str], **more: Any) -> str:
    lines = (
        {"prompt": prompt, "chosen": chosen, "rejected": rejected, **more}
        for prompt, chosen, rejected in rows
    )
    return "".join(json.dumps(line) + "\n" for line in lines)


def number_of_rows() -> dict[str, int]:
    models = (Prompt, Completion, Comparison, Candidate, Assignment, Preference)
    return {model.__name__: model.objects.count() for model in models}


NO_ROWS = dict.fromkeys(("Prompt", "Completion", "Comparison", "Candidate", "Assignment", "Preference"), 0)


THREE = pairs(("p", "a", "b"), ("p", "c", "a"), ("q", "x", "y"))


class Killed(BaseException):
    """What a worker's death looks like from inside: nothing after it runs."""


def die_at(monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    """The process dies inside the n-th batch's transaction, after its rows were written."""
    true = imports.write_rows
    calls = itertools.count(1)

    def write_rows(*args: Any) -> Any:
        added = true(*args)
        if next(calls) == batch:
            raise Killed
        return added

    monkeypatch.setattr(imports, "write_rows", write_rows)
