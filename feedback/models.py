"""What people say, as rows: comparisons, assignments, preferences. Every other row of this app is named here
too, so that who reads rows imports them from one place."""

from __future__ import annotations

import secrets
from typing import Any, NamedTuple

from django.conf import settings
from django.db import models
from django.db.models import Q
from django.utils.functional import cached_property
from django.utils.translation import gettext_lazy as _

from feedback import ordering
from feedback.audit_entries import AuditEntry as AuditEntry
from feedback.data_imports import DataImport as DataImport
from feedback.people import ComparisonKind as ComparisonKind
from feedback.people import Guideline as Guideline
from feedback.people import Invitation as Invitation
from feedback.people import Membership as Membership
from feedback.people import OneTimeToken as OneTimeToken
from feedback.people import Project as Project
from feedback.people import Role as Role
from feedback.people import SignInLink as SignInLink
from feedback.people import User as User
from feedback.people import usual_criteria as usual_criteria
from feedback.prompts import Completion as Completion
from feedback.prompts import Prompt as Prompt
from feedback.querysets import ComparisonQuerySet as ComparisonQuerySet
from feedback.querysets import PreferenceQuerySet as PreferenceQuerySet
from feedback.texts import Message as Message
from feedback.texts import canonical_json as canonical_json
from feedback.texts import sha256_text as sha256_text


class Comparison(models.Model):
    """A prompt with K completions put up for judgement."""

    class Purpose(models.TextChoices):
        TRAINING = "training", _("Training")
        GOLD = "gold", _("Gold")
        REVIEW = "review", _("Review")

    class State(models.TextChoices):
        OPEN = "open", _("Open")
        DONE = "done", _("Done")
        WITHDRAWN = "withdrawn", _("Withdrawn")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="comparisons")
    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="comparisons")
    kind = models.CharField(_("kind"), max_length=13, choices=ComparisonKind, default=ComparisonKind.PAIRWISE)
    purpose = models.CharField(_("purpose"), max_length=8, choices=Purpose, default=Purpose.TRAINING)
    overlap = models.PositiveSmallIntegerField(_("judgements wanted"), default=1)
    missing = models.PositiveSmallIntegerField(_("judgements missing"), editable=False)
    """Overlap less judgements, never below 0; `submitting.settle` keeps it. It has no default: whoever
    inserts rows in bulk says it."""
    priority = models.SmallIntegerField(_("priority"), default=0)
    shuffle = models.PositiveIntegerField(editable=False)
    """Drawn once: of equal priority and as many missing are served in this random order, so that the queue is
    one index walk."""
    gold_answer = models.JSONField(_("gold answer"), null=True, blank=True)
    """Of a gold comparison, as `Preference.answer` gives it: {"strength": 2}, {"ranking": [[1], [0, 2]]}."""
    state = models.CharField(_("state"), max_length=9, choices=State, default=State.OPEN)
    import_key = models.CharField(max_length=64, null=True, blank=True, editable=False)
    """Hash of the imported row, so that importing it again finds this comparison; null otherwise."""
    completions = models.ManyToManyField(Completion, through="Candidate", related_name="comparisons")
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    objects = ComparisonQuerySet.as_manager()

    class Meta:
        indexes = (
            models.Index(
                fields=("project", "-priority", "missing", "shuffle"),
                condition=Q(state="open"),
                name="comparison_queue",
            ),
            models.Index(fields=("project", "purpose", "state")),
        )
        constraints = (
            models.UniqueConstraint(fields=("project", "import_key"), name="same_row_once_in_a_project"),
            models.CheckConstraint(
                condition=Q(purpose="gold", gold_answer__isnull=False)
                | (~Q(purpose="gold") & Q(gold_answer__isnull=True)),
                name="gold_has_an_answer",
            ),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.pk}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.shuffle is None:
            self.shuffle = secrets.randbelow(2**31)
        if self.missing is None:
            self.missing = self.overlap  # new, so nobody has judged it
        super().save(*args, **kwargs)


class Candidate(models.Model):
    """A completion's place in a comparison. `position` is the canonical order, never the shown one."""

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="candidates")
    completion = models.ForeignKey(Completion, on_delete=models.CASCADE, related_name="candidacies")
    position = models.PositiveSmallIntegerField()

    class Meta:
        ordering = ("position",)
        constraints = (
            models.UniqueConstraint(
                fields=("comparison", "completion"), name="completion_once_in_a_comparison"
            ),
            models.UniqueConstraint(fields=("comparison", "position"), name="position_once_in_a_comparison"),
        )


