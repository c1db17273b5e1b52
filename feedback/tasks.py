"""Background work on what people say: imports. A task carries an id, may come twice, late or never."""

from __future__ import annotations

from celery import shared_task

from feedback import import_files, imports
from feedback.models import DataImport


@shared_task(time_limit=4 * 3600)
def run_import(import_id: int) -> None:
    data_import = DataImport.objects.select_related("project").filter(pk=import_id).first()
    if data_import is not None:
        imports.run_import(data_import)


@shared_task(time_limit=60)
def sweep_imports() -> None:
    """Ring again for imports that wait, take back those whose worker died, delete files that nobody needs."""
    for import_id in imports.take_back():
        run_import.delay(import_id)
    import_files.discard_unconfirmed()
    import_files.discard_leftovers()
    import_files.delete_old_files()
