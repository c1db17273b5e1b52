"""Check the audit trail: the chain of hashes, and the triggers that refuse change."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from feedback.audit import broken_entries, triggers_installed
from feedback.models import AuditEntry


class Command(BaseCommand):
    help = "Name every audit entry that was changed, and every gap; exit with 1 when there is one."

    def handle(self, *args: Any, **options: Any) -> None:
        entries = AuditEntry.objects.order_by("pk")
        broken = [f"entry {entry.pk}: {why}" for entry, why in broken_entries(entries.iterator())]
        if not triggers_installed(connection):
            broken.append("the triggers that refuse change are not installed")
        if broken:
            raise CommandError("\n".join(broken))
        last = entries.last()
        head = f", head {last.hash}" if last else ""
        self.stdout.write(f"{entries.count()} audit entries agree{head}")
