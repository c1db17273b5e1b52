"""Forms to plan a review, to promote and to roll back."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback.models import Project
from training.forms import VersionField
from training.launch import LARGEST_TYPED_SEED, POLICY_KINDS
from training.models import ModelVersion


class ReviewForm(forms.Form):
    """A review's plan: made before anyone looks, never changed afterwards."""

    candidate = VersionField(
        queryset=ModelVersion.objects.none(),
        label=gettext_lazy("Candidate"),
        help_text=gettext_lazy("The version that wants to be promoted."),
    )
    baseline = VersionField(
        queryset=ModelVersion.objects.none(),
        label=gettext_lazy("Baseline"),
        help_text=gettext_lazy("The version it is compared with; mostly the promoted one."),
    )
    prompts = forms.IntegerField(
        label=gettext_lazy("Prompts"),
        min_value=2,
        max_value=5000,
        initial=100,
        help_text=gettext_lazy("One comparison each. More prompts can tell smaller differences."),
    )
    overlap = forms.IntegerField(
        label=gettext_lazy("Judgements per comparison"),
        min_value=1,
        max_value=50,
        initial=1,
        help_text=gettext_lazy(
            "More prompts say more about versions; more judgements say more about annotators."
        ),
    )
    temperature = forms.FloatField(
        label=gettext_lazy("Temperature"),
        min_value=0.05,
        max_value=5.0,
        initial=1.0,
        help_text=gettext_lazy("0.05 to 5; 1 is the model's own distribution."),
        widget=forms.TextInput(attrs={"inputmode": "decimal"}),
    )
    max_new_tokens = forms.IntegerField(
        label=gettext_lazy("Longest completion, tokens"), min_value=1, max_value=16_384, initial=64
    )
    seed = forms.IntegerField(
        label=gettext_lazy("Seed"),
        min_value=0,
        max_value=LARGEST_TYPED_SEED,
        initial=0,
        help_text=gettext_lazy("Draws the prompts, the texts and the sides."),
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        versions = ModelVersion.objects.filter(
            project=project, kind__in=POLICY_KINDS, state=ModelVersion.State.READY
        )
        for name in ("candidate", "baseline"):
            self.fields[name].queryset = versions  # type: ignore[attr-defined]  # a VersionField

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        if cleaned.get("candidate") and cleaned.get("candidate") == cleaned.get("baseline"):
            self.add_error("baseline", _("Choose two different versions."))
        return cleaned


class ReasonForm(forms.Form):
    """Why a version is promoted or rolled back, and which one was promoted when the page was opened."""

    reason = forms.CharField(
        label=gettext_lazy("Reason"),
        max_length=500,
        help_text=gettext_lazy("Kept with the promotion for everyone to read."),
        widget=forms.Textarea(attrs={"rows": 3}),
    )
    expected = forms.IntegerField(required=False, widget=forms.HiddenInput)
