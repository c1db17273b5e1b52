from django.db import migrations, models


class Migration(migrations.Migration):
    """A page of quality asks for the latest judgements of each kind; of most kinds there are none."""

    dependencies = [("feedback", "0013_margins_and_deleted_files")]

    operations = [
        migrations.AddIndex(
            model_name="preference",
            index=models.Index(fields=["kind", "id"], name="latest_of_a_kind"),
        ),
    ]
