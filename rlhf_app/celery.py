"""The Celery application. Redis is a doorbell: a message holds an id, the database holds the truth."""

import os

from celery import Celery
from celery.signals import worker_process_init

from rlhf_app.child import die_with_parent

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rlhf_app.settings")

app = Celery("rlhf_app")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@worker_process_init.connect
def pool_process_dies_with_its_worker(**_facts: object) -> None:
    """A killed worker leaves no pool process, and so no trainer, behind."""
    die_with_parent(os.getppid())
