"""Make the demo project: guidelines, prompts, the starter model and pairs that are ready to judge."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from feedback.models import Comparison, Guideline, Membership, Project, Prompt, Role, User, sha256_text
from training import names, registry, snapshots, starter, supervisor
from training.core import protocol
from training.core.configs import KINDS
from training.launch import launch
from training.models import ModelVersion, Run, Snapshot

SLUG = "support-desk"
PROMPTS = {Prompt.Split.TRAIN: 240, Prompt.Split.REVIEW: 60}
CONVERSATIONS = 10_500
HELD_OUT_EVERY = 40
GUIDELINES = settings.BASE_DIR / "training" / "demo_guidelines.md"
BUILDER = settings.BASE_DIR / "training" / "core" / "starter.py"


class Command(BaseCommand):
    help = "Make the demo project, or finish making it; what is there already is left alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--inline", action="store_true", help="supervise runs here, without a worker")
        parser.add_argument("--conversations", type=int, default=CONVERSATIONS)
        parser.add_argument("--timeout", type=float, default=900.0, help="seconds to wait for one run")

    def handle(self, *args: Any, **options: Any) -> None:
        self.inline, self.timeout = options["inline"], options["timeout"]
        begin = time.monotonic()
        admin = User.first_admin()
        project = demo_project(admin)
        if registry.promoted(project) is None:
            self.step("Starter model")
            self.make_starter(project, admin, options["conversations"])
        if not Comparison.objects.filter(project=project).exists():
            self.step("Completions to judge")
            self.write_pairs(project, admin)
        judge = Comparison.objects.filter(project=project).open().count()
        self.step(f"{project.name}: {judge} comparisons are ready, after {time.monotonic() - begin:.0f} s")

    def step(self, text: str) -> None:
        self.stdout.write(f"  {text}")
        self.stdout.flush()

    # --- the starter model ------------------------------------------------------------------------------

    def make_starter(self, project: Project, admin: User, count: int) -> None:
        """Random weights, then run kind `sft` on the generated corpus; the result is promoted first."""
        corpus = demonstrations(count)
        run = Run.objects.filter(project=project, kind="sft", purpose__register="base").exclude(
            state__in=(Run.State.FAILED, Run.State.CANCELLED)
        ).first()  # fmt: skip
        if run is None:
            base = ModelVersion.objects.filter(project=project, kind=ModelVersion.Kind.BASE).first()
            if base is None:
                note = "random weights, before any training"
                base = registry.register_base(project, blank_model(corpus), actor=admin, note=note)
            run = launch(
                project,
                "sft",
                KINDS["sft"].presets["starter"],
                actor=admin,
                inputs={"policy": base, "snapshot": frozen(project, corpus, admin)},
                purpose={"register": "base"},
            )
        version = self.finish(run).version
        held_out = version.metrics.get("held_out/loss")
        self.step(f"{version}: held-out loss {held_out:.3f}" if held_out else f"{version} is trained")
        registry.promote(version, actor=admin, reason="The starter model of the demo.", expected=None)

    def write_pairs(self, project: Project, admin: User) -> None:
        """Two completions of each training prompt by the promoted version, put up for judgement."""
        run = Run.objects.filter(project=project, kind="sample", purpose__compare=True).exclude(
            state__in=(Run.State.FAILED, Run.State.CANCELLED)
        ).first()  # fmt: skip
        if run is None:
            prompts = snapshots.freeze_prompts(project, actor=admin, split=Prompt.Split.TRAIN)
            policy = registry.promoted(project)
            assert policy is not None, "a version was promoted before"
            inputs: dict[str, ModelVersion | Snapshot] = {"policy": policy, "prompts": prompts}
            run = launch(project, "sample", {}, actor=admin, inputs=inputs, purpose={"compare": True})
        self.finish(run)

    # --- progress ---------------------------------------------------------------------------------------

    def finish(self, run: Run) -> Run:
        """Wait with a progress bar until the run is done; raises CommandError in words when it is not."""
        if self.inline:
            supervisor.supervise(run.pk)
        deadline = time.monotonic() + self.timeout
        shown = ""
        while True:
            run = Run.objects.get(pk=run.pk)
            line = bar(run)
            if line != shown:
                self.show(line)
                shown = line
            if run.ended:
                break
            if time.monotonic() > deadline:
                raise CommandError(
                    f"{run.title} has not ended after {self.timeout:.0f} s; is a worker running?"
                )
            time.sleep(0.5)
        if sys.stdout.isatty():
            self.stdout.write("")
        if run.state != Run.State.DONE:
            said = run.outcome.get("message", run.state)
            raise CommandError(
                f"{run.title}: {said} {run.outcome.get('hint', '')} Log: {run.directory}/trainer.log"
            )
        return run

    def show(self, line: str) -> None:
        """A bar that redraws itself on a terminal; elsewhere a line for each tenth."""
        if sys.stdout.isatty():
            self.stdout.write(f"\r    {line}\033[K", ending="")
        else:
            self.stdout.write(f"    {line}")
        self.stdout.flush()


def bar(run: Run) -> str:
    if not run.total_steps:
        return names.of_phase(run)
    tenths = 10 * run.step // run.total_steps
    step = run.step if sys.stdout.isatty() else tenths * run.total_steps // 10
    return f"[{'#' * tenths}{'.' * (10 - tenths)}] {names.of_phase(run)}, step {step} of {run.total_steps}"


# --- accounts and project -------------------------------------------------------------------------------


def demo_project(admin: User) -> Project:
    with transaction.atomic():
        project, new = Project.objects.get_or_create(
            slug=SLUG, defaults={"name": "Support desk", "question": "Which answer would you rather send?"}
        )
        Membership.objects.get_or_create(project=project, user=admin, defaults={"role": Role.ADMIN})
        if new:
            text = GUIDELINES.read_text(encoding="utf-8")
            Guideline.objects.create(project=project, version=1, text=text, author=admin)
            splits = [split for split, count in PROMPTS.items() for _ in range(count)]
            drawn = starter.prompts(0, len(splits))
            for split, messages in zip(splits, drawn, strict=True):
                Prompt.objects.create(project=project, messages=messages, split=split, source="starter")
    return project


# --- corpus and blank model -----------------------------------------------------------------------------


def demonstrations(count: int) -> list[dict[str, Any]]:
    return [
        {
            "prompt": talk.messages,
            "completion": talk.completion,
            "split": "held_out" if index % HELD_OUT_EVERY == 0 else "train",
        }
        for index, talk in enumerate(starter.conversations(0, count))
    ]


def frozen(project: Project, corpus: list[dict[str, Any]], admin: User) -> Snapshot:
    return snapshots.freeze_demonstration_rows(project, corpus, actor=admin)


def blank_model(corpus: list[dict[str, Any]]) -> Path:
    """A folder with random weights and a tokenizer of the corpus, made once by a process that has torch."""
    texts = [message["content"] for row in corpus for message in row["prompt"]]
    texts += [row["completion"] for row in corpus]
    written = "".join(json.dumps(text) + "\n" for text in texts)
    # What decides the result: the texts, and the code that makes a model of them.
    name = sha256_text(written + BUILDER.read_text(encoding="utf-8"))[:16]
    folder = settings.ARTIFACT_ROOT / "starter" / name
    if (folder / "config.json").is_file():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = folder.with_name(f"{name}.part")
    shutil.rmtree(aside, ignore_errors=True)
    lines = folder.with_name(f"{name}.jsonl")
    protocol.write_text(lines, written)
    command = [sys.executable, "-m", "training.core.starter", str(aside), str(lines)]
    made = subprocess.run(command, cwd=settings.BASE_DIR, capture_output=True, text=True)
    if made.returncode:
        raise CommandError(f"The starter model could not be made: {made.stderr.strip()[-2000:]}")
    aside.rename(folder)
    return folder
