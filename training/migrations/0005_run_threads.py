from django.db import migrations, models


class Migration(migrations.Migration):
    """Runs tell how many threads their trainer computes with."""

    dependencies = [("training", "0004_snapshots_stay")]

    operations = [
        migrations.AddField(
            model_name="run",
            name="threads",
            field=models.PositiveSmallIntegerField(blank=True, null=True, verbose_name="threads"),
        ),
    ]
