"""Promote a version from a shell or a script, by the same verb as the page."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback.models import Project, User
from training import registry
from training.models import ModelVersion


class Command(BaseCommand):
    help = "Make a policy version of a project the one that writes the next completions."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="the project's address (slug)")
        parser.add_argument("version", help="its name, e.g. v1")
        parser.add_argument("--reason", required=True)
        parser.add_argument("--as", dest="username", default="", help="the user who promotes it")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"no project has the address {options['project']!r}")
        policies = ModelVersion.objects.filter(project=project).exclude(kind=ModelVersion.Kind.REWARD)
        found = {str(version): version for version in policies}
        if options["version"] not in found:
            raise CommandError(f"wanted one of {', '.join(found) or 'none yet'}, got {options['version']!r}")
        actor = User.objects.filter(username=options["username"]).first()
        try:
            promotion = registry.promote(
                found[options["version"]],
                actor=actor,
                reason=options["reason"],
                expected=registry.promoted(project),
            )
        except registry.Refused as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(f"{promotion.version} is promoted")
