"""Uploaded files on their way into a project, as rows; what is done with them is in imports.py."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings
from django.db import models
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from feedback.people import Project


class DataImport(models.Model):
    """One uploaded file on its way into a project. The file lies under ARTIFACT_ROOT/imports/ID."""

    class State(models.TextChoices):
        UPLOADED = "uploaded", _("To be confirmed")
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
    """{"put_up": bool, "nameless": bool, "ignore_extra": bool, "split": Prompt.Split, "mapping": {...},
    "container": what the file is made of, where its format does not say}: see docs/data.md."""
    skip_bad_rows = models.BooleanField(_("skip bad rows"), default=False)
    state = models.CharField(_("state"), max_length=10, choices=State, default=State.QUEUED)
    bytes_read = models.PositiveBigIntegerField(default=0)
    """Each byte is read twice, once to check and once to write, and counts half each time."""
    last_line = models.PositiveBigIntegerField(default=0)
    """Written up to here: moved in the transaction that writes, so a second attempt goes on after it."""
    attempt = models.PositiveSmallIntegerField(default=0)
    """Raised at each claim: a worker given up for dead that comes back finds its number out of date."""
    counts = models.JSONField(_("counts"), default=dict)
    """Of rows and what they brought, by name: `feedback.views.imports.COUNTED` says which there are."""
    errors = models.JSONField(_("row errors"), default=list)
    """The first 100: [{"line": 3, "reason": "..."}]; line 0 is the file as a whole."""
    heartbeat_at = models.DateTimeField(null=True)
    created_by = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, related_name="+")
    created_at = models.DateTimeField(_("uploaded"), auto_now_add=True)
    finished_at = models.DateTimeField(null=True)
    file_deleted_at = models.DateTimeField(null=True)
    """The file goes some weeks after the import has ended; what it reports stays."""

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