class Assignment(models.Model):
    """A comparison leased to one annotator."""

    class State(models.TextChoices):
        LEASED = "leased", _("Leased")
        JUDGED = "judged", _("Judged")
        SKIPPED = "skipped", _("Skipped")
        EXPIRED = "expired", _("Expired")

    comparison = models.ForeignKey(Comparison, on_delete=models.CASCADE, related_name="assignments")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="assignments"
    )
    shown_order = models.JSONField()
    """Candidate positions from left to right as the annotator sees them, e.g. [1, 0]; [] if imported."""
    state = models.CharField(_("state"), max_length=7, choices=State, default=State.LEASED)
    lease_expires_at = models.DateTimeField(_("leased until"))
    fencing_token = models.PositiveIntegerField(default=1)
    """Raised at each new lease of this row: a submit under an older one is recognised as late."""
    skip_reason = models.CharField(_("skip reason"), max_length=200, blank=True)
    draft = models.JSONField(_("draft"), default=dict, blank=True)
    """What was typed so far, by field of the form, and `at`, when that was; gone once judged or skipped."""
    created_at = models.DateTimeField(_("opened"), auto_now_add=True)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("comparison", "annotator"), name="comparison_once_for_an_annotator"
            ),
        )
        indexes = (
            models.Index(fields=("annotator", "state", "lease_expires_at")),
            models.Index(fields=("annotator", "-closed_at")),
            models.Index(fields=("comparison", "state", "lease_expires_at")),
        )


class Pair(NamedTuple):
    """What a judgement becomes in training; a judgement of more than two completions becomes several."""

    chosen: Completion
    rejected: Completion
    margin: float
    """1 slightly, 2 better, 3 much better; of rankings and ratings see docs/data.md."""
    tie: bool
    weight: float = 1.0
    """The K(K-1)/2 pairs of K completions share the weight of the K-1 judgements that ordered them."""
    stated: float | None = None
    """The margin in an imported file, where it is another number: it goes out again and trains nothing."""


