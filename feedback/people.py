"""Who works on what: accounts and the links that open them, projects, guidelines, members and invitations."""

from __future__ import annotations

import itertools
import secrets
from datetime import timedelta

from django.conf import settings
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.db.models import Q
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from feedback.texts import sha256_text

# --- people -----------------------------------------------------------------------------------------


class User(AbstractUser):
    """An account. Simulated annotators are marked here, and on each of their preferences."""

    simulated = models.BooleanField(_("simulated"), default=False)

    @classmethod
    def first_admin(cls) -> User:
        """The first superuser; made without a password when there is none, for a sign-in link to open."""
        if admin := cls.objects.filter(is_superuser=True, is_active=True).order_by("pk").first():
            return admin
        taken = set(cls.objects.filter(username__startswith="admin").values_list("username", flat=True))
        names = itertools.chain(["admin"], (f"admin-{number}" for number in itertools.count(2)))
        return cls.objects.create_superuser(next(name for name in names if name not in taken))

    def open_projects(self) -> models.QuerySet[Project]:
        """Every project the user may open: all of them for superusers, who are admins everywhere."""
        projects = Project.objects.filter(archived_at=None)
        return projects if self.is_superuser else projects.filter(memberships__user=self)

    def administered_alone(self) -> models.QuerySet[Project]:
        """Projects in which no other admin can sign in."""
        admins = Membership.objects.filter(role=Role.ADMIN)
        others = admins.filter(user__is_active=True).exclude(user=self).values("project")
        alone = admins.filter(user=self).exclude(project__in=others).values("project")
        return Project.objects.filter(archived_at=None, pk__in=alone)


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
    """What a comparison asks for; a project's kind is that of the comparisons put up from now on."""

    PAIRWISE = "pairwise", _("Pairwise: which of two is better")
    RANKING = "ranking", _("Ranking: several, from best to worst")
    RATING = "rating", _("Rating: each by criteria, 1 to 5")
    DEMONSTRATION = "demonstration", _("Demonstration: write the completion")


USUAL_QUESTIONS = {
    ComparisonKind.PAIRWISE: _("Which answer is better?"),
    ComparisonKind.RANKING: _("Which completion is best, which is worst?"),
    ComparisonKind.RATING: _("How good is each completion?"),
    ComparisonKind.DEMONSTRATION: _("What would a very good completion be?"),
}
"""What each kind asks unless a project has a question of its own."""


def usual_criteria() -> list[str]:
    """By what completions are rated unless a project says otherwise."""
    return ["helpful", "harmless", "honest"]


class Project(models.Model):
    """A workspace: guidelines, prompts, one loop, members."""

    name = models.CharField(_("name"), max_length=80)
    slug = models.SlugField(_("address"), max_length=80, unique=True)
    question = models.CharField(_("question"), max_length=200, default="Which answer is better?")
    kind = models.CharField(
        _("kind of judgement"), max_length=13, choices=ComparisonKind, default=ComparisonKind.PAIRWISE
    )
    candidates = models.PositiveSmallIntegerField(_("completions per comparison"), default=2)
    """Of a ranking or rating; a pairwise comparison always has two and a demonstration none."""
    criteria = models.JSONField(_("criteria"), default=usual_criteria)
    """Of a rating: names, in the order in which they are asked."""
    overlap = models.PositiveSmallIntegerField(_("judgements per comparison"), default=1)
    gold_rate = models.FloatField(_("share of gold comparisons"), default=0)
    """How often, 0 to 0.5, an annotator is served a comparison whose right answer is known."""
    created_at = models.DateTimeField(_("created"), auto_now_add=True)
    archived_at = models.DateTimeField(_("archived"), null=True, blank=True)
    members = models.ManyToManyField(settings.AUTH_USER_MODEL, through="Membership", related_name="projects")

    class Meta:
        ordering = ("name",)
        constraints = (
            models.CheckConstraint(condition=Q(overlap__gte=1, overlap__lte=50), name="project_overlap"),
            models.CheckConstraint(
                condition=Q(candidates__gte=1, candidates__lte=8), name="project_candidates"
            ),
            models.CheckConstraint(
                condition=Q(gold_rate__gte=0, gold_rate__lte=0.5), name="project_gold_rate"
            ),
        )

    def __str__(self) -> str:
        return self.name

    @property
    def wanted_candidates(self) -> int:
        """How many completions a comparison put up now shows."""
        fixed = {ComparisonKind.PAIRWISE: 2, ComparisonKind.DEMONSTRATION: 0}
        return fixed.get(ComparisonKind(self.kind), self.candidates)

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
