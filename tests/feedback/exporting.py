"""Judgements to export, and files that come in again: for tests of exports."""

from __future__ import annotations

import importlib.util
import json
from typing import Any

import pytest

from feedback import imports
from feedback.exports import ExportFormat, Selection, export
from feedback.models import Comparison, Message, Preference, Project, Prompt
from tests.factories import (
    make_completion,
    make_member,
    make_project,
    put_up,
)

needs_pyarrow = pytest.mark.skipif(
    importlib.util.find_spec("pyarrow") is None, reason="the package pyarrow is not installed"
)


FORMATS = [
    pytest.param(format, marks=needs_pyarrow if format == ExportFormat.PARQUET else ())
    for format in ExportFormat
]


EVERYTHING = Selection(purposes=(), current=False)


def told(project: Project, format: str = "trl", selection: Selection = Selection()) -> bytes:  # noqa: B008
    return b"".join(export(project, ExportFormat(format), selection))


def lines(project: Project, format: str = "trl", selection: Selection = Selection()) -> list[Any]:  # noqa: B008
    return [json.loads(line) for line in told(project, format, selection).decode().split("\n") if line]


def imported(project: Project, content: bytes | str, *, name: str = "a.jsonl", **fields: Any) -> Any:
    values = {"format": "", "options": {}, "skip_bad_rows": False, **fields}
    data = content if isinstance(content, bytes) else content.encode()
    data_import = imports.receive(
        project, [data], file_name=name, actor=make_member(project=project), **values
    )
    imports.run_import(data_import)
    data_import.refresh_from_db()
    assert (data_import.state, data_import.errors) == ("done", [])
    return data_import


def again(content: bytes, format: str) -> Project:
    """A fresh project with what was exported from another one."""
    project = make_project()
    name = {"csv": "a.csv", "parquet": "a.parquet", "label_studio": "a.json"}.get(format, "a.jsonl")
    imported(project, content, name=name)
    return project


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def compared(project: Project, *texts: str, question: str = "Where?", **fields: Any) -> Comparison:
    prompt, _made = Prompt.objects.get_or_create(
        project=project,
        content_hash=Prompt.hash_of([user(question)]),
        defaults={"messages": [user(question)]},
    )
    known = {completion.text: completion for completion in prompt.completions.all()}
    shown = [known.get(text) or make_completion(prompt=prompt, text=text) for text in texts]
    return put_up(prompt, shown, **fields)


def corrected(comparison: Comparison, position: int, text: str) -> dict[str, Any]:
    original = comparison.candidates.get(position=position).completion
    written = make_completion(
        prompt=comparison.prompt, text=text, source="corrected", corrected_from=original
    )
    return {"written": written, "corrects": original}


def changed(earlier: Preference, **fields: Any) -> Preference:
    return Preference.objects.create(
        assignment=earlier.assignment,
        comparison=earlier.comparison,
        annotator=earlier.annotator,
        shown_order=earlier.shown_order,
        idempotency_key=f"after {earlier.pk}",
        body_hash="0" * 64,
        supersedes=earlier,
        **fields,
    )


def pairs_of(project: Project, **selection: Any) -> list[tuple[str, str, float]]:
    rows = lines(project, "trl", Selection(**selection))
    return [(row["chosen"][0]["content"], row["rejected"][0]["content"], row["margin"]) for row in rows]
