"""An uploaded file becomes rows: received, checked from end to end, then written in short transactions.

Two passes, because one bad row must stop the whole file before anything is written, while one long
transaction would stop everybody who judges meanwhile. A killed import goes on after the last line it wrote:
progress moves in the transaction that writes. Cancelling or losing the claim ends it at the next batch by the
same compare-and-set.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from io import FileIO
from pathlib import Path

from django.conf import settings
from django.db import connection, transaction
from django.db.models import F
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback.asked import Asked
from feedback.bulk import room_for_indexes
from feedback.exchange.files import Container, opened
from feedback.exchange.formats import Format, Unrecognised, read_rows, recognise
from feedback.exchange.rows import Row
from feedback.imported_judgements import MAX_PEOPLE, People
from feedback.imported_rows import write_rows
from feedback.lines import BadFile, BadRow
from feedback.models import AuditEntry, DataImport, Project, User

State = DataImport.State
BATCH_ROWS, LEAST_BATCH_ROWS = 1000, 100
BATCH_CHARACTERS = 4 * 1024**2
"""Of text, after which a batch is written however few rows it has: a file may be all huge rows."""
HOLD_SECONDS = 0.08
"""How long a batch may keep SQLite's one write lock."""
PAUSE_SECONDS = 0.02
"""How long it is left free between two batches, at least: reading the next one mostly takes longer."""
MAX_ERRORS_SHOWN = 100
MAX_BAD_ROWS = 1000
"""Where checking stops when bad rows are not skipped: the format is wrong, not the rows."""
MAX_ATTEMPTS = 3
BEAT_SECONDS = 1.0
LEASE_SECONDS = 60


class Lost(Exception):
    """The import was cancelled, or another worker has taken it over."""


class TooManyPeople(BadFile):
    """More than get accounts here; whoever may import can leave their names out."""

    code = "people"

    def __init__(self) -> None:
        words = _(
            "the file tells more than %d people apart, each of whom would get an account: "
            "choose “Leave out who judged”, or import it in parts"
        )
        super().__init__(words % MAX_PEOPLE)


# --- receiving --------------------------------------------------------------------------------------


