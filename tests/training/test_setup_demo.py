"""The demo project, made from nothing with a tiny corpus by real trainer processes."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from feedback.models import Comparison, Membership, Project, Prompt, Role, User
from training import registry
from training.management.commands import setup_demo
from training.models import ModelVersion, Run

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes, pytest.mark.slow]
COUNTS = {Prompt.Split.TRAIN: 6, Prompt.Split.REVIEW: 2}


def make() -> str:
    out = io.StringIO()
    call_command("setup_demo", "--inline", "--conversations", "100", stdout=out)
    return out.getvalue()


def interrupted(self: setup_demo.Command, project: Project, admin: User) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_start_is_finished_by_the_next_and_a_third_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, settings: Any, artifact_root: Path
) -> None:
    monkeypatch.setattr(setup_demo, "PROMPTS", COUNTS)
    settings.TRAINER_THREADS = 1  # two would spin against whatever else runs here
    with monkeypatch.context() as patch:
        patch.setattr(setup_demo.Command, "write_pairs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make()
    assert not Comparison.objects.exists()
    make()
    assert Run.objects.filter(kind="sft").count() == 1
    the_demo_is_complete()

    before = list(Run.objects.order_by("pk").values("pk", "state")), sorted(artifact_root.rglob("*"))
    make()
    assert (
        list(Run.objects.order_by("pk").values("pk", "state")),
        sorted(artifact_root.rglob("*")),
    ) == before


def the_demo_is_complete() -> None:
    project = Project.objects.get(slug="support-desk")
    admin = User.objects.get(username="admin")
    assert admin.is_superuser and not admin.has_usable_password()
    assert Membership.objects.get(project=project, user=admin).role == Role.ADMIN
    assert project.guideline() is not None
    assert {split: project.prompts.filter(split=split).count() for split in COUNTS} == COUNTS

    blank, trained = ModelVersion.objects.filter(project=project).order_by("number")
    assert registry.promoted(project) == trained
    assert trained.kind == ModelVersion.Kind.BASE and trained.parent == blank
    assert trained.metrics["held_out/loss"] < 6.9  # uniform over 1,024 tokens is 6.93

    asked = project.prompts.filter(split=Prompt.Split.TRAIN)
    assert all(prompt.completions.filter(model_version=trained).exists() for prompt in asked)
    compared = Comparison.objects.filter(project=project)
    assert compared and {comparison.candidates.count() for comparison in compared} == {2}
    assert not compared.exclude(prompt__in=asked).exists()
