from django.db import migrations, models
from django.db.models import Count, F, OuterRef, Q, Subquery, Value
from django.db.models.functions import Coalesce, Greatest


def count_missing(apps, _editor):
    Assignment = apps.get_model("feedback", "Assignment")
    Comparison = apps.get_model("feedback", "Comparison")
    judged = Assignment.objects.filter(state="judged", comparison=OuterRef("pk")).order_by()
    count = Coalesce(Subquery(judged.values("comparison").annotate(n=Count("pk")).values("n")), 0)
    Comparison.objects.update(missing=Greatest(F("overlap") - count, Value(0)))


class Migration(migrations.Migration):
    """Comparisons are served in the order of priority, then of how few judgements they miss.

    SQLite rebuilds the table of comparisons. No trigger stands on it, and those of judgements stay.
    """

    dependencies = [("feedback", "0011_adjudications")]

    operations = [
        migrations.AddField(
            model_name="comparison",
            name="missing",
            field=models.PositiveSmallIntegerField(
                default=0, editable=False, verbose_name="judgements missing"
            ),
            preserve_default=False,
        ),
        migrations.RemoveIndex(model_name="comparison", name="comparison_queue"),
        migrations.AddIndex(
            model_name="comparison",
            index=models.Index(
                condition=Q(state="open"),
                fields=["project", "-priority", "missing", "shuffle"],
                name="comparison_queue",
            ),
        ),
        migrations.RunPython(count_missing, migrations.RunPython.noop, elidable=False),
    ]
