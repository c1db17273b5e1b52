from django.db import migrations

from feedback.guards import PREFERENCES, migrations_of


class Migration(migrations.Migration):
    """The database itself refuses changes of judgements."""

    dependencies = [("feedback", "0005_audit_triggers")]

    operations = [migrations.RunPython(*migrations_of(PREFERENCES))]