class Preference(models.Model):
    """An annotator's recorded judgement. Append-only: a change or an undo is a new row that supersedes.

    A reviewer's adjudication has no assignment and so takes nobody's place in the overlap. While it is in
    force it decides instead of the others.
    """

    class Acceptability(models.TextChoices):
        BOTH = "both", _("Both are good enough")
        ONE = "one", _("Only the better one")
        NEITHER = "neither", _("Neither is good enough")

    assignment = models.ForeignKey(
        Assignment, on_delete=models.PROTECT, null=True, related_name="preferences"
    )
    comparison = models.ForeignKey(Comparison, on_delete=models.PROTECT, related_name="preferences")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="preferences"
    )
    kind = models.CharField(_("kind"), max_length=13, choices=ComparisonKind, default=ComparisonKind.PAIRWISE)
    """The comparison's: says which of the answers below this row holds."""
    strength = models.SmallIntegerField(_("strength"), null=True)
    """-3 (candidate 0 much better) .. 0 (tie) .. 3 (candidate 1 much better): on completions, not on sides.
    Null in a withdrawal and in judgements that are not pairwise."""
    margin = models.FloatField(_("margin"), null=True)
    """What the file of an imported preference says, where it is no whole strength: 0.37, 12. Strength is the
    nearest step and decides what trains."""
    ranking = models.JSONField(_("ranking"), default=list, blank=True)
    """Groups of candidate positions, best first; those of one group tie: [[2], [0, 3], [1]]."""
    ratings = models.JSONField(_("ratings"), default=list, blank=True)
    """Of each candidate, by position, 1 to 5 by criterion: [{"helpful": 4, "honest": 5}, ...]."""
    written = models.ForeignKey(
        Completion, on_delete=models.PROTECT, null=True, blank=True, related_name="written_in"
    )
    """What the annotator wrote: a demonstration, or a correction beside any other kind of judgement."""
    corrects = models.ForeignKey(
        Completion, on_delete=models.PROTECT, null=True, blank=True, related_name="corrected_in"
    )
    """The candidate that `written` is a better version of; null for a demonstration."""
    acceptability = models.CharField(_("acceptability"), max_length=7, choices=Acceptability, blank=True)
    flags = models.JSONField(_("flags"), default=list, blank=True)
    comment = models.TextField(_("comment"), max_length=4000, blank=True)
    shown_order = models.JSONField()
    guideline = models.ForeignKey(Guideline, on_delete=models.PROTECT, null=True)
    active_ms = models.PositiveIntegerField(_("active milliseconds"), null=True)
    idempotency_key = models.CharField(max_length=128, unique=True)
    body_hash = models.CharField(max_length=64)
    supersedes = models.OneToOneField(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="superseded_by"
    )
    withdrawn = models.BooleanField(_("withdrawn"), default=False)
    late = models.BooleanField(_("after the lease ran out"), default=False)
    simulated = models.BooleanField(_("simulated"), default=False)
    imported = models.BooleanField(_("imported"), default=False)
    """Judged elsewhere, by people we do not know, and brought in by a file."""
    adjudication = models.BooleanField(_("adjudication"), default=False, db_default=False)
    """A reviewer's decision of a comparison whose annotators disagree; `annotator` is the reviewer."""
    created_at = models.DateTimeField(_("judged"), auto_now_add=True)

    objects = PreferenceQuerySet.as_manager()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("assignment",),
                condition=Q(supersedes__isnull=True),
                name="one_first_judgement_of_an_assignment",
            ),
            models.UniqueConstraint(
                fields=("comparison",),
                condition=Q(adjudication=True, supersedes__isnull=True),
                name="one_first_adjudication_of_a_comparison",
            ),
            models.CheckConstraint(
                condition=Q(adjudication=True, assignment__isnull=True)
                | Q(adjudication=False, assignment__isnull=False),
                name="adjudication_has_no_assignment",
            ),
            models.CheckConstraint(
                condition=Q(withdrawn=True, strength__isnull=True)
                | Q(
                    withdrawn=False,
                    kind="pairwise",
                    strength__isnull=False,
                    strength__gte=-3,
                    strength__lte=3,
                )
                | Q(withdrawn=False, kind__in=("ranking", "rating"), strength__isnull=True)
                | Q(withdrawn=False, kind="demonstration", strength__isnull=True, written__isnull=False),
                name="preference_strength",
            ),
            models.CheckConstraint(
                condition=Q(corrects__isnull=True) | Q(written__isnull=False), name="correction_has_a_text"
            ),
        )
        indexes = (
            models.Index(fields=("annotator", "-created_at")),
            models.Index(fields=("comparison",), condition=Q(adjudication=True), name="adjudications"),
            models.Index(fields=("kind", "id"), name="latest_of_a_kind"),
        )

    @cached_property
    def overruled(self) -> bool:
        """Whether an adjudication decides instead. `deciding()` brings it along for many rows at once."""
        decided = Preference.objects.in_force().filter(comparison=self.comparison_id, adjudication=True)
        return not self.adjudication and decided.exists()

    def answer(self) -> dict[str, Any]:
        """What was said of the order of the candidates, as a gold answer says it."""
        said = {"strength": self.strength, "ranking": self.ranking, "ratings": self.ratings}
        return {name: value for name, value in said.items() if value not in (None, [])}

    def ordered(self) -> list[ordering.Ordered]:
        """The order of candidate positions that this judgement tells training; see `pairs`."""
        if self.withdrawn or self.overruled:
            return []
        bad_ties = self.acceptability == self.Acceptability.NEITHER
        return [pair for pair in ordering.order_of(self.answer()) if not (pair.tie and bad_ties)]

    def pairs(self) -> list[Pair]:
        """What this judgement becomes in training; nothing when it was withdrawn.

        A tie yields its two completions with margin 0 and `tie` set: the trainer's configuration decides.
        Both-bad with a stated preference still says which is less bad, so it counts; a both-bad tie does not.
        A correction is slightly better than what it corrects. A demonstration has nothing to be better than.
        Where a reviewer adjudicated, the adjudication alone says the order; what others wrote stays.
        """
        found: list[Pair] = []
        if ordered := self.ordered():
            texts = [candidate.completion for candidate in self.comparison.candidates.all()]
            found = [
                Pair(
                    texts[pair.better], texts[pair.worse], pair.margin, pair.tie, 2 / len(texts), self.margin
                )
                for pair in ordered
            ]
        if self.written is not None and self.corrects is not None and not self.withdrawn:
            found.append(Pair(self.written, self.corrects, 1.0, False))
        return found

    def demonstrations(self) -> list[Completion]:
        """What this judgement shows for imitation: the text that its annotator wrote, new or corrected."""
        return [self.written] if self.written is not None and not self.withdrawn else []
