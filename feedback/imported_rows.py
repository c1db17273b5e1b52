"""Rows of an import into the database: only what is not there yet, so the same rows twice change nothing."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from collections.abc import Iterable

from django.utils import timezone

from feedback.asked import Wanted, answer, wanted_of
from feedback.bulk import insert
from feedback.exchange.judgements import importer_name
from feedback.exchange.rows import Judged, Row
from feedback.models import (
    Assignment,
    Candidate,
    Comparison,
    Completion,
    DataImport,
    Preference,
    Project,
    Prompt,
    User,
    sha256_text,
)

MAX_PEOPLE = 1000
"""Accounts that an import makes for the people whom its file tells apart; the rest share one."""
PLAIN_NAME = re.compile(r"[0-9A-Za-z_-]{1,40}")


# --- people -----------------------------------------------------------------------------------------


def importer_of(project: Project) -> User:
    """Who holds the recorded judgements of a project's files: an account nobody can sign in to."""
    return account(importer_name(project))


def account(name: str) -> User:
    user, created = User.objects.get_or_create(username=name, defaults={"is_active": False})
    if created:
        user.set_unusable_password()
        user.save()
    return user


class People:
    """The accounts behind the names of a file: one each, so that their judgements can be told apart."""

    def __init__(self, project: Project) -> None:
        self.own = importer_of(project)
        self.ids = {"": self.own.pk}

    def account_of(self, name: str) -> int:
        if name not in self.ids:
            plain = name if PLAIN_NAME.fullmatch(name) else sha256_text(name)[:12]
            many = len(self.ids) > MAX_PEOPLE
            self.ids[name] = self.own.pk if many else account(f"{self.own.username}.{plain}").pk
        return self.ids[name]


# --- writing ----------------------------------------------------------------------------------------


def write_rows(data_import: DataImport, people: People, batch: list[Row]) -> Counter[str]:
    """Write what is not there yet; what was added, by kind, and the rows that added nothing."""
    own = exported_here(data_import, batch)
    added = Counter({"unchanged": len(own)})
    batch = [row for place, row in enumerate(batch) if place not in own]
    hashes = [Prompt.hash_of(row.messages) for row in batch]
    prompts, new_prompts = write_prompts(data_import, batch, hashes)
    added["prompts"] = len(new_prompts)
    wanted: dict[str, Wanted] = {}
    asked: list[tuple[Row, int, str, list[Wanted]]] = []
    for row, prompt_hash in zip(batch, hashes, strict=True):
        prompt = prompts[prompt_hash]
        found = list(wanted_of(row, prompt, prompt_hash, data_import))
        asked.append((row, prompt, prompt_hash, found))
        for one in found:
            wanted.setdefault(one.judgement_key or one.key, one)
    completions, new_completions = write_completions(
        (prompt, Completion.Source.IMPORTED, text)
        for row, prompt, _hash, _found in asked
        for text in row.completions
    )
    added["completions"] += len(new_completions)
    fresh = write_comparisons(data_import, people, wanted, completions, added)
    for row, prompt, prompt_hash, found in asked:
        new = any((one.judgement_key or one.key) in fresh for one in found)
        fresh.difference_update(one.judgement_key or one.key for one in found)
        if not found:
            own_completions = {
                (prompt, sha256_text(text), str(Completion.Source.IMPORTED)) for text in row.completions
            }
            new = prompt_hash in new_prompts or bool(own_completions & new_completions)
            new_prompts.discard(prompt_hash)
            new_completions -= own_completions
        added["unchanged"] += not new
    return +added


def exported_here(data_import: DataImport, batch: list[Row]) -> set[int]:
    """Places in the batch of judgements that this very project exported: they are here already."""
    start = f"{data_import.project.slug}/"
    asked = {
        judged.number: (place, row, judged)
        for place, row in enumerate(batch)
        if row.origin.startswith(start)
        for judged in row.judged
        if judged.number is not None
    }
    rows = Preference.objects.filter(pk__in=asked, comparison__project_id=data_import.project_id)
    found = set()
    for number, prompt_hash, at in rows.values_list("pk", "comparison__prompt__content_hash", "created_at"):
        place, row, judged = asked[number]
        # Another installation may count alike: the prompt and the moment tell.
        if at == judged.at and prompt_hash == Prompt.hash_of(row.messages):
            found.add(place)
    return found


