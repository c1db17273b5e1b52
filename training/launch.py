"""Inputs and a configuration become a queued run, and a message rings a worker."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import OperationalError as BrokerError
from django.db import transaction
from django.db.models.functions import Now
from django.utils.translation import gettext as _
from kombu.exceptions import OperationalError as TransportError

from feedback.models import AuditEntry, Project, Prompt, User
from rlhf_app.celery import app
from training import registry, snapshots
from training.core import configs
from training.core.configs import ConfigError
from training.models import ModelVersion, Run, RunInput, Snapshot

log = logging.getLogger(__name__)

LARGEST_SEED = 2**31 - 1
LARGEST_TYPED_SEED = 2**30 - 1
"""Seeds above are left to reviews, so that no other run writes under a name what people judge blind."""
Input = ModelVersion | Snapshot
POLICY_KINDS = (ModelVersion.Kind.BASE, ModelVersion.Kind.POLICY)
SNAPSHOT_KINDS = {
    (config.kind, name): Snapshot.Kind(holds)
    for config in configs.KINDS.values()
    for name, holds in [config.data, *config.more_data.items()]
}


def launch(
    project: Project,
    kind: str,
    config: dict[str, Any],
    *,
    actor: User | None,
    seed: int = 0,
    inputs: dict[str, Input],
    purpose: dict[str, Any] | None = None,
) -> Run:
    """Write the run, its inputs and the audit entry in one transaction, and ring a worker after the commit.

    Raises ConfigError whose `problems` name the settings and the inputs at fault, all at once. A broker that
    is down is no error: the run is queued, and the sweep rings again.
    """
    problems = input_problems(project, kind, inputs)
    largest = LARGEST_SEED if "review" in (purpose or {}) else LARGEST_TYPED_SEED
    if not 0 <= seed <= largest:
        facts = {"largest": largest, "seed": seed}
        problems["seed"] = _("between 0 and %(largest)d, got %(seed)d") % facts
    try:
        parsed = configs.parse(kind, config)
    except ConfigError as error:
        raise ConfigError({**error.problems, **problems}) from error
    if problems:
        raise ConfigError(problems)
    with transaction.atomic():
        run = Run.objects.create(
            project=project,
            kind=kind,
            config=dataclasses.asdict(parsed),
            seed=seed,
            purpose=purpose or {},
            created_by=actor,
        )
        RunInput.objects.bulk_create(_input_row(run, name, thing) for name, thing in inputs.items())
        AuditEntry.record(actor, "run.launch", run, kind=kind, seed=seed)
        transaction.on_commit(lambda: ring(run.pk))
    return run


def _input_row(run: Run, name: str, thing: Input) -> RunInput:
    if isinstance(thing, ModelVersion):
        return RunInput(run=run, name=name, model_version=thing, sha256=thing.content_hash)
    return RunInput(run=run, name=name, snapshot=thing, sha256=thing.sha256)


def ring(run_id: int) -> None:
    """Tell the workers to look at a run. The database already holds it, so a lost message costs seconds."""
    try:
        app.send_task("training.tasks.supervise_run", [run_id])
    except (BrokerError, TransportError) as error:
        log.warning("run %s waits for the sweep: the broker cannot be reached (%s)", run_id, error)
        return
    Run.objects.filter(pk=run_id, state=Run.State.QUEUED).update(rung_at=Now())


def wait(run: Run, *, seconds: float, say: Callable[[str], object] = log.info) -> Run:
    """The run once it has ended; says each new phase and step; raises TimeoutError after `seconds`."""
    deadline = time.monotonic() + seconds
    said = ""
    while True:
        run = Run.objects.select_related("project").get(pk=run.pk)
        line = f"run {run.pk} {run.kind}: {run.state} {run.phase} {run.step}/{run.total_steps}"
        if line != said:
            say(line)
            said = line
        if run.ended:
            return run
        if time.monotonic() > deadline:
            raise TimeoutError(f"{line} after {seconds:g} s")
        time.sleep(0.5)


# --- inputs -----------------------------------------------------------------------------------------


def input_problems(project: Project, kind: str, inputs: dict[str, Input]) -> dict[str, str]:
    """What is wrong with the inputs of a run, by input name; an unknown kind is left to the configuration."""
    if kind not in configs.KINDS:
        return {}
    wanted = {name.rstrip("?"): name.endswith("?") for name in configs.KINDS[kind].inputs}
    problems: dict[str, str] = {}
    for name, optional in wanted.items():
        if name not in inputs and not optional:
            problems[name] = _("missing")
    for name, thing in inputs.items():
        if name not in wanted:
            problems[name] = _("this kind of run does not read it")
        elif problem := _input_problem(project, kind, name, thing):
            problems[name] = problem
    return problems


def _for_training(prompts: Snapshot) -> bool:
    """Whether they were frozen from the training split alone."""
    return bool(prompts.filter.get("split") == Prompt.Split.TRAIN)


def _input_problem(project: Project, kind: str, name: str, thing: Input) -> str | None:
    if thing.project_id != project.pk:
        return _("belongs to another project")
    if isinstance(thing, Snapshot):
        if SNAPSHOT_KINDS.get((kind, name)) != thing.kind:
            return _("%(snapshot)s holds %(kind)s") % {
                "snapshot": thing,
                "kind": thing.get_kind_display().lower(),
            }
        if thing.kind == Snapshot.Kind.PROMPTS and configs.KINDS[kind].trains and not _for_training(thing):
            return _("%(snapshot)s holds prompts that are kept out of every training") % {"snapshot": thing}
        return None
    if (kind, name) in SNAPSHOT_KINDS:
        return _("wanted a snapshot, got %(version)s") % {"version": thing}
    wanted = (ModelVersion.Kind.REWARD,) if name == "reward_model" else POLICY_KINDS
    if thing.kind not in wanted:
        return _("%(version)s is a %(kind)s") % {
            "version": thing,
            "kind": thing.get_kind_display().lower(),
        }
    if thing.state != ModelVersion.State.READY:
        return _("the files of %(version)s are damaged") % {"version": thing}
    return None


# --- what to read when nobody chooses ---------------------------------------------------------------


def default_versions(project: Project, kind: str) -> dict[str, ModelVersion]:
    """The model versions a run of this kind reads by default; those that do not exist yet are left out.

    Policy and reference: the promoted version, else the newest one. Reward model: the newest.
    """
    ready = ModelVersion.objects.filter(project=project, state=ModelVersion.State.READY).order_by("-number")
    policy = registry.promoted(project) or ready.filter(kind__in=POLICY_KINDS).first()
    reward_model = ready.filter(kind=ModelVersion.Kind.REWARD).first()
    found: dict[str, ModelVersion] = {}
    for name in (name.rstrip("?") for name in configs.KINDS[kind].inputs):
        version = reward_model if name == "reward_model" else policy
        if (kind, name) not in SNAPSHOT_KINDS and version is not None:
            found[name] = version
    return found


def default_inputs(project: Project, kind: str, *, actor: User | None) -> dict[str, Input]:
    """Default versions and freshly frozen data; raises NothingToFreeze in words when either is missing."""
    config = configs.KINDS[kind]
    inputs: dict[str, Input] = {**default_versions(project, kind)}
    if "policy" not in inputs:
        raise snapshots.NothingToFreeze(_("There is no model version yet to start from."))
    if "reward_model" in config.inputs and "reward_model" not in inputs:
        raise snapshots.NothingToFreeze(_("There is no reward model yet: train one first."))
    name, holds = config.data
    if holds == Snapshot.Kind.DEMONSTRATIONS:
        inputs[name] = snapshots.freeze_demonstrations(project, actor=actor, source="chosen")
    elif holds == Snapshot.Kind.PREFERENCES:
        inputs[name] = snapshots.freeze_preferences(project, actor=actor)
    else:
        inputs[name] = snapshots.freeze_prompts(project, actor=actor, split=Prompt.Split.TRAIN)
    return inputs
