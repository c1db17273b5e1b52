from django.apps import AppConfig


class TrainingConfig(AppConfig):
    """What machines do with it: snapshots, runs, model versions, reviews."""

    name = "training"
    verbose_name = "Training"