def write_prompts(
    data_import: DataImport, batch: list[Row], hashes: list[str]
) -> tuple[dict[str, int], set[str]]:
    """Prompt ids by content hash, and the hashes that are new."""

    def existing() -> dict[str, int]:
        rows = Prompt.objects.filter(project_id=data_import.project_id, content_hash__in=hashes)
        return dict(rows.values_list("content_hash", "pk"))

    known = existing()
    new = {
        prompt_hash: Prompt(
            project_id=data_import.project_id,
            messages=row.messages,
            content_hash=prompt_hash,
            source=str(data_import),
            external_id=row.external_id,
            split=data_import.options.get("split", Prompt.Split.TRAIN),
        )
        for row, prompt_hash in zip(batch, hashes, strict=True)
        if prompt_hash not in known
    }
    if new:
        # Sampling may add the same prompt at this moment: the constraint decides, and both go on.
        Prompt.objects.bulk_create(new.values(), ignore_conflicts=True)
        known = existing()
    return known, set(new)


CompletionKey = tuple[int, str, str]
"""Prompt id, hash of the text, source."""


def write_completions(
    wanted: Iterable[tuple[int, str, str]], corrects: dict[CompletionKey, int] | None = None
) -> tuple[dict[CompletionKey, int], set[CompletionKey]]:
    """Ids of completions by no model version, from (prompt, source, text); and which of them are new."""
    texts = {(prompt, sha256_text(text), source): text for prompt, source, text in wanted}
    if not texts:
        return {}, set()
    # By prompt alone: asked for "no version", SQLite would walk every imported completion there is.
    there = Completion.objects.filter(prompt_id__in={prompt for prompt, _hash, _source in texts})
    known = {
        (prompt, text_hash, source): pk
        for prompt, text_hash, source, version, pk in there.values_list(
            "prompt_id", "text_hash", "source", "model_version_id", "pk"
        )
        if version is None
    }
    new = [key for key in texts if key not in known]
    ids = insert(
        Completion,
        ("prompt_id", "text_hash", "source", "text", "corrected_from_id"),
        [(*key, texts[key], (corrects or {}).get(key)) for key in new],
    )
    known.update(zip(new, ids, strict=True))
    return known, set(new)


def write_comparisons(
    data_import: DataImport,
    people: People,
    wanted: dict[str, Wanted],
    completions: dict[CompletionKey, int],
    added: Counter[str],
) -> set[str]:
    """Comparisons and judgements that are not there; the keys of `wanted` that added something."""
    there = Comparison.objects.filter(
        project_id=data_import.project_id, import_key__in={one.key for one in wanted.values()}
    )
    ids = {str(key): pk for key, pk in there.values_list("import_key", "pk")}
    new = {one.key: one for one in wanted.values() if one.key not in ids}
    open_ = bool(data_import.options.get("put_up"))
    State = Comparison.State
    # A review of models that are not here can never be closed, which is what withdraws its comparisons.
    closed = {str(Comparison.Purpose.REVIEW): State.WITHDRAWN}
    made = insert(
        Comparison,
        ("prompt_id", "shuffle", "import_key", "kind", "purpose", "gold_answer", "state"),
        [
            (one.prompt, secrets.randbelow(2**31), one.key, one.kind, one.purpose, one.gold_answer,
             State.OPEN if open_ else closed.get(one.purpose, State.DONE))
            for one in new.values()
        ],
        project_id=data_import.project_id,
        overlap=data_import.project.overlap if open_ else 1,
    )  # fmt: skip
    ids.update(zip(new, made, strict=True))
    insert(
        Candidate,
        ("comparison_id", "completion_id", "position"),
        [
            (ids[one.key], completions[one.prompt, sha256_text(text), Completion.Source.IMPORTED], position)
            for one in new.values()
            for position, text in enumerate(one.texts)
        ],
    )
    added["comparisons"] += len(new)
    if open_:
        return {key for key, one in wanted.items() if one.key in new}
    # Every comparison that is new brings its judgement; one that was there may get another person's.
    known = set()
    old = [key for key, one in wanted.items() if one.key not in new]
    if old:
        keys = {idempotency_key(data_import, key): key for key in old}
        recorded = Preference.objects.filter(idempotency_key__in=keys).values_list(
            "idempotency_key", flat=True
        )
        known = {keys[key] for key in recorded}
        known |= already_judged(
            people, {key: (ids[wanted[key].key], wanted[key]) for key in old if key not in known}
        )
    fresh = {key: one for key, one in wanted.items() if key not in known}
    record_judgements(data_import, people, fresh, ids, completions, added)
    return set(fresh)


