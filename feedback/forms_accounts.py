"""Forms of accounts, people and projects."""

from __future__ import annotations

import itertools
import unicodedata
from typing import Any

from django import forms
from django.contrib.auth.forms import UserCreationForm
from django.core.exceptions import ValidationError
from django.utils.functional import lazy
from django.utils.html import format_html
from django.utils.text import slugify
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from feedback.models import ComparisonKind, Guideline, Invitation, Membership, Project, User
from feedback.people import USUAL_QUESTIONS
from feedback.putting_up import LEAST

IMPORTED_PREFIX = "imported-"
HIDDEN_CATEGORIES = {"Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp"}
"""Control, format (bidi, zero width), private, surrogate, unassigned, line and paragraph separators."""
MOST_CRITERIA = 8
LONGEST_CRITERION = 40
LOOK_ALIKE_SCRIPTS = {"LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE"}


def refuse_hidden_characters(text: str) -> None:
    """Raise when a name holds a character that does not show, or that turns the reading direction."""
    for character in text:
        if unicodedata.category(character) in HIDDEN_CATEGORIES:
            code_point = f"U+{ord(character):04X}"
            raise ValidationError(
                _("The character %(code_point)s cannot be part of a name."), params={"code_point": code_point}
            )


def refuse_mixed_scripts(text: str) -> None:
    """Raise when letters come from scripts that look alike: `аnna` with a Cyrillic а is not `anna`."""
    first_words = {unicodedata.name(character, "").split(" ")[0] for character in text if character.isalpha()}
    scripts = sorted(first_words & LOOK_ALIKE_SCRIPTS)
    if len(scripts) > 1:
        raise ValidationError(
            _("The name mixes letters that look alike (%(scripts)s)."), params={"scripts": ", ".join(scripts)}
        )


class AccountForm(UserCreationForm):  # type: ignore[type-arg]  # Django has no runtime generics here
    """A new account: user name (kept in NFKC, unique whatever the case) and password."""

    class Meta:
        model = User
        fields = ("username",)

    def clean_username(self) -> str:
        username = super().clean_username() or ""
        refuse_hidden_characters(username)
        refuse_mixed_scripts(username)
        if username.casefold().startswith(IMPORTED_PREFIX):
            raise ValidationError(_("Names that start with “%s” are kept for imports.") % IMPORTED_PREFIX)
        return username


class InvitationForm(forms.ModelForm):  # type: ignore[type-arg]  # Django has no runtime generics here
    class Meta:
        model = Invitation
        fields = ("role", "note")
        help_texts = {"note": gettext_lazy("So that you know later whom the link was for.")}

    def clean_note(self) -> str:
        note: str = self.cleaned_data["note"]
        refuse_hidden_characters(note)
        return note


class RoleForm(forms.ModelForm):  # type: ignore[type-arg]  # Django has no runtime generics here
    class Meta:
        model = Membership
        fields = ("role",)


