"""Launch a run with the default inputs from a shell or a script."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback.models import Project, User
from training import supervisor
from training.core.configs import KINDS, ConfigError
from training.launch import default_inputs, launch, wait
from training.models import ModelVersion, Run
from training.snapshots import NothingToFreeze


class Command(BaseCommand):
    help = "Launch a run on freshly frozen data, the promoted policy and the newest reward model."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="the project's address (slug)")
        parser.add_argument("kind", choices=sorted(KINDS))
        parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting")
        parser.add_argument("--preset", default="", help="start from a named preset of this kind")
        parser.add_argument("--seed", type=int, default=0)
        parser.add_argument("--purpose", default="{}", help='JSON, e.g. {"compare": true}')
        parser.add_argument("--as", dest="username", default="", help="the user who launches it")
        parser.add_argument("--here", action="store_true", help="supervise it in this process")
        parser.add_argument("--wait", action="store_true", help="wait; exit with 1 if it fails")
        parser.add_argument("--timeout", type=float, default=3600.0, help="seconds to wait at most")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"no project has the address {options['project']!r}")
        actor = User.objects.filter(username=options["username"]).first() if options["username"] else None
        if options["username"] and actor is None:
            raise CommandError(f"no user is called {options['username']!r}")
        try:
            run = launch(
                project,
                options["kind"],
                {**preset(options["kind"], options["preset"]), **settings_of(options["set"])},
                actor=actor,
                seed=options["seed"],
                inputs=default_inputs(project, options["kind"], actor=actor),
                purpose=json.loads(options["purpose"]),
            )
        except (ConfigError, NothingToFreeze) as error:
            raise CommandError(str(error)) from error
        if options["here"]:
            supervisor.supervise(run.pk)
        if options["here"] or options["wait"]:
            run = wait(run, seconds=options["timeout"], say=self.stderr.write)
        version = ModelVersion.objects.filter(run=run).first()
        facts = {"run": run.pk, "state": run.state, "version": str(version) if version else None}
        self.stdout.write(json.dumps({**facts, "outcome": run.outcome}))
        if options["wait"] and run.state != Run.State.DONE:
            raise CommandError(f"run {run.pk} is {run.state}: {run.outcome.get('message', '')}")


def preset(kind: str, name: str) -> dict[str, Any]:
    presets = KINDS[kind].presets
    if name and name not in presets:
        raise CommandError(f"--preset: one of {', '.join(presets) or 'none'}, got {name!r}")
    return dict(presets.get(name, {}))


def settings_of(assignments: list[str]) -> dict[str, Any]:
    """{"steps": 3, "completion_only": False} from ["steps=3", "completion_only=false"]."""
    values = {}
    for assignment in assignments:
        name, separator, text = assignment.partition("=")
        if not separator:
            raise CommandError(f"--set wants NAME=VALUE, got {assignment!r}")
        try:
            values[name] = json.loads(text)
        except ValueError:
            values[name] = text  # a choice; parse() refuses what is neither
    return values
