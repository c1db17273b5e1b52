from django.db import migrations

from feedback.guards import migrations_of
from training.guards import REVIEW_PLANS, SNAPSHOTS


class Migration(migrations.Migration):
    """The database itself refuses changes of snapshots and of review plans."""

    dependencies = [("training", "0002_supervision")]

    operations = [migrations.RunPython(*migrations_of(SNAPSHOTS, REVIEW_PLANS))]
