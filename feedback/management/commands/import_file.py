"""`manage.py import_file PROJECT FILE`: what the import pages do, from the command line and at once."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from feedback import imports
from feedback.exchange.formats import Format
from feedback.lines import BadFile, located
from feedback.models import DataImport, Project, Prompt, User
from feedback.previews import in_words, preview

PIECE_BYTES = 1024 * 1024


class Command(BaseCommand):
    help = (
        "Import prompts, completions and judgements from a file. "
        "Prints a JSON report; exits with 1 when the import failed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", help="the project's address, as in /p/ADDRESS/")
        parser.add_argument("file")
        parser.add_argument("--format", choices=Format.values, default="", help="default: by content")
        parser.add_argument(
            "--column", action="append", default=[], metavar="THEIRS=OURS",
            help="read a column of the file as one of ours; THEIRS= leaves it out; may be repeated",
        )  # fmt: skip
        parser.add_argument("--put-up", action="store_true", help="put the completions up for judging")
        parser.add_argument("--nameless", action="store_true", help="leave out who judged")
        parser.add_argument("--split", choices=Prompt.Split.values, default=Prompt.Split.TRAIN)
        parser.add_argument("--skip-bad-rows", action="store_true")
        parser.add_argument("--ignore-extra", action="store_true", help="ignore other columns")
        parser.add_argument("--user", help="on whose behalf; default: the first admin")
        parser.add_argument("--preview", action="store_true", help="show the first rows, import nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project at /p/{options['project']}/.")
        data_import = self.received(project, options)
        if options["preview"]:
            self.show(data_import)
            imports.cancel(data_import, actor=data_import.created_by)
            return
        imports.run_import(data_import)
        data_import.refresh_from_db()
        report = {
            "import": data_import.pk,
            "state": data_import.state,
            "format": data_import.format,
            "counts": data_import.counts,
            "errors": [located(error["line"], error["reason"]) for error in data_import.errors],
        }
        self.stdout.write(json.dumps(report, ensure_ascii=False))
        if data_import.state != DataImport.State.DONE:
            raise CommandError("Nothing was written." if not data_import.last_line else "The import stopped.")

    def received(self, project: Project, options: dict[str, Any]) -> DataImport:
        users = User.objects.filter(username=options["user"]) if options["user"] else None
        actor = users.first() if users is not None else User.first_admin()
        if actor is None:
            raise CommandError(f"There is no user {options['user']}.")
        mapping = dict(pair.split("=", 1) for pair in options["column"] if "=" in pair)
        if len(mapping) != len(options["column"]):
            raise CommandError("--column: wanted THEIRS=OURS, each of THEIRS once.")
        wanted = {name: options[name] for name in ("put_up", "nameless", "ignore_extra", "split")}
        if "://" in options["file"]:
            raise CommandError("Import by URL is disabled: download the file first.")
        path = Path(options["file"])
        try:
            return imports.receive(
                project,
                pieces(path),
                file_name=path.name,
                format=options["format"],
                options={**wanted, "mapping": mapping},
                skip_bad_rows=options["skip_bad_rows"],
                actor=actor,
            )
        except (BadFile, OSError) as problem:
            raise CommandError(str(problem)) from problem

    def show(self, data_import: DataImport) -> None:
        options = data_import.options
        shown = preview(
            data_import, data_import.format, options["mapping"], ignore_extra=options["ignore_extra"]
        )
        for row in shown.rows:
            said = [in_words(judged) for judged in row.judged]
            facts = {"prompt": row.messages, "completions": row.completions, "judged": said}
            self.stdout.write(json.dumps(facts, ensure_ascii=False))
        for problem in shown.problems:
            self.stderr.write(problem)


def pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece
