from django.db import migrations

from feedback.guards import PREFERENCES_STAY, migrations_of


class Migration(migrations.Migration):
    """The database itself refuses to delete judgements."""

    dependencies = [("feedback", "0006_append_only_preferences")]

    operations = [migrations.RunPython(*migrations_of(*PREFERENCES_STAY))]
