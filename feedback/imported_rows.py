"""Rows of an import into the database: only what is not there yet, so the same rows twice change nothing."""

from __future__ import annotations

import re
import secrets
from collections import Counter
from typing import Any, NamedTuple

from django.utils import timezone

from feedback.asked import Asked, Asking, Wanted, answer
from feedback.bulk import ids_by, insert
from feedback.exchange.judgements import importer_name
from feedback.exchange.rows import Judged
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
from feedback.queue import GOLD_OVERLAP

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


def write_rows(data_import: DataImport, people: People, asked: list[Asked]) -> Counter[str]:
    """Write what is not there yet; what was added, by kind, and the rows that added nothing."""
    own = exported_here(data_import, [one.asking for one in asked])
    added = Counter({"unchanged": len(own)})
    asked = [one for place, one in enumerate(asked) if place not in own] if own else asked
    batch = [one.asking for one in asked]
    prompts, new_prompts = write_prompts(data_import, batch)
    added["prompts"] = len(new_prompts)
    wanted: dict[str, Wanted] = {}
    for _asking, found in asked:
        for one in found:
            wanted.setdefault(one.judgement_key, one)
    texts = {
        (prompts[asking.prompt_hash], text_hash, str(Completion.Source.IMPORTED)): text
        for asking in batch
        for text_hash, text in zip(asking.hashes, asking.row.completions, strict=True)
    }
    completions, new_completions = write_completions(texts)
    added["completions"] += len(new_completions)
    fresh = write_comparisons(data_import, people, wanted, Known(prompts, completions), added)
    for asking, found in asked:
        keys = {one.judgement_key for one in found}
        new = bool(keys & fresh)
        fresh -= keys
        if not found:
            prompt = prompts[asking.prompt_hash]
            brought = {(prompt, text_hash, str(Completion.Source.IMPORTED)) for text_hash in asking.hashes}
            new = asking.prompt_hash in new_prompts or bool(brought & new_completions)
            new_prompts.discard(asking.prompt_hash)
            new_completions -= brought
        added["unchanged"] += not new
    return +added


def exported_here(data_import: DataImport, batch: list[Asking]) -> set[int]:
    """Places in the batch of judgements that this very project exported: they are here already."""
    start = f"{data_import.project.slug}/"
    asked = {
        asking.row.exported[0]: (place, asking)
        for place, asking in enumerate(batch)
        if asking.row.exported is not None and asking.row.origin.startswith(start)
    }
    if not asked:
        return set()
    rows = Preference.objects.filter(pk__in=asked, comparison__project_id=data_import.project_id)
    found = set()
    for number, prompt_hash, at in rows.values_list("pk", "comparison__prompt__content_hash", "created_at"):
        place, asking = asked[number]
        # Another installation may count alike: the prompt and the moment tell.
        if asking.row.exported == (number, at) and prompt_hash == asking.prompt_hash:
            found.add(place)
    return found


PROMPT_COLUMNS = ("messages", "content_hash", "external_id")


def write_prompts(data_import: DataImport, batch: list[Asking]) -> tuple[dict[str, int], set[str]]:
    """Prompt ids by content hash, and the hashes that are new."""
    hashes = {asking.prompt_hash for asking in batch}
    known = ids_by(Prompt, "content_hash", hashes, data_import.project_id)
    new: dict[str, tuple[Any, ...]] = {}
    for asking in batch:
        if asking.prompt_hash not in known:
            values = (asking.row.messages, asking.prompt_hash, asking.row.external_id)
            new.setdefault(asking.prompt_hash, values)
    if new:
        fixed = {"source": str(data_import), "split": data_import.options.get("split", Prompt.Split.TRAIN)}
        # Sampling may add the same prompt at this moment: the constraint decides, and both go on.
        ids = insert(
            Prompt, PROMPT_COLUMNS, list(new.values()), ignore_conflicts=True,
            project_id=data_import.project_id, **fixed,
        )  # fmt: skip
        if len(ids) == len(new):
            known.update(zip(new, ids, strict=True))
        else:
            known = ids_by(Prompt, "content_hash", hashes, data_import.project_id)
    return known, set(new)


CompletionKey = tuple[int, str, str]
"""Prompt id, hash of the text, source."""


class Known(NamedTuple):
    """Ids of what a batch speaks of."""

    prompts: dict[str, int]
    completions: dict[CompletionKey, int]

    def completion(self, one: Wanted, text_hash: str) -> int:
        return self.completions[self.prompts[one.prompt_hash], text_hash, str(Completion.Source.IMPORTED)]


