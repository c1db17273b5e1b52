"""How long uploaded files are kept. What an import reports, and what it wrote, stays."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback.models import AuditEntry, DataImport

State = DataImport.State
DAYS_UNCONFIRMED = 7
"""How long an uploaded file waits for somebody to confirm its import."""
SECONDS_LEFT_OVER = 24 * 3600
"""After which an upload that nobody has written to is one that was cut off."""
ENDED = (State.DONE, State.FAILED, State.CANCELLED)
MOST_AT_ONCE = 200
"""Files deleted by one sweep: the next one is half a minute away."""


def discard_leftovers() -> None:
    """Delete what uploads left that were cut off by the death of the web process."""
    for path in (settings.ARTIFACT_ROOT / "imports").glob("upload-*"):
        with suppress(FileNotFoundError):  # just moved to its place, or deleted
            if time.time() - path.stat().st_mtime > SECONDS_LEFT_OVER:
                path.unlink()


def discard_unconfirmed() -> None:
    """Cancel the imports that nobody confirmed for days, and delete their files."""
    now = timezone.now()
    reason = _("not confirmed within %d days: the file was deleted") % DAYS_UNCONFIRMED
    ended = {"state": State.CANCELLED, "finished_at": now, "file_deleted_at": now}
    limit = now - timedelta(days=DAYS_UNCONFIRMED)
    for data_import in DataImport.objects.filter(state=State.UPLOADED, created_at__lt=limit):
        mine = DataImport.objects.filter(pk=data_import.pk, state=State.UPLOADED)
        with transaction.atomic():
            if mine.update(errors=[{"line": 0, "reason": reason}], **ended):
                AuditEntry.record(None, "import.discarded", data_import)
                # Before the commit: if that fails, the next sweep finds the row and no file.
                data_import.path.unlink(missing_ok=True)


def delete_old_files() -> None:
    """Delete the files of imports that ended IMPORT_KEEP_DAYS ago; 0 keeps them all."""
    days = settings.IMPORT_KEEP_DAYS
    if not days:
        return
    now = timezone.now()
    old = DataImport.objects.filter(
        state__in=ENDED, finished_at__lt=now - timedelta(days=days), file_deleted_at=None
    )
    for data_import in old.order_by("pk")[:MOST_AT_ONCE]:
        mine = DataImport.objects.filter(pk=data_import.pk, file_deleted_at=None)
        with transaction.atomic():
            if mine.update(file_deleted_at=now):
                AuditEntry.record(None, "import.file_deleted", data_import, days=days)
                # Before the commit, as above.
                data_import.path.unlink(missing_ok=True)
