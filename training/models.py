"""What machines do with it, as rows: snapshots, runs and metrics, model versions, promotions, reviews."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from feedback.models import Comparison, Completion, Project
from training.core.configs import KINDS

ZERO_HASH = "0" * 64


class Immutable(models.Model):
    """A row that is written once."""

    class Meta:
        abstract = True

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.pk is not None:
            raise TypeError(f"{self._meta.label} rows are written once")
        super().save(*args, **kwargs)


class Snapshot(Immutable):
    """Frozen data: a JSONL file under ARTIFACT_ROOT, addressed by its hash."""

    class Kind(models.TextChoices):
        PREFERENCES = "preferences", _("Preferences")
        DEMONSTRATIONS = "demonstrations", _("Demonstrations")
        PROMPTS = "prompts", _("Prompts")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="snapshots")
    kind = models.CharField(_("kind"), max_length=14, choices=Kind)
    filter = models.JSONField(_("filter"), default=dict)
    sha256 = models.CharField(max_length=64)
    counts = models.JSONField(_("counts"), default=dict)
    """preferences: {"preferences", "pairs", "ties", "prompts", "annotators", "simulated", "train",
    "held_out"}."""
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(_("frozen"), auto_now_add=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"s-{self.pk}"

    @property
    def path(self) -> Path:
        return settings.ARTIFACT_ROOT / "snapshots" / f"{self.sha256}.jsonl"


class ModelVersion(models.Model):
    """A registered model with its lineage. Its folder under ARTIFACT_ROOT is named by its content hash."""

    class Kind(models.TextChoices):
        BASE = "base", _("Base")
        POLICY = "policy", _("Policy")
        REWARD = "reward", _("Reward model")

    class State(models.TextChoices):
        READY = "ready", _("Ready")
        DAMAGED = "damaged", _("Damaged")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="model_versions")
    kind = models.CharField(_("kind"), max_length=6, choices=Kind)
    number = models.PositiveIntegerField(_("number"))
    """Counted within a project: policies (base ones included) v0, v1, ...; reward models rm-1, rm-2, ..."""
    parent = models.ForeignKey(
        "self", on_delete=models.PROTECT, null=True, blank=True, related_name="children"
    )
    run = models.OneToOneField("Run", on_delete=models.PROTECT, null=True, blank=True, related_name="version")
    content_hash = models.CharField(max_length=64)
    state = models.CharField(_("state"), max_length=7, choices=State, default=State.READY)
    metrics = models.JSONField(_("metrics"), default=dict)
    """The last metrics of the run, and for reward models accuracy with its interval."""
    note = models.CharField(_("note"), max_length=200, blank=True)
    created_at = models.DateTimeField(_("registered"), auto_now_add=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.UniqueConstraint(
                "project",
                models.Case(models.When(kind="reward", then=1), default=0),
                "number",
                name="version_number",
            ),
        )

    def __str__(self) -> str:
        return f"rm-{self.number}" if self.kind == self.Kind.REWARD else f"v{self.number}"

    @property
    def role_in_words(self) -> str:
        """What its kind is for."""
        return str(
            {
                self.Kind.BASE: _("a model to start from"),
                self.Kind.POLICY: _("learned from a reward model or from demonstrations"),
                self.Kind.REWARD: _("scores completions as people would judge them"),
            }[self.Kind(self.kind)]
        )

    @property
    def path(self) -> Path:
        return settings.ARTIFACT_ROOT / "models" / self.content_hash


class Run(models.Model):
    """One execution of a run kind. The row is the truth; Celery rings; the trainer works in `directory`."""

    class State(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        DONE = "done", _("Done")
        CANCELLED = "cancelled", _("Cancelled")
        FAILED = "failed", _("Failed")

    ENDED = (State.DONE, State.CANCELLED, State.FAILED)

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="runs")
    kind = models.CharField(_("kind"), max_length=20)
    """A key of training.core.configs.KINDS."""
    config = models.JSONField(_("configuration"), default=dict)
    seed = models.PositiveIntegerField(_("seed"), default=0)
    state = models.CharField(_("state"), max_length=9, choices=State, default=State.QUEUED)
    phase = models.CharField(_("phase"), max_length=80, blank=True)
    step = models.PositiveIntegerField(_("step"), default=0)
    total_steps = models.PositiveIntegerField(_("steps"), default=0)
    seconds_left = models.FloatField(null=True, blank=True)
    attempt = models.PositiveSmallIntegerField(_("attempt"), default=0)
    fruitless_starts = models.PositiveSmallIntegerField(default=0)
    """Starts in a row that ended without a new checkpoint; after RUN_MAX_ATTEMPTS the run is poison."""
    fencing_token = models.PositiveIntegerField(default=0)
    rung_at = models.DateTimeField(null=True, blank=True)
    """When a message about this queued run was last sent."""
    lease_expires_at = models.DateTimeField(null=True, blank=True)
    heartbeat_at = models.DateTimeField(null=True, blank=True)
    threads = models.PositiveSmallIntegerField(_("threads"), null=True, blank=True)
    """Those of its trainer, as its first start wrote them into spec.json; null before, and in old runs."""
    worker = models.CharField(_("worker"), max_length=120, blank=True)
    pid = models.PositiveIntegerField(null=True, blank=True)
    event_offset = models.PositiveBigIntegerField(default=0)
    """Bytes of events.jsonl that are already in the database."""
    outcome = models.JSONField(_("outcome"), default=dict, blank=True)
    """{} while open; then {"status"} or {"status": "failed", "code", "message", "hint"}."""
    purpose = models.JSONField(default=dict, blank=True)
    """What to do with the output, e.g. {"register": "base"}, {"compare": true}, {"review": 3}."""
    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(_("launched"), auto_now_add=True)
    started_at = models.DateTimeField(_("started"), null=True, blank=True)
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        indexes = (models.Index(fields=("state", "lease_expires_at")),)

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"

    @property
    def title(self) -> str:
        """The name of its kind and its number: "PPO 27"."""
        return f"{KINDS[self.kind].title} {self.pk}"

    @property
    def directory(self) -> Path:
        return settings.ARTIFACT_ROOT / "runs" / str(self.pk)

    @property
    def ended(self) -> bool:
        return self.state in self.ENDED


class RunInput(models.Model):
    """What a run reads, by name (policy, reference, reward_model, snapshot, prompts), with its hash."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="inputs")
    name = models.CharField(_("name"), max_length=20)
    model_version = models.ForeignKey(
        ModelVersion, on_delete=models.PROTECT, null=True, blank=True, related_name="used_by"
    )
    snapshot = models.ForeignKey(
        Snapshot, on_delete=models.PROTECT, null=True, blank=True, related_name="used_by"
    )
    sha256 = models.CharField(max_length=64)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(fields=("run", "name"), name="input_name_once_in_a_run"),
            models.CheckConstraint(
                condition=Q(model_version__isnull=True) ^ Q(snapshot__isnull=True), name="input_is_one_thing"
            ),
        )


