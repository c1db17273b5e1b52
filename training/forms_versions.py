"""Forms to plan a review, to promote and to roll back."""

from __future__ import annotations

from typing import Any

from django import forms
from django.db.models import Count, Q
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from feedback.models import Project, Prompt
from training.forms import VersionField
from training.launch import LARGEST_TYPED_SEED, POLICY_KINDS
from training.models import ModelVersion

USUAL_PROMPTS = 100
LARGEST_REVIEW = 5000


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
    prompts = forms.IntegerField(label=gettext_lazy("Prompts"))
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
        counted = Prompt.objects.filter(project=project).aggregate(
            all=Count("pk"), aside=Count("pk", filter=~Q(split=Prompt.Split.TRAIN))
        )
        self.prompt_count, self.set_aside = counted["all"], counted["aside"]
        self.fields["prompts"] = self._prompts_field()

    def _prompts_field(self) -> forms.IntegerField:
        """As many as there are; by default those that no training reads, if there are any."""
        there = min(self.prompt_count, LARGEST_REVIEW) if self.prompt_count >= 2 else LARGEST_REVIEW
        usual = self.set_aside if self.set_aside >= 2 else there
        words = ngettext(
            "One comparison each, of %(n)d prompt.", "One comparison each, of %(n)d prompts.", there
        )
        help_text = words % {"n": there} if self.prompt_count >= 2 else _("One comparison each.")
        if self.set_aside:
            words = ngettext(
                "%(n)d that is set aside from training comes first.",
                "%(n)d that are set aside from training come first.",
                self.set_aside,
            )
            help_text += " " + words % {"n": self.set_aside}
        return forms.IntegerField(
            label=_("Prompts"),
            min_value=2,
            max_value=there,
            initial=min(usual, there, USUAL_PROMPTS),
            help_text=f"{help_text} {_('More prompts can tell smaller differences.')}",
        )

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
