"""Register a model, from a folder or from a hub, as a base version of a project."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from feedback.models import Project
from training import hub, registry


class Command(BaseCommand):
    help = (
        "Register a transformers model (safetensors, no code) as a base version; the first is promoted. "
        "Give a folder, or a hub's model and revision: --hub owner/name --revision main."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("project", help="the project's address (slug)")
        parser.add_argument("folder", type=Path, nargs="?", help="a folder that transformers loads")
        parser.add_argument("--hub", metavar="OWNER/NAME", help="a model of huggingface.co or HF_ENDPOINT")
        parser.add_argument("--revision", default="main", help="branch, tag or commit (%(default)s)")
        parser.add_argument("--note", default="", help="what it is and where it comes from")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"no project has the address {options['project']!r}")
        folder, repository, note = options["folder"], options["hub"], options["note"]
        if (folder is None) == (repository is None):
            raise CommandError("give either a folder or --hub OWNER/NAME")
        try:
            if folder is not None:
                version = registry.register_base(project, folder, actor=None, note=note)
            else:
                revision = options["revision"]
                version = hub.register_from_hub(project, repository, revision, actor=None, note=note)
        except registry.Refused as refusal:
            raise CommandError(str(refusal)) from refusal
        if registry.promoted(project) is None:
            registry.promote(version, actor=None, reason="the first version", expected=None)
        self.stdout.write(str(version))