class RunMetric(models.Model):
    """The metrics of one step: path -> number, e.g. {"reward/mean": 0.3}."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="metrics")
    step = models.PositiveIntegerField(_("step"))
    values = models.JSONField(_("values"))
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering = ("step",)
        constraints = (models.UniqueConstraint(fields=("run", "step"), name="one_row_for_a_step"),)


class RunSample(models.Model):
    """Text sampled during a run, so that it can be read and not only plotted."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="samples")
    step = models.PositiveIntegerField(_("step"))
    index = models.PositiveSmallIntegerField()
    messages = models.JSONField(_("prompt"))
    completion = models.TextField(_("completion"))
    score = models.FloatField(_("score"), null=True)
    kl = models.FloatField(_("KL"), null=True)

    class Meta:
        ordering = ("index", "step")
        constraints = (
            models.UniqueConstraint(fields=("run", "step", "index"), name="one_sample_for_a_step"),
        )


class RunLog(models.Model):
    """A line of a run's log."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="log")
    at = models.DateTimeField(_("at"))
    level = models.CharField(_("level"), max_length=7, default="info")
    message = models.TextField(_("message"))

    class Meta:
        ordering = ("-id",)


class Promotion(Immutable):
    """Who promoted which version when, why, and what stood before. A roll-back promotes an older one."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="promotions")
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="promotions")
    previous = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, null=True, related_name="+")
    by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    reason = models.CharField(_("reason"), max_length=500)
    roll_back = models.BooleanField(_("roll back"), default=False)
    at = models.DateTimeField(_("at"), auto_now_add=True)

    class Meta:
        ordering = ("-id",)


class PromotedVersion(models.Model):
    """The one pointer row of a project: which policy writes the next completions."""

    project = models.OneToOneField(
        Project, on_delete=models.CASCADE, primary_key=True, related_name="promoted"
    )
    version = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="+")
    promotion = models.ForeignKey(Promotion, on_delete=models.PROTECT, related_name="+")


class Review(models.Model):
    """Blind comparison of a candidate version with a baseline, planned before anyone looks."""

    class State(models.TextChoices):
        SAMPLING = "sampling", _("Writing completions")
        JUDGING = "judging", _("Judging")
        CLOSED = "closed", _("Closed")
        FAILED = "failed", _("Failed")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="reviews")
    candidate = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="reviews_as_candidate")
    baseline = models.ForeignKey(ModelVersion, on_delete=models.PROTECT, related_name="reviews_as_baseline")
    plan = models.JSONField(_("plan"))
    """{"prompts": n, "overlap", "temperature", "max_new_tokens", "seed", "metric": "win_rate",
    "prompts_from": {"review", "held_out", "train"}}, and once the completions are there "comparisons" (put
    up) and "same_text" (prompts where both versions wrote the same: a tie, nothing to judge)."""
    state = models.CharField(_("state"), max_length=8, choices=State, default=State.SAMPLING)
    verdict = models.JSONField(_("verdict"), default=dict, blank=True)
    """Written at closing: {"win_rate", "low", "high", "wins", "ties", "losses", "neither", "words", ...}."""
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+"
    )
    created_at = models.DateTimeField(_("planned"), auto_now_add=True)
    closed_at = models.DateTimeField(_("closed"), null=True, blank=True)

    class Meta:
        ordering = ("-id",)
        constraints = (
            models.CheckConstraint(condition=~Q(candidate=F("baseline")), name="review_of_two_versions"),
        )

    def __str__(self) -> str:
        facts = {"candidate": self.candidate, "baseline": self.baseline}
        return gettext("%(candidate)s beside %(baseline)s") % facts


class ReviewItem(models.Model):
    """One blind comparison of a review, and which side of it is the candidate's."""

    review = models.ForeignKey(Review, on_delete=models.CASCADE, related_name="items")
    comparison = models.OneToOneField(Comparison, on_delete=models.PROTECT, related_name="review_item")
    candidate_completion = models.ForeignKey(Completion, on_delete=models.PROTECT, related_name="+")
    baseline_completion = models.ForeignKey(Completion, on_delete=models.PROTECT, related_name="+")