def idempotency_key(data_import: DataImport, key: str) -> str:
    return f"import-{data_import.project_id}-{key}"


def already_judged(people: People, asked: dict[str, tuple[int, Wanted]]) -> set[str]:
    """Keys of judgements whose comparison the same person has judged: nobody judges one twice."""
    by_pair = {
        (comparison, people.account_of(one.judged.by)): key
        for key, (comparison, one) in asked.items()
        if one.judged
    }
    rows = Assignment.objects.filter(comparison_id__in={comparison for comparison, _one in asked.values()})
    return {by_pair[pair] for pair in rows.values_list("comparison_id", "annotator_id") if pair in by_pair}


def record_judgements(
    data_import: DataImport,
    people: People,
    fresh: dict[str, Wanted],
    comparisons: dict[str, int],
    completions: dict[CompletionKey, int],
    added: Counter[str],
) -> None:
    """The recorded judgement of each: shown to nobody here, so its assignment is closed from the start."""
    now = timezone.now()
    told = [(key, one, one.judged) for key, one in fresh.items() if one.judged is not None]
    written = write_written(told, completions, added)
    assignments = insert(
        Assignment,
        ("comparison_id", "annotator_id", "shown_order"),
        [
            (comparisons[one.key], people.account_of(judged.by), [one.place[index] for index in judged.shown])
            for _key, one, judged in told
        ],
        state=Assignment.State.JUDGED,
        lease_expires_at=now,
        closed_at=now,
    )
    rows = []
    for assignment, (key, one, judged) in zip(assignments, told, strict=True):
        text, corrected = written.get(key, (None, None))
        rows.append(
            (
                assignment,
                comparisons[one.key],
                people.account_of(judged.by),
                judged.kind,
                *answer(one, judged),
                text,
                corrected,
                judged.acceptability,
                list(judged.flags),
                judged.comment,
                [one.place[index] for index in judged.shown],
                judged.active_ms,
                idempotency_key(data_import, key),
                key,
                judged.late,
                judged.simulated,
                judged.at or now,
            )
        )
    insert(Preference, PREFERENCE_COLUMNS, rows, imported=True)
    added["preferences"] += len(rows)


PREFERENCE_COLUMNS = (
    "assignment_id", "comparison_id", "annotator_id", "kind", "strength", "ranking", "ratings",
    "written_id", "corrects_id", "acceptability", "flags", "comment", "shown_order", "active_ms",
    "idempotency_key", "body_hash", "late", "simulated", "created_at",
)  # fmt: skip


def write_written(
    told: list[tuple[str, Wanted, Judged]], completions: dict[CompletionKey, int], added: Counter[str]
) -> dict[str, tuple[int, int | None]]:
    """What annotators wrote, as completions: ids of the text and of what it corrects, by judgement key."""
    wanted: dict[str, tuple[CompletionKey, int | None]] = {}
    texts: list[tuple[int, str, str]] = []
    for key, one, judged in told:
        if judged.written is None:
            continue
        corrected = None
        if judged.corrects is not None:
            original = one.texts[one.place[judged.corrects]]
            corrected = completions[one.prompt, sha256_text(original), Completion.Source.IMPORTED]
        source = Completion.Source.WRITTEN if corrected is None else Completion.Source.CORRECTED
        texts.append((one.prompt, source, judged.written))
        wanted[key] = ((one.prompt, sha256_text(judged.written), source), corrected)
    origins = {completion: corrected for completion, corrected in wanted.values() if corrected is not None}
    known, new = write_completions(texts, origins)
    added["completions"] += len(new)
    return {key: (known[completion], corrected) for key, (completion, corrected) in wanted.items()}
