"""Register a model folder as a base version of a project."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback.models import Project
from training import registry


class Command(BaseCommand):
    help = "Register a transformers folder (safetensors, no code) as a base version; the first is promoted."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="the project's address (slug)")
        parser.add_argument("folder", type=Path)
        parser.add_argument("--note", default="", help="what it is and where it comes from")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"no project has the address {options['project']!r}")
        try:
            version = registry.register_base(project, options["folder"], actor=None, note=options["note"])
        except registry.Refused as refusal:
            raise CommandError(str(refusal)) from refusal
        if registry.promoted(project) is None:
            registry.promote(version, actor=None, reason="the first version", expected=None)
        self.stdout.write(str(version))
