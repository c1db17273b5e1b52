"""What people say, as rows: accounts, projects, prompts, completions, comparisons, preferences."""

from __future__ import annotations

import hashlib
import json
import secrets
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import connection, models, transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from feedback.audit import lock_chain


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


def canonical_json(value: object) -> str:
    """The one JSON text of a value: sorted keys, no spaces, so that equal values hash alike."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def sha256_text(text: str) -> str:
    """Hex digest of the UTF-8 bytes; lone surrogates (which no importer lets in) would raise."""
    return hashlib.sha256(text.encode()).hexdigest()


# --- people -----------------------------------------------------------------------------------------


class User(AbstractUser):
    """An account. Simulated annotators are marked here, and on each of their preferences."""

    simulated = models.BooleanField(_("simulated"), default=False)

    @classmethod
    def first_admin(cls) -> User:
        """The first superuser; made without a password when there is none, for a sign-in link to open."""
        admin = cls.objects.filter(is_superuser=True, is_active=True).order_by("pk").first()
        return admin or cls.objects.create_superuser("admin")

    def open_projects(self) -> models.QuerySet[Project]:
        """Every project the user may open: all of them for superusers, who are admins everywhere."""
        projects = Project.objects.filter(archived_at=None)
        return projects if self.is_superuser else projects.filter(memberships__user=self)


class OneTimeToken(models.Model):
    """A secret shown once in a link; only its hash is kept."""

    token_hash = models.CharField(max_length=64, unique=True, editable=False)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"))
    used_at = models.DateTimeField(_("used"), null=True, blank=True)

    class Meta:
        abstract = True

    def new_token(self, *, days: int) -> str:
        """Set hash and expiry; return the secret, which cannot be read back later."""
        token = secrets.token_urlsafe(32)
        self.token_hash = sha256_text(token)
        self.expires_at = timezone.now() + timedelta(days=days)
        return token

    @classmethod
    def usable(cls, token: str) -> Q:
        """Filter for the unused, unexpired row of a token."""
        return Q(token_hash=sha256_text(token), used_at=None, expires_at__gt=timezone.now())


class SignInLink(OneTimeToken):
    """Signs one person in once: the first admin's way into a fresh installation."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)


# --- projects ---------------------------------------------------------------------------------------


class Role(models.TextChoices):
    """What a member may do; each role includes those before it."""

    ANNOTATOR = "annotator", _("Annotator")
    REVIEWER = "reviewer", _("Reviewer")
    ENGINEER = "engineer", _("Engineer")
    ADMIN = "admin", _("Admin")


class ComparisonKind(models.TextChoices):
    PAIRWISE = "pairwise", _("Pairwise")


class Project(models.Model):
    """A workspace: guidelines, prompts, one loop, members."""

    name = models.CharField(_("name"), max_length=80)
    slug = models.SlugField(_("address"), max_length=80, unique=True)
    question = models.CharField(_("question"), max_length=200, default="Which answer is better?")
    overlap = models.PositiveSmallIntegerField(_("judgements per comparison"), default=1)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="projects")

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(condition=Q(overlap__gte=1, overlap__lte=50), name="project_overlap"),
        )

    def __str__(self) -> str:
        return self.name

    def guideline(self) -> Guideline | None:
        """The guideline in force: the newest version."""
        return self.guidelines.order_by("-version").first()


class Guideline(models.Model):
    """One version of a project's guidelines; each preference records the one it was made under."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="guidelines")
    version = models.PositiveIntegerField(_("version"))
    text = models.TextField(_("text"), max_length=40_000)
    author = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ("-version",)
        constraints = (models.UniqueConstraint(fields=("project", "version"), name="guideline_version"),)

    def __str__(self) -> str:
        return f"{self.project} v{self.version}"


class Membership(models.Model):
    """A person's role in a project."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="memberships")
    role = models.CharField(_("role"), max_length=10, choices=Role)
    created_at = models.DateTimeField(_("since"), auto_now_add=True)

    class Meta:
        constraints = (models.UniqueConstraint(fields=("project", "user"), name="one_role_in_a_project"),)

    def __str__(self) -> str:
        return f"{self.user}: {self.get_role_display()}"


class Invitation(OneTimeToken):
    """A link that makes whoever opens it first a member."""

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="invitations")
    role = models.CharField(_("role"), max_length=10, choices=Role)
    note = models.CharField(_("for whom"), max_length=120, blank=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    used_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True, blank=True, related_name="+"
    )


# --- prompts and completions ------------------------------------------------------------------------


