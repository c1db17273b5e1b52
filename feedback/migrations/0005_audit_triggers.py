from django.db import migrations

from feedback.audit import migrate_backwards, migrate_forwards


class Migration(migrations.Migration):
    """The database itself refuses changes of audit entries."""

    dependencies = [("feedback", "0004_assignment_closed_index")]

    operations = [migrations.RunPython(migrate_forwards, migrate_backwards)]
