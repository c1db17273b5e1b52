from django.db import migrations

from feedback.guards import migrations_of
from training.guards import REVIEW_PLANS, SNAPSHOTS_STAY


class Migration(migrations.Migration):
    """The database itself refuses to delete snapshots, and to open a review's plan again."""

    dependencies = [("training", "0003_frozen_rows")]

    operations = [
        migrations.RunPython(*migrations_of(*SNAPSHOTS_STAY)),
        migrations.RunPython(migrations_of(REVIEW_PLANS)[0], migrations.RunPython.noop),
    ]