class DataImport(models.Model):
    """One uploaded file on its way into a project. The file lies under ARTIFACT_ROOT/imports/ID."""

    class State(models.TextChoices):
        QUEUED = "queued", _("Queued")
        RUNNING = "running", _("Running")
        DONE = "done", _("Done")
        FAILED = "failed", _("Failed")
        CANCELLED = "cancelled", _("Cancelled")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="imports")
    file_name = models.CharField(_("file"), max_length=200)
    sha256 = models.CharField(max_length=64)
    size = models.PositiveBigIntegerField(_("bytes"))
    format = models.CharField(_("format"), max_length=20)
    options = models.JSONField(_("options"), default=dict)
    """{"put_up": bool, "ignore_extra": bool, "split": Prompt.Split}: see docs/data.md."""
    skip_bad_rows = models.BooleanField(_("skip bad rows"), default=False)
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.QUEUED)
    bytes_read = models.PositiveBigIntegerField(default=0)
    """Each byte is read twice, once to check and once to write, and counts half each time."""
    last_line = models.PositiveBigIntegerField(default=0)
    """Written up to here: moved in the transaction that writes, so a second attempt goes on after it."""
    attempt = models.PositiveSmallIntegerField(default=0)
    """Raised at each claim: a worker given up for dead that comes back finds its number out of date."""
    counts = models.JSONField(_("counts"), default=dict)
    """{"rows", "prompts", "completions", "comparisons", "preferences", "unchanged", "bad_rows"}"""
    errors = models.JSONField(_("row errors"), default=list)
    """The first 100: [{"line": 3, "reason": "..."}]; line 0 is the file as a whole."""
    heartbeat_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(_("uploaded"), auto_now_add=True)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return gettext("import %d") % self.pk

    @property
    def path(self) -> Path:
        return settings.ARTIFACT_ROOT / "imports" / str(self.pk)

    @property
    def going(self) -> bool:
        return self.state in (self.State.QUEUED, self.State.RUNNING)


class Prompt(models.Model):
    """Messages that a completion answers."""

    class Split(models.TextChoices):
        TRAIN = "train", _("Training")
        HELD_OUT = "held_out", _("Held out")
        REVIEW = "review", _("Review")

    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="prompts")
    messages = models.JSONField(_("messages"))
    content_hash = models.CharField(max_length=64, editable=False)
    source = models.CharField(_("source"), max_length=80, blank=True)
    external_id = models.CharField(_("external id"), max_length=200, blank=True)
    split = models.CharField(_("split"), max_length=8, choices=Split, default=Split.TRAIN)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(
                fields=("project", "content_hash"), name="same_messages_once_in_a_project"
            ),
        )
        indexes = (models.Index(fields=("project", "split")),)

    def __str__(self) -> str:
        return self.last_message[:80]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.content_hash = self.hash_of(self.messages)
        super().save(*args, **kwargs)

    @staticmethod
    def hash_of(messages: list[Message]) -> str:
        return sha256_text(canonical_json(messages))

    @property
    def last_message(self) -> str:
        return self.messages[-1]["content"] if self.messages else ""


class Completion(models.Model):
    """Text that answers a prompt: imported, sampled by a model version, or written by a person."""

    class Source(models.TextChoices):
        IMPORTED = "imported", _("Imported")
        SAMPLED = "sampled", _("Sampled")
        WRITTEN = "written", _("Written")
        CORRECTED = "corrected", _("Corrected")

    prompt = models.ForeignKey(Prompt, on_delete=models.CASCADE, related_name="completions")
    text = models.TextField(_("text"))
    text_hash = models.CharField(max_length=64, editable=False)
    source = models.CharField(_("source"), max_length=9, choices=Source)
    model_version = models.ForeignKey(
        "training.ModelVersion", on_delete=models.PROTECT, null=True, blank=True, related_name="completions"
    )
    sampling = models.JSONField(_("sampling"), default=dict, blank=True)
    """{"run", "temperature", "max_new_tokens", "seed", "index"} of a sampled completion."""
    token_count = models.PositiveIntegerField(_("tokens"), null=True, blank=True)
    finish_reason = models.CharField(_("finish reason"), max_length=10, blank=True)
    logprob = models.FloatField(_("log-probability"), null=True, blank=True)
    corrected_from = models.ForeignKey("self", on_delete=models.PROTECT, null=True, blank=True)
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    class Meta:
        ordering = ("id",)
        constraints = (
            models.UniqueConstraint(
                fields=("prompt", "text_hash", "model_version"),
                condition=Q(model_version__isnull=False),
                name="same_text_by_a_version_once",
            ),
            models.UniqueConstraint(
                fields=("prompt", "text_hash", "source"),
                condition=Q(model_version__isnull=True),
                name="same_text_of_a_source_once",
            ),
        )

    def __str__(self) -> str:
        return self.text[:80]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.text_hash = sha256_text(self.text)
        super().save(*args, **kwargs)


# --- comparisons, assignments, preferences ----------------------------------------------------------


