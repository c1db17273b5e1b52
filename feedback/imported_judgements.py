"""The judgements of an import, and the people whom its file tells apart."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from django.utils import timezone

from feedback.asked import Wanted, answer
from feedback.bulk import insert
from feedback.exchange.judgements import importer_name
from feedback.exchange.rows import Judged
from feedback.imported_texts import CompletionKey, Known, write_completions
from feedback.models import (
    Assignment,
    Completion,
    DataImport,
    Preference,
    Project,
    User,
    sha256_text,
)

MAX_PEOPLE = 1000
"""Whom a file may tell apart: each gets an account, and a file with more of them has some other number in
that column. The check refuses it, so that nobody's judgements are put together."""
PLAIN_NAME = re.compile(r"[0-9A-Za-z_-]{1,40}")

# --- people -----------------------------------------------------------------------------------------


def account(name: str) -> User:
    """Of somebody who judged elsewhere: nobody can sign in to it."""
    user, created = User.objects.get_or_create(username=name, defaults={"is_active": False})
    if created:
        user.set_unusable_password()
        user.save()
    return user


class People:
    """The accounts behind the names of a file, so that their judgements can be told apart.

    Judgements without a name belong to one account of the project.
    """

    def __init__(self, project: Project) -> None:
        self.own = importer_name(project)
        self.ids: dict[str, int] = {}

    def account_of(self, name: str) -> int:
        if name not in self.ids:
            plain = name if PLAIN_NAME.fullmatch(name) else sha256_text(name)[:12]
            self.ids[name] = account(f"{self.own}.{plain}" if name else self.own).pk
        return self.ids[name]


# --- which judgements -------------------------------------------------------------------------------


def to_record(
    data_import: DataImport,
    people: People,
    wanted: dict[str, Wanted],
    comparisons: dict[str, int],
    new: set[str],
) -> tuple[dict[str, Wanted], set[str]]:
    """What is to be recorded, by judgement key; and the keys of second judgements by one person.

    A comparison that is new brings its judgement; one that was there may get another person's.
    """
    old = {key: one for key, one in wanted.items() if one.judged and one.key not in new}
    there = recorded_before(data_import, list(old))
    taken = judged_before(comparisons[one.key] for key, one in old.items() if key not in there)
    found: dict[str, Wanted] = {}
    second: set[str] = set()
    for key, one in wanted.items():
        if one.judged is None or key in there:
            continue
        judge = comparisons[one.key], people.account_of(one.judged.by)
        if judge in taken:
            second.add(key)
        else:
            taken.add(judge)
            found[key] = one
    return found, second


def recorded_before(data_import: DataImport, keys: list[str]) -> set[str]:
    """Of these judgements those that an earlier import recorded."""
    by_idempotency = {idempotency_key(data_import, key): key for key in keys}
    rows = Preference.objects.filter(idempotency_key__in=by_idempotency)
    return {by_idempotency[value] for value in rows.values_list("idempotency_key", flat=True)}


def judged_before(comparisons: Iterable[int]) -> set[tuple[int, int]]:
    """(comparison, person) of those who have judged one: nobody judges it twice."""
    rows = Assignment.objects.filter(comparison_id__in=set(comparisons))
    return set(rows.values_list("comparison_id", "annotator_id"))


def idempotency_key(data_import: DataImport, key: str) -> str:
    return f"import-{data_import.project_id}-{key}"


# --- recording --------------------------------------------------------------------------------------

ASSIGNMENT_COLUMNS = ("comparison_id", "annotator_id", "shown_order", "created_at")
PREFERENCE_COLUMNS = (
    "assignment_id", "comparison_id", "annotator_id", "kind", "strength", "ranking", "ratings", "margin",
    "written_id", "corrects_id", "acceptability", "flags", "comment", "shown_order", "active_ms",
    "idempotency_key", "body_hash", "late", "simulated", "created_at",
)  # fmt: skip


class Told(NamedTuple):
    """A judgement with the ids of what it speaks of and of who gave it."""

    key: str
    one: Wanted
    judged: Judged
    comparison: int
    annotator: int
    at: datetime

    @property
    def shown_order(self) -> list[int]:
        return [self.one.place[index] for index in self.judged.shown]

    @property
    def opened(self) -> datetime:
        """When it was opened; the moment of judging where the file does not say, or says a later one."""
        opened = self.judged.opened
        return opened if opened is not None and opened < self.at else self.at


def record_judgements(
    data_import: DataImport,
    people: People,
    wanted: dict[str, Wanted],
    comparisons: dict[str, int],
    known: Known,
) -> int:
    """Record the judgement of each; how many texts that annotators wrote are new.

    Nothing was shown to anybody here, so the assignments are closed from the start.
    """
    now = timezone.now()
    told = [
        Told(
            key, one, one.judged, comparisons[one.key], people.account_of(one.judged.by), one.judged.at or now
        )
        for key, one in wanted.items()
        if one.judged is not None
    ]
    written, new_texts = write_written(told, known)
    assignments = insert(
        Assignment,
        ASSIGNMENT_COLUMNS,
        [(one.comparison, one.annotator, one.shown_order, one.opened) for one in told],
        state=Assignment.State.JUDGED,
        lease_expires_at=now,
        closed_at=now,
    )
    rows = []
    for assignment, found in zip(assignments, told, strict=True):
        judged = found.judged
        text, corrected = written.get(found.key, (None, None))
        rows.append(
            (assignment, found.comparison, found.annotator, judged.kind, *answer(found.one, judged),
             judged.margin, text, corrected, judged.acceptability, list(judged.flags), judged.comment,
             found.shown_order, judged.active_ms, idempotency_key(data_import, found.key), found.key,
             judged.late, judged.simulated, found.at)
        )  # fmt: skip
    insert(Preference, PREFERENCE_COLUMNS, rows, imported=True)
    return new_texts


def write_written(told: list[Told], known: Known) -> tuple[dict[str, tuple[int, int | None]], int]:
    """What annotators wrote, as completions: ids of text and of what it corrects by key; how many are new."""
    wanted: dict[str, tuple[CompletionKey, int | None]] = {}
    texts: dict[CompletionKey, str] = {}
    for found in told:
        one, judged = found.one, found.judged
        if judged.written is None:
            continue
        corrected = None
        if judged.corrects is not None:
            corrected = known.completion(one, one.hashes[one.place[judged.corrects]])
        source = Completion.Source.WRITTEN if corrected is None else Completion.Source.CORRECTED
        completion = (known.prompts[one.prompt_hash], sha256_text(judged.written), str(source))
        texts[completion] = judged.written
        wanted[found.key] = (completion, corrected)
    origins = {completion: corrected for completion, corrected in wanted.values() if corrected is not None}
    ids, new = write_completions(texts, origins)
    return {key: (ids[completion], corrected) for key, (completion, corrected) in wanted.items()}, len(new)
