import django.db.models.deletion
from django.db import migrations, models
from django.db.models import Q

from feedback.guards import PREFERENCES, PREFERENCES_STAY, migrations_of

put_guards_back, take_guards_away = migrations_of(PREFERENCES, *PREFERENCES_STAY)


class Migration(migrations.Migration):
    """A reviewer's decision beside the annotators' judgements.

    SQLite rebuilds the table and loses its triggers by that, forwards and backwards: they are put back at
    either end.
    """

    dependencies = [("feedback", "0010_drafts")]

    operations = [
        migrations.RunPython(migrations.RunPython.noop, put_guards_back),
        migrations.AddField(
            model_name="preference",
            name="adjudication",
            field=models.BooleanField(db_default=False, default=False, verbose_name="adjudication"),
        ),
        migrations.AlterField(
            model_name="preference",
            name="assignment",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="preferences",
                to="feedback.assignment",
            ),
        ),
        migrations.AddIndex(
            model_name="preference",
            index=models.Index(condition=Q(adjudication=True), fields=["comparison"], name="adjudications"),
        ),
        migrations.AddConstraint(
            model_name="preference",
            constraint=models.UniqueConstraint(
                condition=Q(adjudication=True, supersedes__isnull=True),
                fields=("comparison",),
                name="one_first_adjudication_of_a_comparison",
            ),
        ),
        migrations.AddConstraint(
            model_name="preference",
            constraint=models.CheckConstraint(
                condition=Q(adjudication=True, assignment__isnull=True)
                | Q(adjudication=False, assignment__isnull=False),
                name="adjudication_has_no_assignment",
            ),
        ),
        migrations.RunPython(put_guards_back, migrations.RunPython.noop),
    ]