def receive(
    project: Project,
    chunks: Iterable[bytes],
    *,
    file_name: str,
    format: str,
    options: dict[str, object],
    skip_bad_rows: bool,
    actor: User,
    confirmed: bool = True,
) -> DataImport:
    """Store the file under ARTIFACT_ROOT and queue its import; one not `confirmed` waits for `confirm`.

    `format` "" is recognised by content; only an unconfirmed import may have columns that nobody recognises.
    Raises BadFile for what no import can read. The caller rings the worker when the transaction is through.
    """
    folder: Path = settings.ARTIFACT_ROOT / "imports"
    folder.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="upload-")
    aside = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            for chunk in chunks:
                size += len(chunk)
                if size > settings.IMPORT_MAX_BYTES:
                    raise BadFile(_("file over %d MiB") % (settings.IMPORT_MAX_BYTES // 1024**2))
                digest.update(chunk)
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        found, container = recognised(aside, file_name, format, confirmed=confirmed)
        with transaction.atomic():
            data_import = DataImport.objects.create(
                project=project,
                file_name=file_name[:200],
                sha256=digest.hexdigest(),
                size=size,
                format=found,
                options={**options, **({"container": container} if container else {})},
                skip_bad_rows=skip_bad_rows,
                created_by=actor,
                state=State.QUEUED if confirmed else State.UPLOADED,
            )
            AuditEntry.record(actor, "import.uploaded", data_import, sha256=data_import.sha256, size=size)
            aside.replace(data_import.path)
    finally:
        aside.unlink(missing_ok=True)
    return data_import


def recognised(path: Path, file_name: str, format: str, *, confirmed: bool) -> tuple[str, str]:
    """The format, "" if only a person can say, and what the file is made of, "" if the format says that."""
    with path.open("rb", buffering=0) as raw, opened(raw, settings.IMPORT_MAX_BYTES) as (stream, container):
        try:
            found = recognise(stream, file_name, container)
        except Unrecognised as problem:
            if not format and confirmed:
                raise
            return format, problem.container
        except BadFile:
            # Whoever names the format gets a report of each row instead.
            if not format or container == Container.PARQUET:
                raise
            return format, ""
    if format and (format == Format.PROMPTS_TXT) != (found.format == Format.PROMPTS_TXT):
        return format, ""
    return format or found.format, found.container


def confirm(
    data_import: DataImport, *, format: str, options: dict[str, object], skip_bad_rows: bool, actor: User
) -> bool:
    """Queue an uploaded file as somebody wants it read, after they saw its first rows."""
    if format == Format.PROMPTS_TXT or data_import.format == Format.PROMPTS_TXT:
        kept = {}
    else:
        kept = {name: data_import.options[name] for name in ("container",) if name in data_import.options}
    with transaction.atomic():
        mine = DataImport.objects.filter(pk=data_import.pk, state=State.UPLOADED)
        if not mine.update(
            state=State.QUEUED, format=format, options={**kept, **options}, skip_bad_rows=skip_bad_rows
        ):
            return False
        AuditEntry.record(actor, "import.confirmed", data_import, format=format)
    return True


def again(data_import: DataImport, *, actor: User, skip_bad_rows: bool, nameless: bool) -> DataImport | None:
    """Queue the file of an import that failed once more, read otherwise; None when its file is gone.

    Asked twice, as by a double click, it is the one that already waits or runs.
    """
    with transaction.atomic():
        # Against the sweep, which deletes files: it locks the row as well.
        old = DataImport.objects.select_for_update(no_key=True).get(pk=data_import.pk)
        if old.state != State.FAILED or not old.path.is_file():
            return None
        as_wanted = {
            "project": old.project,
            "sha256": old.sha256,
            "format": old.format,
            "options": {**old.options, "nameless": nameless or bool(old.options.get("nameless"))},
            "skip_bad_rows": skip_bad_rows or old.skip_bad_rows,
        }
        if same := DataImport.objects.filter(state__in=(State.QUEUED, State.RUNNING), **as_wanted).first():
            return same
        new = DataImport.objects.create(**as_wanted, file_name=old.file_name, size=old.size, created_by=actor)
        new.path.unlink(missing_ok=True)  # of one that was rolled back after this: its number is free again
        try:
            os.link(old.path, new.path)  # a second name of the same bytes, which stay until both are gone
        except OSError:  # not every file system has such names
            shutil.copyfile(old.path, new.path)
        facts = {"of": old.pk, "skip_bad_rows": new.skip_bad_rows, "nameless": new.options["nameless"]}
        AuditEntry.record(actor, "import.again", new, **facts)
    return new


def cancel(data_import: DataImport, *, actor: User) -> bool:
    """Stop it at the next batch; what is written stays, and importing the file again goes on from there."""
    rows = DataImport.objects.filter(
        pk=data_import.pk, state__in=(State.UPLOADED, State.QUEUED, State.RUNNING)
    )
    with transaction.atomic():
        if not rows.update(state=State.CANCELLED, finished_at=timezone.now()):
            return False
        AuditEntry.record(actor, "import.cancelled", data_import)
    return True


# --- running ----------------------------------------------------------------------------------------


class Claim:
    """This worker's hold on the import: every change goes through it and fails once it is lost."""

    def __init__(self, data_import: DataImport) -> None:
        self.row = data_import
        self.attempt = data_import.attempt
        self.last_beat = time.monotonic()
        self.lock_free_since = 0.0

    def change(self, **fields: object) -> None:
        mine = DataImport.objects.filter(pk=self.row.pk, state=State.RUNNING, attempt=self.attempt)
        if not mine.update(heartbeat_at=timezone.now(), **fields):
            raise Lost
        self.last_beat = time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self.last_beat > BEAT_SECONDS


def run_import(data_import: DataImport) -> None:
    """Import the file if it still waits and nobody else has it. Safe to call twice, late, or at once."""
    waiting = DataImport.objects.filter(pk=data_import.pk, state=State.QUEUED)
    if not waiting.update(state=State.RUNNING, attempt=F("attempt") + 1, heartbeat_at=timezone.now()):
        return
    data_import.refresh_from_db()
    claim = Claim(data_import)
    try:
        if data_import.last_line > 0 or check(claim):
            write(claim)
    except BadFile as problem:
        code = {"code": problem.code} if problem.code else {}
        fail(claim, [{"line": 0, "reason": str(problem), **code}])
    except Lost:
        return


def fail(claim: Claim, errors: list[dict[str, object]]) -> None:
    claim.change(state=State.FAILED, errors=errors, finished_at=timezone.now())


@contextmanager
def rows_of(data_import: DataImport) -> Iterator[tuple[Iterator[Row | BadRow], FileIO]]:
    """The rows of the stored file, and the raw file whose `tell()` is the progress."""
    options = data_import.options
    with (
        data_import.path.open("rb", buffering=0) as raw,
        opened(raw, settings.IMPORT_MAX_BYTES) as (stream, container),
    ):
        rows = read_rows(
            stream,
            data_import.format,
            container=container or options.get("container", ""),
            mapping=options.get("mapping"),
            ignore_extra=bool(options.get("ignore_extra")),
        )
        yield rows, raw


def bad_rows(data_import: DataImport) -> Iterator[BadRow | BadFile]:
    """All that is wrong with the stored file, up to what ends the reading."""
    with rows_of(data_import) as (rows, _raw):
        try:
            for row in rows:
                if isinstance(row, BadRow):
                    yield row
        except BadFile as problem:
            yield problem


def check(claim: Claim) -> bool:
    """Read every row, write none. False, with the import failed, when there are bad rows nobody skips."""
    data_import = claim.row
    with data_import.path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != data_import.sha256:
            raise BadFile(_("the stored file is damaged: its sha256 is not that of the upload"))
    found = Checked(data_import)
    with rows_of(data_import) as (rows, raw):
        for row in rows:
            found.take(row)
            if found.hopeless:
                break
            if claim.due():
                claim.change(bytes_read=raw.tell() // 2, **found.report())
    if not found.good and not found.bad:
        raise BadFile(_("No rows found in %s") % data_import.file_name)
    claim.change(bytes_read=data_import.size // 2, **found.report())
    if found.bad and not data_import.skip_bad_rows:
        fail(claim, found.errors)
        return False
    return True


class Checked:
    """What the check has seen so far."""

    def __init__(self, data_import: DataImport) -> None:
        options = data_import.options
        self.skips = data_import.skip_bad_rows
        self.counts_people = not (options.get("nameless") or options.get("put_up"))
        self.good = self.bad = 0
        self.errors: list[dict[str, object]] = []
        self.people: set[str] = set()

    def take(self, row: Row | BadRow) -> None:
        if isinstance(row, BadRow):
            self.bad += 1
            if len(self.errors) < MAX_ERRORS_SHOWN:
                self.errors.append({"line": row.line, "reason": row.reason})
            return
        self.good += 1
        if self.counts_people:
            self.people.update(judged.by for judged in row.judged if judged.by)
            if len(self.people) > MAX_PEOPLE:
                raise TooManyPeople

    @property
    def hopeless(self) -> bool:
        return self.bad >= MAX_BAD_ROWS and not self.skips

    def report(self) -> dict[str, object]:
        return {"errors": self.errors, "counts": {"rows": self.good + self.bad, "bad_rows": self.bad}}


def write(claim: Claim) -> None:
    """Write the good rows after `last_line`, batch by batch."""
    data_import = claim.row
    data_import.refresh_from_db()
    counts = Counter(data_import.counts)
    people = People(data_import.project)
    with room_for_indexes(), rows_of(data_import) as (rows, raw):
        batch: list[Asked] = []
        size, characters = BATCH_ROWS, 0
        for row in rows:
            if isinstance(row, BadRow):
                if not data_import.skip_bad_rows:
                    raise BadFile(_("the stored file changed while it was read"))
                continue
            if row.line <= data_import.last_line:
                continue
            full = len(batch) >= size or characters > BATCH_CHARACTERS
            if full and row.line > batch[-1].asking.row.line:
                # Never between rows of one object: it is known by its number whether they are written.
                size = write_batch(claim, people, batch, counts, read=raw.tell())
                batch, characters = [], 0
            batch.append(Asked.of(row, data_import))
            characters += sum(map(len, row.completions)) + sum(len(turn["content"]) for turn in row.messages)
        if batch:
            write_batch(claim, people, batch, counts, read=raw.tell())
    with transaction.atomic():
        claim.change(state=State.DONE, bytes_read=data_import.size, finished_at=timezone.now())
        AuditEntry.record(data_import.created_by, "import.done", data_import, **counts)


def write_batch(claim: Claim, people: People, batch: list[Asked], counts: Counter[str], *, read: int) -> int:
    """One short transaction; how many rows the next one may take.

    SQLite lets one writer in at a time, and one who waits asks ever more rarely, at first every 25 ms. So a
    batch that held the lock for long makes the next one smaller, and the pause leaves time to be asked in.
    """
    data_import = claim.row
    alone = connection.vendor == "sqlite"
    if alone:
        time.sleep(max(0.0, PAUSE_SECONDS - (time.monotonic() - claim.lock_free_since)))
    with transaction.atomic():
        started = time.monotonic()
        # The row lock of this update fences the batch: a cancel or take-over comes wholly before or after.
        claim.change(last_line=batch[-1].asking.row.line)
        # Imports of one project take turns; judging does not lock the project's row.
        Project.objects.select_for_update(no_key=True).get(pk=data_import.project_id)
        counts += write_rows(data_import, people, batch)
        claim.change(counts=dict(counts), bytes_read=(data_import.size + read) // 2)
    if not alone:
        return BATCH_ROWS
    claim.lock_free_since = time.monotonic()
    held = claim.lock_free_since - started
    return max(LEAST_BATCH_ROWS, min(BATCH_ROWS, int(len(batch) * HOLD_SECONDS / held)))


def take_back() -> list[int]:
    """Queue the imports of dead workers again; ids of all that wait. Those that died three times fail."""
    limit = timezone.now() - timedelta(seconds=LEASE_SECONDS)
    dead = DataImport.objects.filter(state=State.RUNNING, heartbeat_at__lt=limit)
    gave_up = _("stopped %d times without a result: the worker's log says why") % MAX_ATTEMPTS
    dead.filter(attempt__gte=MAX_ATTEMPTS).update(
        state=State.FAILED, errors=[{"line": 0, "reason": gave_up}], finished_at=timezone.now()
    )
    dead.update(state=State.QUEUED)
    return list(DataImport.objects.filter(state=State.QUEUED).order_by("pk").values_list("pk", flat=True))
