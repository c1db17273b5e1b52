from django.db import migrations

from feedback.guards import PREFERENCES, PREFERENCES_STAY, migrations_of


class Migration(migrations.Migration):
    """SQLite rebuilt the table of judgements for its new columns, and lost its triggers by that."""

    dependencies = [("feedback", "0008_kinds_of_judgement")]

    operations = [migrations.RunPython(*migrations_of(PREFERENCES, *PREFERENCES_STAY))]
