"""The record of what happened; kept in a file of its own so that models.py stays readable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection, models, transaction
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from feedback.audit import lock_chain
from feedback.texts import canonical_json, sha256_text

if TYPE_CHECKING:
    from feedback.models import User


class AuditEntry(models.Model):
    """Who did what to which record. Append-only (triggers refuse change) and hash-chained."""

    at = models.DateTimeField(_("at"), default=timezone.now)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.PROTECT, null=True, related_name="+")
    project = models.ForeignKey(
        "feedback.Project", on_delete=models.PROTECT, null=True, related_name="audit_entries"
    )
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
            own = target._meta.label == "feedback.Project"
            project: Any = target if own else getattr(target, "project", None)
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
