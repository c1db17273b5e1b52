"""What a reviewer decides of a comparison: the order part of a judgement, and why."""

from __future__ import annotations

from typing import Any

from django import forms

from feedback.adjudication import shown_to_reviewers
from feedback.forms import FORMS, JudgementForm
from feedback.models import Comparison

NOT_ASKED = ("assignment", "fencing_token", "key", "active_ms", "flags", "written", "corrects")
"""Of annotators alone: leases, time, and texts of their own."""


def adjudication_form(data: Any, comparison: Comparison) -> JudgementForm:
    """The form of the comparison's kind; `since` is the last decision that the reviewer saw."""
    form = FORMS[comparison.kind](data, assignment=shown_to_reviewers(comparison))
    for name in NOT_ASKED:
        form.fields.pop(name, None)
    form.fields["since"] = forms.IntegerField(required=False)
    return form


def decision_in(form: JudgementForm) -> dict[str, Any]:
    """As `adjudication.adjudicate` takes it."""
    return form.order() | {name: form.cleaned_data.get(name) or "" for name in ("acceptability", "comment")}
