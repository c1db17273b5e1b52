from django.db import migrations, models

from feedback.guards import PREFERENCES, PREFERENCES_STAY, migrations_of

put_guards_back, _take_guards_away = migrations_of(PREFERENCES, *PREFERENCES_STAY)


class Migration(migrations.Migration):
    """The margin that a file states beside the strength, and when an imported file was deleted.

    Should SQLite rebuild the table of judgements on the way, its triggers are put back at either end.
    """

    dependencies = [("feedback", "0012_fewest_missing_first")]

    operations = [
        migrations.RunPython(migrations.RunPython.noop, put_guards_back),
        migrations.AddField(
            model_name="preference",
            name="margin",
            field=models.FloatField(null=True, verbose_name="margin"),
        ),
        migrations.RunPython(put_guards_back, migrations.RunPython.noop),
        migrations.AddField(
            model_name="dataimport",
            name="file_deleted_at",
            field=models.DateTimeField(null=True),
        ),
    ]
