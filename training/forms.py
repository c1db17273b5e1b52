"""The form that launches a run: inputs, frozen data, and the settings of the kind's config dataclass."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from django import forms
from django.db.models import Count, Q
from django.utils.formats import date_format
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext

from feedback.models import Comparison, ComparisonKind, Completion, Preference, Project, Prompt, User
from training import names, snapshots
from training.core import configs
from training.launch import LARGEST_TYPED_SEED, POLICY_KINDS, SNAPSHOT_KINDS, Input, default_versions
from training.models import ModelVersion, Snapshot

NOW = "now"
SNAPSHOTS_OFFERED = 20


# --- settings ---------------------------------------------------------------------------------------


class NumberField(forms.CharField):
    """A number typed by a person: spaces are trimmed, a comma is refused, 1e-4 is fine.

    What is wrong is said by the same check that guards every other way to launch a run.
    """

    def __init__(self, *, setting: dataclasses.Field[Any], whole: bool, **kwargs: Any) -> None:
        self.setting, self.whole = setting, whole
        kwargs.setdefault("widget", forms.TextInput(attrs={"inputmode": "numeric" if whole else "decimal"}))
        super().__init__(**kwargs)

    def prepare_value(self, value: Any) -> Any:
        return f"{value:g}".replace("e-0", "e-") if isinstance(value, float) else value

    def clean(self, value: Any) -> int | float:
        text = str(super().clean(value))
        if "," in text:
            raise forms.ValidationError(
                _("Write a point for the decimal sign and no thousands sign; got “%s”.") % text
            )
        try:
            number: int | float = int(text) if self.whole else float(text)
        except ValueError as error:
            wanted = _("a whole number") if self.whole else _("a number")
            raise forms.ValidationError(
                _("Wanted %(wanted)s, got “%(text)s”.") % {"wanted": wanted, "text": text}
            ) from error
        if problem := configs.field_problem(self.setting, number):
            raise forms.ValidationError(problem)
        return number


def plain(number: float) -> str:
    """A bound or default as people write it: 1,000,000; 0.0001; 1e-8."""
    if isinstance(number, int) or abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:g}".replace("e-0", "e-")


def field_for(setting: dataclasses.Field[Any], initial: Any) -> forms.Field:
    """The form field of one setting: its sentence and range as help, its unit in the label."""
    facts, usual = setting.metadata, cast(float, setting.default)
    help_text = _(facts["help"])
    if facts["low"] is not None:
        bounds = {"low": plain(facts["low"]), "high": plain(facts["high"]), "default": plain(usual)}
        help_text += " " + _("%(low)s to %(high)s; usually %(default)s.") % bounds
    shared: dict[str, Any] = {"label": names.of_setting(setting), "help_text": help_text}
    if setting.type == "bool":
        return forms.BooleanField(required=False, initial=initial, **shared)
    if facts["choices"]:
        return forms.ChoiceField(
            choices=[(name, names.of_choice(name)) for name in facts["choices"]], initial=initial, **shared
        )
    if setting.type == "str":
        return forms.CharField(required=False, initial=initial, max_length=500, strip=False, **shared)
    return NumberField(setting=setting, whole=setting.type == "int", initial=initial, **shared)


# --- what a run can read ----------------------------------------------------------------------------

DEMONSTRATIONS = [
    ("chosen", gettext_lazy("Completions that were preferred, and those that people wrote")),
    ("written", gettext_lazy("Completions that people wrote or corrected")),
    ("imported", gettext_lazy("Imported completions")),
]
PROMPTS = [
    (Prompt.Split.TRAIN, gettext_lazy("Training prompts")),
    ("all", gettext_lazy("All prompts")),
    (Prompt.Split.HELD_OUT, gettext_lazy("Held-out prompts")),
    (Prompt.Split.REVIEW, gettext_lazy("Review prompts")),
]
VERSION_LABELS = {
    "policy": gettext_lazy("Policy"),
    "reference": gettext_lazy("Reference policy"),
    "reward_model": gettext_lazy("Reward model"),
}
if TYPE_CHECKING:
    ChoiceOfVersion = forms.ModelChoiceField[ModelVersion]
    ChoiceOfSnapshot = forms.ModelChoiceField[Snapshot]
else:
    ChoiceOfVersion = ChoiceOfSnapshot = forms.ModelChoiceField


class VersionField(ChoiceOfVersion):
    def label_from_instance(self, version: ModelVersion) -> str:
        return f"{version} · {version.get_kind_display()}" + (f" · {version.note}" if version.note else "")


class SnapshotField(ChoiceOfSnapshot):
    def label_from_instance(self, snapshot: Snapshot) -> str:
        return describe_snapshot(snapshot)


def describe_snapshot(snapshot: Snapshot) -> str:
    """ "s-9: 474 pairs, 21 Nov 2026"."""
    counts = snapshot.counts
    what = {
        Snapshot.Kind.PREFERENCES: (_("pairs"), "pairs"),
        Snapshot.Kind.DEMONSTRATIONS: (_("demonstrations"), "demonstrations"),
        Snapshot.Kind.PROMPTS: (_("prompts"), "prompts"),
    }[Snapshot.Kind(snapshot.kind)]
    day = date_format(snapshot.created_at, "j M Y")
    return f"{snapshot}: {counts.get(what[1], '?')} {what[0]}, {day}"


ANSWER = ("withdrawn", "acceptability", "strength", "ranking", "ratings")


class Freezable(NamedTuple):
    """What freezing the judgements now would give: pairs with and without simulated annotators."""

    pairs: int
    decided: int
    people: int
    simulated: int
    imported: int
    annotators: int


def freezable(project: Project) -> Freezable:
    """Counted by the rules of `Preference.pairs()`: pairwise ones in SQL, rankings and ratings row by row."""
    found = Preference.objects.filter(
        comparison__project=project, comparison__purpose=Comparison.Purpose.TRAINING
    ).deciding()
    pairwise = Q(kind=ComparisonKind.PAIRWISE)
    heard = Q(overruled=False)
    neither = Q(strength=0, acceptability=Preference.Acceptability.NEITHER)
    counted = found.aggregate(
        n_pairs=Count("pk", filter=pairwise & heard & ~neither),
        n_decided=Count("pk", filter=pairwise & heard & ~Q(strength=0)),
        n_corrections=Count("corrects"),
        n_people=Count("pk", filter=heard & Q(simulated=False, imported=False)),
        n_simulated=Count("pk", filter=heard & Q(simulated=True)),
        n_imported=Count("pk", filter=heard & Q(imported=True, simulated=False)),
        n_annotators=Count("annotator", distinct=True),
    )
    counts = {name.removeprefix("n_"): count for name, count in counted.items()}
    corrections = counts.pop("corrections")
    ties = [pair.tie for row in found.exclude(pairwise).only(*ANSWER) for pair in row.ordered()]
    counts["pairs"] += corrections + len(ties)
    counts["decided"] += corrections + ties.count(False)
    return Freezable(**counts)


@dataclasses.dataclass(frozen=True)
class Obstacle:
    """Why a run of this kind cannot start yet, and the page that mends it."""

    words: str
    label: str
    view: str
    args: tuple[str, ...] = ()


def obstacles(project: Project, kind: str) -> list[Obstacle]:
    """All that is missing, so that nobody mends one thing only to be told of the next."""
    found = []
    usual, config = default_versions(project, kind), configs.KINDS[kind]
    if "policy" not in usual:
        words = _("There is no model version to start from.")
        found.append(Obstacle(words, _("Versions"), "version_list"))
    if "reward_model" in config.inputs and "reward_model" not in usual:
        words = _("There is no reward model yet: %(kind)s has nothing to optimise.") % {
            "kind": _(config.title)
        }
        found.append(Obstacle(words, _("Train a reward model"), "run_launch", ("reward_model",)))
    if config.data[1] == Snapshot.Kind.PREFERENCES and not _frozen(project, Snapshot.Kind.PREFERENCES):
        decided = freezable(project).decided
        if decided < snapshots.MINIMUM_PAIRS:
            words = ngettext(
                "Training needs at least %(wanted)d usable pairs; there is %(found)d.",
                "Training needs at least %(wanted)d usable pairs; there are %(found)d.",
                decided,
            ) % {"wanted": snapshots.MINIMUM_PAIRS, "found": decided}
            found.append(Obstacle(words, _("Judge"), "judge"))
    if config.data[1] == Snapshot.Kind.PROMPTS and not project.prompts.exists():
        found.append(Obstacle(_("There are no prompts yet."), _("Import prompts"), "import_upload"))
    return found


def _frozen(project: Project, kind: str) -> bool:
    return Snapshot.objects.filter(project=project, kind=kind).exists()


# --- launch a run -----------------------------------------------------------------------------------


class LaunchForm(forms.Form):
    """Inputs, settings and seed of one run. Fields are made from the kind's config dataclass."""

    seed = forms.IntegerField(
        label=gettext_lazy("Seed"),
        min_value=0,
        max_value=LARGEST_TYPED_SEED,
        initial=0,
        help_text=gettext_lazy("The same inputs, settings and seed give the same result."),
    )

    def __init__(self, *args: Any, project: Project, kind: str, preset: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.project, self.kind, self.settings_of = project, kind, configs.KINDS[kind]
        self.wanted = [name.rstrip("?") for name in self.settings_of.inputs]
        self.holds = Snapshot.Kind(self.settings_of.data[1])
        seed = self.fields.pop("seed")
        self._add_versions()
        self._add_data()
        self._add_more_data()
        chosen = self.settings_of.presets.get(preset, {})
        self.simple: list[str] = []
        self.advanced: list[str] = []
        for setting in dataclasses.fields(self.settings_of):
            self.fields[setting.name] = field_for(setting, chosen.get(setting.name, setting.default))
            (self.advanced if setting.metadata["advanced"] else self.simple).append(setting.name)
        self.fields["seed"] = seed
        self.advanced.append("seed")

    def _add_versions(self) -> None:
        versions = ModelVersion.objects.filter(project=self.project, state=ModelVersion.State.READY)
        usual = default_versions(self.project, self.kind)
        for name in self.wanted:
            if (self.kind, name) in SNAPSHOT_KINDS:
                continue
            required = name in self.settings_of.inputs
            reward = name == "reward_model"
            kinds = (ModelVersion.Kind.REWARD,) if reward else POLICY_KINDS
            self.fields[name] = VersionField(
                queryset=versions.filter(kind__in=kinds),
                label=VERSION_LABELS[name],
                help_text=_(self.settings_of.inputs[name if required else f"{name}?"]),
                required=required,
                initial=usual[name].pk if name in usual else None,
            )

    def _add_more_data(self) -> None:
        """Optional further files, frozen before."""
        for name, holds in self.settings_of.more_data.items():
            kept = Snapshot.objects.filter(project=self.project, kind=holds)
            self.fields[name] = SnapshotField(
                queryset=kept,
                label=Snapshot.Kind(holds).label,
                help_text=_(self.settings_of.inputs[f"{name}?"]),
                required=False,
            )

    def _fresh(self) -> list[tuple[str, Any]]:
        """What can be frozen now. Prompts kept out of every training are offered to kinds that only read."""
        if self.holds == Snapshot.Kind.PREFERENCES:
            return [(NOW, _("Judgements in force"))]
        offered = PROMPTS[:1] if self.settings_of.trains else PROMPTS
        if self.holds == Snapshot.Kind.DEMONSTRATIONS:
            offered = [row for row in DEMONSTRATIONS if row[0] != "written" or self._people_wrote()]
        return [(f"{NOW}:{what}", label) for what, label in offered]

    def _people_wrote(self) -> bool:
        by_people = (Completion.Source.WRITTEN, Completion.Source.CORRECTED)
        return Completion.objects.filter(prompt__project=self.project, source__in=by_people).exists()

    def _add_data(self) -> None:
        """Which frozen data to read: what is there now, or a snapshot from before."""
        before = Snapshot.objects.filter(project=self.project, kind=self.holds).order_by("-pk")
        if self.holds == Snapshot.Kind.PROMPTS and self.settings_of.trains:
            before = before.filter(filter__split=Prompt.Split.TRAIN)
        before = before[:SNAPSHOTS_OFFERED]
        fresh = self._fresh()
        kept = [(str(snapshot.pk), describe_snapshot(snapshot)) for snapshot in before]
        self.fields["data"] = forms.ChoiceField(
            label=_("Data"),
            choices=[(_("Freeze now"), fresh), *([(_("Frozen before"), kept)] if kept else [])],
            initial=fresh[0][0],
            help_text=_("A run reads frozen data that never change, so that it can be repeated."),
        )
        if self.holds == Snapshot.Kind.PREFERENCES:
            self.fields["include_simulated"] = forms.BooleanField(
                label=_("Include simulated annotators"),
                required=False,
                initial=True,
                help_text=_("When frozen now: also learn from judgements that programs gave."),
            )
        if self.holds == Snapshot.Kind.PROMPTS:
            self.fields["limit"] = forms.IntegerField(
                label=_("Prompts at most"),
                required=False,
                min_value=1,
                help_text=_("When frozen now: that many, drawn by the seed. Empty takes all."),
            )
        if self.kind == "sample":
            self.fields["compare"] = forms.BooleanField(
                label=_("Put them up for judgement"),
                required=False,
                initial=True,
                help_text=_("People judge them next, in pairs or as the project's kind of judgement says."),
            )

    @property
    def inputs_fields(self) -> list[forms.BoundField]:
        shown = {*self.simple, *self.advanced}
        return [self[name] for name in self.fields if name not in shown]

    @property
    def simple_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.simple]

    @property
    def advanced_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.advanced]

    @property
    def advanced_has_errors(self) -> bool:
        return any(name in self.errors for name in self.advanced)

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or self.cleaned_data
        for name in self.data:
            if name not in self.fields and name not in ("csrfmiddlewaretoken", "preset"):
                near = difflib.get_close_matches(name, self.fields, n=1)
                unknown = _("Unknown setting “%(name)s”.") % {"name": name}
                self.add_error(None, unknown + (_(" Did you mean “%s”?") % near[0] if near else ""))
        if not self.errors:
            config = self.settings_of(**self.config_values())
            for name, problem in config.cross_problems().items():
                self.add_error(name, problem)
        return cleaned

    def config_values(self) -> dict[str, Any]:
        names = [setting.name for setting in dataclasses.fields(self.settings_of)]
        return {name: self.cleaned_data[name] for name in names}

    def freeze(self, actor: User) -> Snapshot:
        """The frozen data that the run will read; raises NothingToFreeze in words."""
        chosen, _colon, what = str(self.cleaned_data["data"]).partition(":")
        if chosen != NOW:
            return Snapshot.objects.get(project=self.project, pk=int(chosen))
        if self.holds == Snapshot.Kind.DEMONSTRATIONS:
            return snapshots.freeze_demonstrations(self.project, actor=actor, source=what)
        if self.holds == Snapshot.Kind.PREFERENCES:
            simulated = self.cleaned_data["include_simulated"]
            return snapshots.freeze_preferences(self.project, actor=actor, include_simulated=simulated)
        return snapshots.freeze_prompts(
            self.project,
            actor=actor,
            split=None if what == "all" else what,
            limit=self.cleaned_data["limit"],
            seed=self.cleaned_data["seed"],
        )

    def inputs(self, snapshot: Snapshot) -> dict[str, Input]:
        read: dict[str, Input] = {}
        for name in self.wanted:
            thing = snapshot if name == self.settings_of.data[0] else self.cleaned_data[name]
            if thing is not None:
                read[name] = thing
        return read

    def purpose(self) -> dict[str, Any]:
        return {"compare": True} if self.cleaned_data.get("compare") else {}
