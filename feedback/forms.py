"""Forms of judging. What a person may say about a pair is decided here, for pages and API alike."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db import models
from django.utils.translation import gettext_lazy as _

from feedback.models import Preference, canonical_json, sha256_text

LONGEST_ACTIVE_MS = 4 * 3600 * 1000
"""Nobody looks at one pair for longer; a larger figure is a broken clock."""


class Flag(models.TextChoices):
    """What makes a comparison worth a look by an admin."""

    UNSAFE = "unsafe", _("Unsafe or harmful")
    PRIVATE = "private", _("Personal data")
    BROKEN = "broken", _("Garbled or cut off")
    WRONG_PROMPT = "wrong_prompt", _("The prompt makes no sense")


class SkipReason(models.TextChoices):
    """Why somebody passes a comparison on."""

    UNCLEAR = "unclear", _("I do not understand it")
    EXPERTISE = "expertise", _("It needs knowledge I do not have")
    LANGUAGE = "language", _("It is in a language I do not read")
    UPSETTING = "upsetting", _("I would rather not read this")
    BROKEN = "broken", _("It is broken")


class Strength(models.IntegerChoices):
    """The seven steps as shown: negative prefers the left completion, A."""

    A_MUCH = -3, _("A much better")
    A_BETTER = -2, _("A better")
    A_SLIGHTLY = -1, _("A slightly")
    TIE = 0, _("Tie")
    B_SLIGHTLY = 1, _("B slightly")
    B_BETTER = 2, _("B better")
    B_MUCH = 3, _("B much better")


class LeaseForm(forms.Form):
    """Which shown comparison a post speaks of."""

    assignment = forms.IntegerField(min_value=1)
    fencing_token = forms.IntegerField(min_value=1)


class SkipForm(LeaseForm):
    reason = forms.ChoiceField(choices=SkipReason.choices)


class JudgementForm(LeaseForm):
    """One judgement of a pair as shown, left to right."""

    key = forms.CharField(min_length=8, max_length=128)
    strength = forms.TypedChoiceField(
        choices=Strength.choices,
        coerce=int,
        error_messages={"required": _("Choose one of the seven steps first (keys 1 to 7).")},
    )
    acceptability = forms.ChoiceField(choices=Preference.Acceptability.choices, required=False)
    flags = forms.MultipleChoiceField(choices=Flag.choices, required=False)
    comment = forms.CharField(max_length=4000, required=False)
    active_ms = forms.IntegerField(min_value=0, required=False)

    def clean_active_ms(self) -> int | None:
        active_ms: int | None = self.cleaned_data["active_ms"]
        return None if active_ms is None else min(active_ms, LONGEST_ACTIVE_MS)

    def clean(self) -> dict[str, Any]:
        answer = super().clean() or {}
        if answer.get("strength") == 0 and answer.get("acceptability") == Preference.Acceptability.ONE:
            self.add_error("acceptability", _("A tie has no better one: say both or neither."))
        return answer

    def body_hash(self) -> str:
        """Equal for equal answers. Time is left out: a resent judgement has looked on for longer."""
        said = ("assignment", "strength", "acceptability", "flags", "comment")
        return sha256_text(canonical_json([self.cleaned_data[name] for name in said]))