def write_completions(
    texts: dict[CompletionKey, str], corrects: dict[CompletionKey, int] | None = None
) -> tuple[dict[CompletionKey, int], set[CompletionKey]]:
    """Ids of completions by no model version, and which of them are new."""
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
    known: Known,
    added: Counter[str],
) -> set[str]:
    """Comparisons and judgements that are not there; the keys of `wanted` that added something."""
    asked_for = {one.key for one in wanted.values()}
    ids = ids_by(Comparison, "import_key", asked_for, data_import.project_id)
    new = {one.key: one for one in wanted.values() if one.key not in ids}
    open_ = bool(data_import.options.get("put_up"))
    State = Comparison.State
    # A review of models that are not here can never be closed, which is what withdraws its comparisons.
    closed = {str(Comparison.Purpose.REVIEW): State.WITHDRAWN}
    overlaps = {str(Comparison.Purpose.GOLD): GOLD_OVERLAP}
    overlap = {
        key: overlaps.get(one.purpose, data_import.project.overlap) if open_ else 1
        for key, one in new.items()
    }
    # A comparison of the recorded kind wants one judgement and comes with one: more of them change nothing.
    comes_judged = set() if open_ else {one.key for one in wanted.values() if one.judged}
    made = insert(
        Comparison,
        ("prompt_id", "shuffle", "import_key", "kind", "purpose", "gold_answer", "state", "overlap",
         "missing"),
        [
            (known.prompts[one.prompt_hash], secrets.randbelow(2**31), key, one.kind, one.purpose,
             one.gold_answer, State.OPEN if open_ else closed.get(one.purpose, State.DONE),
             overlap[key], 0 if key in comes_judged else overlap[key])
            for key, one in new.items()
        ],
        project_id=data_import.project_id,
    )  # fmt: skip
    ids.update(zip(new, made, strict=True))
    insert(
        Candidate,
        ("comparison_id", "completion_id", "position"),
        [
            (ids[one.key], known.completion(one, text_hash), position)
            for one in new.values()
            for position, text_hash in enumerate(one.hashes)
        ],
    )
    added["comparisons"] += len(new)
    if open_:
        return {key for key, one in wanted.items() if one.key in new}
    # Every comparison that is new brings its judgement; one that was there may get another person's.
    judged = set()
    old = [key for key, one in wanted.items() if one.key not in new]
    if old:
        keys = {idempotency_key(data_import, key): key for key in old}
        recorded = Preference.objects.filter(idempotency_key__in=keys)
        judged = {keys[key] for key in recorded.values_list("idempotency_key", flat=True)}
        left = {key: (ids[wanted[key].key], wanted[key]) for key in old if key not in judged}
        judged |= already_judged(people, left)
    fresh = first_of_each(people, {key: one for key, one in wanted.items() if key not in judged})
    record_judgements(data_import, people, fresh, ids, known, added)
    return set(fresh)


def first_of_each(people: People, asked: dict[str, Wanted]) -> dict[str, Wanted]:
    """Without the second judgement of a comparison by one person, which some files hold."""
    found: dict[tuple[str, int], str] = {}
    for key, one in asked.items():
        if one.judged:
            found.setdefault((one.key, people.account_of(one.judged.by)), key)
    kept = set(found.values())
    return {key: one for key, one in asked.items() if not one.judged or key in kept}


def idempotency_key(data_import: DataImport, key: str) -> str:
    return f"import-{data_import.project_id}-{key}"


def already_judged(people: People, asked: dict[str, tuple[int, Wanted]]) -> set[str]:
    """Keys of judgements whose comparison the same person has judged: nobody judges one twice."""
    pairs = {
        key: (comparison, people.account_of(one.judged.by))
        for key, (comparison, one) in asked.items()
        if one.judged
    }
    rows = Assignment.objects.filter(comparison_id__in={comparison for comparison, _one in asked.values()})
    there = set(rows.values_list("comparison_id", "annotator_id"))
    return {key for key, pair in pairs.items() if pair in there}


def record_judgements(
    data_import: DataImport,
    people: People,
    fresh: dict[str, Wanted],
    comparisons: dict[str, int],
    known: Known,
    added: Counter[str],
) -> None:
    """The recorded judgement of each: shown to nobody here, so its assignment is closed from the start."""
    now = timezone.now()
    told = [(key, one, one.judged) for key, one in fresh.items() if one.judged is not None]
    written = write_written(told, known, added)
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
    told: list[tuple[str, Wanted, Judged]], known: Known, added: Counter[str]
) -> dict[str, tuple[int, int | None]]:
    """What annotators wrote, as completions: ids of the text and of what it corrects, by judgement key."""
    wanted: dict[str, tuple[CompletionKey, int | None]] = {}
    texts: dict[CompletionKey, str] = {}
    for key, one, judged in told:
        if judged.written is None:
            continue
        corrected = None
        if judged.corrects is not None:
            corrected = known.completion(one, one.hashes[one.place[judged.corrects]])
        source = Completion.Source.WRITTEN if corrected is None else Completion.Source.CORRECTED
        completion = (known.prompts[one.prompt_hash], sha256_text(judged.written), str(source))
        texts[completion] = judged.written
        wanted[key] = (completion, corrected)
    origins = {completion: corrected for completion, corrected in wanted.values() if corrected is not None}
    ids, new = write_completions(texts, origins)
    added["completions"] += len(new)
    return {key: (ids[completion], corrected) for key, (completion, corrected) in wanted.items()}
