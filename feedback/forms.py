"""Forms of judging. What a person may say of each kind is decided here, for pages and API alike."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.db import models
from django.http import QueryDict
from django.utils.translation import gettext as _now
from django.utils.translation import gettext_lazy as _

from feedback.models import Assignment, ComparisonKind, Preference, canonical_json, sha256_text
from feedback.recording import as_shown

LONGEST_ACTIVE_MS = 4 * 3600 * 1000
"""Nobody looks at one comparison for longer; a larger figure is a broken clock."""
LONGEST_TEXT = 40_000
RATINGS = range(1, 6)
LETTERS = "ABCDEFGH"
KEYS_BESIDES = {"csrfmiddlewaretoken"}
"""What the page sends that is no part of a judgement."""


class Flag(models.TextChoices):
    """What makes a comparison worth a look by an admin."""

    UNSAFE = "unsafe", _("Unsafe or harmful")
    PRIVATE = "private", _("Personal data")
    OFF_TOPIC = "off_topic", _("Off topic")
    LANGUAGE = "language", _("Wrong language")
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
    """What every kind of judgement has in common; `places` counts the completions on the screen."""

    key = forms.CharField(min_length=8, max_length=128)
    flags = forms.MultipleChoiceField(choices=Flag.choices, required=False)
    comment = forms.CharField(max_length=4000, required=False)
    active_ms = forms.IntegerField(min_value=0, required=False)
    acceptability = forms.ChoiceField(choices=Preference.Acceptability.choices, required=False)
    written = forms.CharField(max_length=LONGEST_TEXT, required=False, strip=False)
    corrects = forms.IntegerField(min_value=0, required=False)

    def __init__(self, data: Any, *, assignment: Assignment) -> None:
        super().__init__(data)
        self.places = len(assignment.shown_order)
        self.criteria: list[str] = assignment.comparison.project.criteria
        self.add_fields()

    def add_fields(self) -> None:
        """Fields that depend on how much is shown."""

    def clean_active_ms(self) -> int | None:
        active_ms: int | None = self.cleaned_data["active_ms"]
        return None if active_ms is None else min(active_ms, LONGEST_ACTIVE_MS)

    def clean_written(self) -> str:
        """Browsers send line ends as CRLF; what was typed, and what a text box was given, has LF."""
        written = cast(str, self.cleaned_data["written"]).replace("\r\n", "\n")
        return written if written.strip() else ""

    def clean_corrects(self) -> int | None:
        place: int | None = self.cleaned_data["corrects"]
        if place is not None and place >= self.places:
            raise forms.ValidationError(_("There is no completion at this place."))
        return place

    def clean(self) -> dict[str, Any]:
        answer = super().clean() or {}
        self.refuse_odd_keys()
        if answer.get("written") and answer.get("corrects") is None and "corrects" not in self.errors:
            self.add_error("written", _("Say which completion this text improves."))
        return answer

    def refuse_odd_keys(self) -> None:
        """A key that says nothing here, or one thing said twice: whoever sent it meant something else."""
        posted = cast(QueryDict, self.data)
        known = KEYS_BESIDES | JudgementForm.base_fields.keys() | self.fields.keys()
        for name in sorted(posted.keys() - known):
            self.add_error(None, _("Unknown key “%(name)s”.") % {"name": name[:40]})
        for name in self.fields:
            if name != "flags" and len(set(posted.getlist(name))) > 1:
                said = {"name": name, "values": ", ".join(value[:40] for value in posted.getlist(name)[:8])}
                self.add_error(name, _("“%(name)s” was sent with several values: %(values)s.") % said)

    def order(self) -> dict[str, Any]:
        """What was said of the order of the completions, as `recording.Said` takes it."""
        return {}

    def said(self) -> dict[str, Any]:
        """The answer, as `submitting.submit` takes it."""
        names = ("acceptability", "flags", "comment", "written")
        written = self.cleaned_data["written"]
        corrects = self.cleaned_data["corrects"] if written else None
        return {name: self.cleaned_data[name] for name in names} | {"corrects": corrects} | self.order()

    def body_hash(self) -> str:
        """Equal for equal answers. Time is left out: a resent judgement has looked on for longer."""
        return sha256_text(canonical_json([self.cleaned_data["assignment"], self.said()]))


class PairwiseForm(JudgementForm):
    """One of two, left to right."""

    strength = forms.TypedChoiceField(
        choices=Strength.choices,
        coerce=int,
        error_messages={"required": _("Choose one of the seven steps first (keys 1 to 7).")},
    )

    def clean(self) -> dict[str, Any]:
        answer = super().clean()
        if answer.get("strength") == 0 and answer.get("acceptability") == Preference.Acceptability.ONE:
            self.add_error("acceptability", _("A tie has no better one: say both or neither."))
        return answer

    def order(self) -> dict[str, Any]:
        return {"strength": self.cleaned_data["strength"]}


class RankingForm(JudgementForm):
    """A rank for each place; equal ranks tie, and ranks that nobody has are passed over."""

    def add_fields(self) -> None:
        ranks = [(rank, str(rank)) for rank in range(1, self.places + 1)]
        for place in range(self.places):
            self.fields[f"rank_{place}"] = forms.TypedChoiceField(choices=ranks, coerce=int, required=False)

    def clean(self) -> dict[str, Any]:
        answer = super().clean()
        given = [answer.get(f"rank_{place}") for place in range(self.places)]
        if not all(given) and not self.errors:
            self.add_error(None, _("Rank every completion first, from best to worst."))
        return answer

    def order(self) -> dict[str, Any]:
        ranks = [self.cleaned_data[f"rank_{place}"] for place in range(self.places)]
        groups = [[place for place, own in enumerate(ranks) if own == rank] for rank in sorted(set(ranks))]
        return {"ranking": groups}


class RatingForm(JudgementForm):
    """1 to 5 for each place by each criterion."""

    acceptability = None  # type: ignore[assignment]  # ratings say themselves what is good enough

    def add_fields(self) -> None:
        scale = [(step, str(step)) for step in RATINGS]
        for name in self.names():
            self.fields[name] = forms.TypedChoiceField(choices=scale, coerce=int, required=False)

    def names(self) -> list[str]:
        return [f"rating_{place}_{n}" for place in range(self.places) for n in range(len(self.criteria))]

    def clean(self) -> dict[str, Any]:
        answer = super().clean()
        if not all(answer.get(name) for name in self.names()) and not self.errors:
            self.add_error(None, _("Rate every completion by every criterion first."))
        answer["acceptability"] = ""
        return answer

    def order(self) -> dict[str, Any]:
        given = [
            {name: self.cleaned_data[f"rating_{place}_{n}"] for n, name in enumerate(self.criteria)}
            for place in range(self.places)
        ]
        return {"ratings": given}


class DemonstrationForm(JudgementForm):
    """The completion that the annotator would give."""

    acceptability = None  # type: ignore[assignment]  # one thinks one's own text good enough
    corrects = None  # type: ignore[assignment]
    written = forms.CharField(
        max_length=LONGEST_TEXT,
        strip=False,
        error_messages={"required": _("Write the completion first.")},
    )

    def clean_written(self) -> str:
        written = super().clean_written()
        if not written:
            raise forms.ValidationError(_("Write the completion first."))
        return written

    def clean(self) -> dict[str, Any]:
        self.refuse_odd_keys()
        return forms.Form.clean(self) or {}

    def said(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in ("written", "flags", "comment")}


FORMS: dict[str, type[JudgementForm]] = {
    ComparisonKind.PAIRWISE: PairwiseForm,
    ComparisonKind.RANKING: RankingForm,
    ComparisonKind.RATING: RatingForm,
    ComparisonKind.DEMONSTRATION: DemonstrationForm,
}


def words_of(preference: Preference) -> str:
    """What a judgement said, in a few words, of the letters that its annotator saw."""
    said = as_shown(preference.shown_order, preference.answer())
    if said.strength is not None:
        return str(Strength(said.strength).label)
    if said.ranking:
        return " > ".join(" = ".join(LETTERS[place] for place in group) for group in said.ranking)
    if said.ratings:
        means = [sum(given.values()) / len(given) for given in said.ratings]
        return ", ".join(f"{LETTERS[place]} {mean:.1f}" for place, mean in enumerate(means))
    return _now("Written: %d words") % len(preference.written.text.split()) if preference.written else ""