class ProjectForm(forms.ModelForm):  # type: ignore[type-arg]  # Django has no runtime generics here
    """What can be changed later. The address (slug) cannot: links would break."""

    candidates = forms.IntegerField(
        label=gettext_lazy("Completions per comparison"),
        min_value=1,
        max_value=8,
        help_text=gettext_lazy(
            "Of what is put up from the completions here: of rankings 3 to 8, of ratings 1 to 8. "
            "The completions in a row of an imported file stay together, up to 8. "
            "One rated alone trains no reward model."
        ),
    )
    criteria = forms.CharField(
        label=gettext_lazy("Criteria"),
        max_length=400,
        help_text=gettext_lazy("Of ratings: 1 to 8 names with commas between them."),
    )
    gold_percent = forms.IntegerField(
        label=gettext_lazy("Gold comparisons in 100"),
        min_value=0,
        max_value=50,
        help_text=gettext_lazy(
            "How many of the comparisons that a person is served are gold: you know how to judge them."
        ),
    )

    class Meta:
        model = Project
        fields = ("name", "question", "kind", "overlap")
        help_texts = {
            "kind": gettext_lazy("Holds for comparisons put up from now on; those that stand keep theirs."),
            "question": gettext_lazy("Stands above each comparison."),
            "overlap": gettext_lazy(
                "How many people judge each comparison, 1 to 50. Holds for comparisons put up from now on."
            ),
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "criteria" in self.fields:
            self.initial["candidates"] = self.instance.candidates
            self.initial["criteria"] = ", ".join(self.instance.criteria)
            self.initial["gold_percent"] = round(100 * self.instance.gold_rate)

    def clean_criteria(self) -> list[str]:
        names = [" ".join(name.split()) for name in self.cleaned_data["criteria"].split(",")]
        names = list(dict.fromkeys(name for name in names if name))
        if not 1 <= len(names) <= MOST_CRITERIA:
            raise ValidationError(_("Between 1 and %(most)d names, got %(found)d.") % {
                "most": MOST_CRITERIA, "found": len(names),
            })  # fmt: skip
        for name in names:
            refuse_hidden_characters(name)
            if len(name) > LONGEST_CRITERION:
                raise ValidationError(_("“%s” is too long for a criterion.") % name)
        return names

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        least = LEAST[ComparisonKind.RANKING]
        too_few = "candidates" in cleaned and cleaned["candidates"] < least
        if cleaned.get("kind") == ComparisonKind.RANKING and too_few:
            self.add_error("candidates", _("A ranking is of at least %d.") % least)
        if "kind" in cleaned and cleaned.get("question", "") in ("", *USUAL_QUESTIONS.values()):
            cleaned["question"] = str(USUAL_QUESTIONS[ComparisonKind(cleaned["kind"])])
        return cleaned

    def save(self, commit: bool = True) -> Project:
        if "criteria" in self.cleaned_data:
            self.instance.candidates = self.cleaned_data["candidates"]
            self.instance.criteria = self.cleaned_data["criteria"]
            self.instance.gold_rate = self.cleaned_data["gold_percent"] / 100
        project: Project = super().save(commit)
        return project

    def clean_name(self) -> str:
        name = unicodedata.normalize("NFKC", self.cleaned_data["name"]).strip()
        refuse_hidden_characters(name)
        return name

    def clean_overlap(self) -> int:
        overlap: int = self.cleaned_data["overlap"]
        if not 1 <= overlap <= 50:
            raise ValidationError(_("Between 1 and 50, got %s.") % overlap)
        return overlap


def explained(label: object, words: object) -> str:
    return format_html('<span>{}<br><span class="help">{}</span></span>', label, words)


explained_lazy = lazy(explained, str)
KINDS_EXPLAINED = {
    ComparisonKind.PAIRWISE: gettext_lazy(
        "Two side by side, in seven steps from much better to much worse. Most projects start here."
    ),
    ComparisonKind.RANKING: gettext_lazy(
        "3 to 8 completions put in order, ties allowed: more said of each prompt, and slower."
    ),
    ComparisonKind.RATING: gettext_lazy(
        "Each completion gets 1 to 5 by each criterion, such as helpful, harmless, honest."
    ),
    ComparisonKind.DEMONSTRATION: gettext_lazy(
        "People see the prompt alone and write the answer, for a model to imitate."
    ),
}
USUAL_RANKED = 4


class NewProjectForm(ProjectForm):
    """The least that a project needs; the rest has usual values, and is on the settings page."""

    candidates = None  # type: ignore[assignment]
    criteria = None  # type: ignore[assignment]
    gold_percent = None  # type: ignore[assignment]
    kind = forms.ChoiceField(
        label=gettext_lazy("Kind of judgement"),
        choices=[(kind, explained_lazy(kind.label, words)) for kind, words in KINDS_EXPLAINED.items()],
        initial=ComparisonKind.PAIRWISE,
        widget=forms.RadioSelect,
        help_text=gettext_lazy("Can be changed later, for comparisons put up from then on."),
    )
    slug = forms.SlugField(
        label=gettext_lazy("Address"),
        required=False,
        max_length=80,
        help_text=gettext_lazy(
            "Part of the project's links: small letters, digits and hyphens. Empty: made from the name."
        ),
    )
    question = forms.CharField(
        label=gettext_lazy("Question"),
        required=False,
        max_length=200,
        help_text=gettext_lazy("Stands above each comparison. Empty: the usual one of the kind."),
    )

    class Meta:
        model = Project
        fields = ("name", "slug", "kind", "question", "overlap")
        help_texts = ProjectForm.Meta.help_texts

    def clean_slug(self) -> str:
        return str(self.cleaned_data["slug"]).lower() or free_slug(self.cleaned_data.get("name", ""))

    def save(self, commit: bool = True) -> Project:
        if self.instance.kind == ComparisonKind.RANKING:
            self.instance.candidates = USUAL_RANKED
        return super().save(commit)


def free_slug(name: str) -> str:
    """An address made from a name, with a number where another project has it."""
    plain = slugify(name)[:70] or "project"
    taken = set(Project.objects.filter(slug__startswith=plain).values_list("slug", flat=True))
    numbered = (f"{plain}-{number}" for number in itertools.count(2))
    return next(slug for slug in itertools.chain([plain], numbered) if slug not in taken)


class GuidelineForm(forms.ModelForm):  # type: ignore[type-arg]  # Django has no runtime generics here
    class Meta:
        model = Guideline
        fields = ("text",)
        widgets = {"text": forms.Textarea(attrs={"rows": 20})}
        help_texts = {
            "text": gettext_lazy("Markdown: headings, lists, quotes, links. HTML and pictures are left out.")
        }

    def clean_text(self) -> str:
        text: str = self.cleaned_data["text"]
        if "\x00" in text:
            raise ValidationError(
                _("The character %(code_point)s cannot be part of a text."), params={"code_point": "U+0000"}
            )
        return text