class ComparisonQuerySet(models.QuerySet["Comparison"]):
    def open(self) -> ComparisonQuerySet:
        """Those that still take judgements."""
        return self.filter(state=Comparison.State.OPEN)


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
    priority = models.SmallIntegerField(_("priority"), default=0)
    shuffle = models.PositiveIntegerField(editable=False)
    """Drawn once: equal priorities are served in this random order, so that the queue is one index walk."""
    state = models.CharField(_("state"), max_length=9, choices=State, default=State.OPEN)
    import_key = models.CharField(max_length=64, null=True, blank=True, editable=False)
    """Hash of the imported row, so that importing it again finds this comparison; null otherwise."""
    completions = models.ManyToManyField(Completion, through="Candidate", related_name="comparisons")
    created_at = models.DateTimeField(_("created"), auto_now_add=True)

    objects = ComparisonQuerySet.as_manager()

    class Meta:
        indexes = (
            models.Index(
                fields=("project", "-priority", "shuffle"), condition=Q(state="open"), name="comparison_queue"
            ),
            models.Index(fields=("project", "purpose", "state")),
        )
        constraints = (
            models.UniqueConstraint(fields=("project", "import_key"), name="same_row_once_in_a_project"),
        )

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.pk}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if self.shuffle is None:
            self.shuffle = secrets.randbelow(2**31)
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
    """What a judgement becomes in training."""

    chosen: Completion
    rejected: Completion
    margin: float
    """1 slightly, 2 better, 3 much better."""
    tie: bool


class PreferenceQuerySet(models.QuerySet["Preference"]):
    def current(self) -> PreferenceQuerySet:
        """Judgements in force: neither superseded by a later row nor withdrawn."""
        later = Preference.objects.filter(supersedes=OuterRef("pk"))
        return self.filter(~Exists(later), withdrawn=False)

    def by_people(self) -> PreferenceQuerySet:
        """Judged here and by people: the only ones that human statistics may count."""
        return self.filter(simulated=False, imported=False)


class Preference(models.Model):
    """An annotator's recorded judgement. Append-only: a change or an undo is a new row that supersedes."""

    class Acceptability(models.TextChoices):
        BOTH = "both", _("Both are good enough")
        ONE = "one", _("Only the better one")
        NEITHER = "neither", _("Neither is good enough")

    assignment = models.ForeignKey(Assignment, on_delete=models.PROTECT, related_name="preferences")
    comparison = models.ForeignKey(Comparison, on_delete=models.PROTECT, related_name="preferences")
    annotator = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="preferences"
    )
    strength = models.SmallIntegerField(_("strength"), null=True)
    """-3 (candidate 0 much better) .. 0 (tie) .. 3 (candidate 1 much better): on completions, not on sides.
    Null only in a withdrawal."""
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
    created_at = models.DateTimeField(_("judged"), auto_now_add=True)

    objects = PreferenceQuerySet.as_manager()

    class Meta:
        constraints = (
            models.UniqueConstraint(
                fields=("assignment",),
                condition=Q(supersedes__isnull=True),
                name="one_first_judgement_of_an_assignment",
            ),
            models.CheckConstraint(
                condition=Q(withdrawn=True, strength__isnull=True)
                | Q(withdrawn=False, strength__gte=-3, strength__lte=3),
                name="preference_strength",
            ),
        )
        indexes = (models.Index(fields=("annotator", "-created_at")),)

    def pairs(self) -> list[Pair]:
        """What this judgement becomes in training: one pair, or none for withdrawn and both-bad ones.

        A tie yields its two completions with margin 0 and `tie` set: the trainer's configuration decides.
        Both-bad with a stated preference still says which is less bad, so it counts; a both-bad tie does not.
        """
        if self.withdrawn or self.strength is None:
            return []
        if self.strength == 0 and self.acceptability == self.Acceptability.NEITHER:
            return []
        first, second = [candidate.completion for candidate in self.comparison.candidates.all()]
        chosen, rejected = (second, first) if self.strength > 0 else (first, second)
        return [Pair(chosen, rejected, float(abs(self.strength)), self.strength == 0)]


# --- what happened ----------------------------------------------------------------------------------


class AuditEntry(models.Model):
    """Who did what to which record. Append-only (triggers refuse change) and hash-chained."""

    at = models.DateTimeField(_("at"), default=timezone.now)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, null=True, related_name="audit_entries")
    action = models.CharField(_("action"), max_length=60)
    target = models.CharField(_("record"), max_length=120)
    detail = models.JSONField(_("detail"), default=dict)
    previous_hash = models.CharField(max_length=64, unique=True)
    hash = models.CharField(max_length=64, unique=True)

    class Meta:
        ordering = ("-id",)
        verbose_name_plural = _("audit entries")

    def __str__(self) -> str:
        return f"{self.action} {self.target}"

    @classmethod
    def record(cls, actor: User | None, action: str, target: models.Model, **detail: Any) -> AuditEntry:
        """Append an entry, in the transaction of the change it tells of."""
        with transaction.atomic():
            lock_chain(connection)
            last = cls.objects.order_by("-id").first()
            project = target if isinstance(target, Project) else getattr(target, "project", None)
            entry = cls(
                actor=actor,
                project=project,
                action=action,
                target=f"{target._meta.label} {target.pk}",
                detail=detail,
                previous_hash=last.hash if last else "0" * 64,
            )
            entry.hash = entry.expected_hash()
            entry.save(force_insert=True)
        return entry

    def expected_hash(self) -> str:
        facts = [
            self.previous_hash,
            self.at.isoformat(),
            self.actor_id,
            self.project_id,
            self.action,
            self.target,
        ]
        return sha256_text(canonical_json([*facts, self.detail]))
