"""Rows of an import into the database: only what is not there yet, so the same rows twice change nothing."""

from __future__ import annotations

import secrets
from collections import Counter

from django.utils import timezone

from feedback.bulk import insert
from feedback.exchange import PairRow, Row
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
    canonical_json,
    sha256_text,
)


def importer_of(project: Project) -> User:
    """Who holds the recorded judgements of a project's files: an account nobody can sign in to."""
    user, created = User.objects.get_or_create(
        username=f"imported-{project.slug}", defaults={"is_active": False}
    )
    if created:
        user.set_unusable_password()
        user.save()
    return user


def write_rows(data_import: DataImport, importer: User, batch: list[Row]) -> Counter[str]:
    """Write what is not there yet; what was added, by kind, and the rows that added nothing."""
    hashes = [Prompt.hash_of(row.messages) for row in batch]
    prompts, new_prompts = write_prompts(data_import, batch, hashes)
    pairs = [
        (row, prompts[prompt_hash], prompt_hash)
        for row, prompt_hash in zip(batch, hashes, strict=True)
        if isinstance(row, PairRow)
    ]
    added = Counter({"prompts": len(new_prompts)})
    if pairs:
        added += write_pairs(data_import, importer, pairs)
        fresh = added["comparisons"]
    else:
        fresh = len(new_prompts)
    added["unchanged"] = len(batch) - fresh
    return added


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


def write_pairs(
    data_import: DataImport, importer: User, pairs: list[tuple[PairRow, int, str]]
) -> Counter[str]:
    """Completions and comparisons of the new rows (with prompt id and hash), with their judgements."""
    put_up = bool(data_import.options.get("put_up"))
    by_key = {
        import_key(row, prompt_hash, put_up=put_up): (row, prompt) for row, prompt, prompt_hash in pairs
    }
    there = Comparison.objects.filter(project_id=data_import.project_id, import_key__in=by_key)
    for key in there.values_list("import_key", flat=True):
        by_key.pop(str(key))
    if not by_key:
        return Counter()
    completions, added = write_completions(list(by_key.values()))
    comparisons = insert(
        Comparison,
        ("prompt_id", "shuffle", "import_key"),
        [(prompt, secrets.randbelow(2**31), key) for key, (_row, prompt) in by_key.items()],
        project_id=data_import.project_id,
        purpose=Comparison.Purpose.TRAINING,
        overlap=data_import.project.overlap if put_up else 1,
        state=Comparison.State.OPEN if put_up else Comparison.State.DONE,
    )
    strengths = []
    candidates = []
    for comparison, (row, prompt) in zip(comparisons, by_key.values(), strict=True):
        texts = canonical_order(row)
        strengths.append(row.strength if texts[1] == row.chosen else -row.strength)
        candidates += [
            (comparison, completions[prompt, sha256_text(text)], position)
            for position, text in enumerate(texts)
        ]
    insert(Candidate, ("comparison_id", "completion_id", "position"), candidates)
    counts = Counter({"completions": added, "comparisons": len(comparisons)})
    if not put_up:
        record_judgements(data_import, importer, list(zip(comparisons, by_key, strengths, strict=True)))
        counts["preferences"] = len(comparisons)
    return counts


def import_key(row: PairRow, prompt_hash: str, *, put_up: bool) -> str:
    """What makes two rows the same. Recorded: prompt, both completions, which was better and by how much, so
    that a second person who saw it otherwise is kept. Put up: prompt and both completions, in any order."""
    texts = [sha256_text(row.chosen), sha256_text(row.rejected)]
    if put_up:
        return sha256_text(canonical_json(["put up", prompt_hash, *sorted(texts)]))
    return sha256_text(canonical_json(["judged", prompt_hash, *texts, row.strength]))


def canonical_order(row: PairRow) -> list[str]:
    """The two completions in an order that tells nothing of which was chosen: by hash of text and pair."""
    pair = sorted((sha256_text(row.chosen), sha256_text(row.rejected)))
    return sorted((row.chosen, row.rejected), key=lambda text: sha256_text("".join(pair) + text))


def write_completions(rows: list[tuple[PairRow, int]]) -> tuple[dict[tuple[int, str], int], int]:
    """Ids by (prompt, text hash), and how many are new."""
    wanted = {
        (prompt, sha256_text(text)): text for row, prompt in rows for text in (row.chosen, row.rejected)
    }
    # By prompt alone: asked for "no version", SQLite would walk every imported completion there is.
    there = Completion.objects.filter(prompt_id__in={prompt for prompt, _hash in wanted})
    known = {
        (prompt, text_hash): pk
        for prompt, text_hash, source, version, pk in there.values_list(
            "prompt_id", "text_hash", "source", "model_version_id", "pk"
        )
        if source == Completion.Source.IMPORTED and version is None
    }
    new = [key for key in wanted if key not in known]
    ids = insert(
        Completion,
        ("prompt_id", "text_hash", "text"),
        [(prompt, text_hash, wanted[prompt, text_hash]) for prompt, text_hash in new],
        source=Completion.Source.IMPORTED,
    )
    known.update(zip(new, ids, strict=True))
    return known, len(new)


def record_judgements(data_import: DataImport, importer: User, judged: list[tuple[int, str, int]]) -> None:
    """The recorded judgement of each (comparison id, import key, strength): shown to nobody here."""
    now = timezone.now()
    assignments = insert(
        Assignment,
        ("comparison_id",),
        [(comparison,) for comparison, _key, _strength in judged],
        annotator_id=importer.pk,
        shown_order=[],
        state=Assignment.State.JUDGED,
        lease_expires_at=now,
        closed_at=now,
    )
    insert(
        Preference,
        ("assignment_id", "comparison_id", "strength", "idempotency_key", "body_hash"),
        [
            (assignment, comparison, strength, f"import-{data_import.project_id}-{key}", key)
            for assignment, (comparison, key, strength) in zip(assignments, judged, strict=True)
        ],
        annotator_id=importer.pk,
        shown_order=[],
        imported=True,
    )
