"""Freeze preferences, demonstrations or prompts to a JSONL file that never changes again.

Equal rows give equal bytes: rows come in a fixed order and each is written as canonical JSON. The file is
addressed by its sha256, so freezing twice keeps one file, and the same data frozen with the same filter is
the same Snapshot.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from django.conf import settings
from django.db.models import Count, Exists, OuterRef, QuerySet
from django.utils.translation import gettext as _

from feedback.models import (
    Comparison,
    Completion,
    Message,
    Pair,
    Preference,
    PreferenceQuerySet,
    Project,
    Prompt,
    User,
    canonical_json,
    sha256_text,
)
from feedback.ordering import order_of
from training.core.protocol import sync_folder
from training.models import Snapshot

MINIMUM_PAIRS = 10
"""Fewer judged pairs than this teach a reward model nothing but noise."""
HELD_OUT_IN_10 = 1
BATCH = 400
"""SQLite takes fewer than 1,000 ids in one query, and a row brings two completions along."""


class NothingToFreeze(Exception):
    """There is too little to freeze; the message tells a person what is missing."""


class Demonstration(TypedDict, total=False):
    """A row of `freeze_demonstration_rows`; without a split, the prompt's hash decides."""

    prompt: list[Message]
    completion: str
    split: str


def split_of(content_hash: str, assigned: str = Prompt.Split.TRAIN) -> str:
    """`train` or `held_out`, by prompt: one prompt's rows never stand on both sides.

    A prompt set aside by hand (held out or review) stays out of training; of the others about one in ten
    does, chosen by its hash and so the same in every snapshot.
    """
    by_hash = int(content_hash[:8], 16) % 10 < HELD_OUT_IN_10
    return "held_out" if by_hash or assigned != Prompt.Split.TRAIN else "train"


# --- preferences ------------------------------------------------------------------------------------


def freeze_preferences(
    project: Project,
    *,
    actor: User | None,
    include_simulated: bool = True,
    purposes: Sequence[str] = ("training",),
) -> Snapshot:
    """What decides, as pairs; raises NothingToFreeze below MINIMUM_PAIRS decided pairs.

    Counts: `preferences` in force that no adjudication overrules, of which `simulated`; `pairs`
    written (= `train` + `held_out`), of which `ties`; distinct `prompts` and `annotators` behind the pairs.
    """
    counts = dict.fromkeys(("preferences", "simulated", "pairs", "ties", "train", "held_out"), 0)
    prompts: set[int] = set()
    annotators: set[int] = set()
    rows = _preference_rows(project, include_simulated, purposes, counts, prompts, annotators)
    sha256 = _write(rows)
    decided = counts["pairs"] - counts["ties"]
    if decided < MINIMUM_PAIRS:
        raise NothingToFreeze(
            _("Training needs at least %(wanted)d judged pairs that are not ties; there are %(found)d.")
            % {"wanted": MINIMUM_PAIRS, "found": decided}
        )
    filter = {"include_simulated": include_simulated, "purposes": sorted(purposes)}
    facts = {**counts, "prompts": len(prompts), "annotators": len(annotators)}
    return _keep(project, Snapshot.Kind.PREFERENCES, filter, sha256, facts, actor)


def _preference_rows(
    project: Project,
    include_simulated: bool,
    purposes: Sequence[str],
    counts: dict[str, int],
    prompts: set[int],
    annotators: set[int],
) -> Iterator[dict[str, Any]]:
    found = Preference.objects.filter(
        comparison__project=project, comparison__purpose__in=purposes
    ).deciding()
    if not include_simulated:
        found = found.filter(simulated=False)
    others = _judged_by_several(found)
    numbers: dict[int, int] = {}  # of annotators, local to the file: it names nobody
    found = _whole(found)
    for preference in found.order_by("pk").iterator(chunk_size=BATCH):
        counts["preferences"] += not preference.overruled
        counts["simulated"] += preference.simulated and not preference.overruled
        prompt = preference.comparison.prompt
        for pair in preference.pairs():
            split = split_of(prompt.content_hash, prompt.split)
            counts["pairs"] += 1
            counts["ties"] += pair.tie
            counts[split] += 1
            prompts.add(prompt.pk)
            annotators.add(preference.annotator_id)
            known: dict[str, Any] = {}
            if not preference.imported and not preference.adjudication:
                known["annotator"] = numbers.setdefault(preference.annotator_id, len(numbers))
            if (agreement := _agreement(preference, pair, others)) is not None:
                known["agreement"] = agreement
            yield {
                "prompt": prompt.messages,
                "chosen": pair.chosen.text,
                "rejected": pair.rejected.text,
                "margin": pair.margin,
                "tie": pair.tie,
                "weight": pair.weight,
                "split": split,
                "prompt_id": prompt.pk,
                "preference_id": preference.pk,
                **known,
            }


def _whole(found: PreferenceQuerySet) -> PreferenceQuerySet:
    """With all that `pairs()` and `demonstrations()` read."""
    found = found.select_related("comparison__prompt", "written", "corrects")
    return found.prefetch_related("comparison__candidates__completion")


Directions = dict[tuple[int, int], int]
"""Of two candidate positions, the lower first: 1 when the first is better, -1 the second, 0 a tie."""
Judgements = dict[int, dict[int, Directions]]


def _judged_by_several(found: PreferenceQuerySet) -> Judgements:
    """Comparison -> judgement -> directions, where two people or more judged: what they can agree on."""
    people = found.by_people()
    several = people.values("comparison").annotate(number=Count("pk")).filter(number__gt=1).order_by()
    rows = people.filter(comparison__in=several.values("comparison"))
    judgements: Judgements = {}
    for row in rows.only("comparison", "strength", "ranking", "ratings").iterator(chunk_size=BATCH):
        judgements.setdefault(row.comparison_id, {})[row.pk] = _directions(row)
    return judgements


def _directions(preference: Preference) -> Directions:
    return {
        (min(pair.better, pair.worse), max(pair.better, pair.worse)): 0
        if pair.tie
        else 1
        if pair.better < pair.worse
        else -1
        for pair in order_of(preference.answer())
    }


def _agreement(preference: Preference, pair: Pair, others: Judgements) -> float | None:
    """Share of the other people's judgements that say the same of these two completions, a tie counted half.

    None for a tie or a correction, for simulated and imported judgements, and where nobody else judged.
    """
    said = others.get(preference.comparison_id, {})
    if preference.pk not in said or pair.tie:
        return None
    place = {row.completion_id: row.position for row in preference.comparison.candidates.all()}
    if pair.chosen.pk not in place or pair.rejected.pk not in place:
        return None
    better, worse = place[pair.chosen.pk], place[pair.rejected.pk]
    wanted = 1 if better < worse else -1
    two = (min(better, worse), max(better, worse))
    signs = [
        wanted * directions[two]
        for pk, directions in said.items()
        if pk != preference.pk and two in directions
    ]
    if not signs:
        return None
    return sum(1.0 if sign > 0 else 0.5 if sign == 0 else 0.0 for sign in signs) / len(signs)


# --- demonstrations ---------------------------------------------------------------------------------

DEMONSTRATION_SOURCES = ("chosen", "written", "imported")
"""Completions that judges preferred or wrote; that people wrote or corrected; that came with an import."""


def freeze_demonstrations(project: Project, *, actor: User | None, source: str) -> Snapshot:
    """Completions of the project to imitate, by one of DEMONSTRATION_SOURCES."""
    if source == "chosen":
        rows = _chosen_rows(project)
    elif source == "written":
        rows = _written_rows(project)
    elif source == "imported":
        found = Completion.objects.filter(prompt__project=project, source=Completion.Source.IMPORTED)
        rows = _completion_rows(found)
    else:
        raise ValueError(f"source is one of {', '.join(DEMONSTRATION_SOURCES)}, got {source!r}")
    return _freeze_demonstrations(project, rows, {"source": source}, actor)


def freeze_demonstration_rows(
    project: Project, rows: Iterable[Demonstration | Mapping[str, Any]], *, actor: User | None
) -> Snapshot:
    """Demonstrations that stand in no table (the starter corpus): {"prompt", "completion", "split"?}."""
    return _freeze_demonstrations(project, (_checked(row) for row in rows), {"source": "rows"}, actor)


def _checked(row: Demonstration | Mapping[str, Any]) -> dict[str, Any]:
    prompt, completion = row["prompt"], row["completion"]
    if not prompt or not completion:
        raise ValueError("a demonstration has a prompt of one message or more, and a completion")
    return {
        "prompt": prompt,
        "completion": completion,
        "split": row.get("split") or split_of(Prompt.hash_of(prompt)),
    }


def _chosen_rows(project: Project) -> Iterator[dict[str, Any]]:
    """What nothing beat, and what people wrote; a completion that won twice is shown once.

    One that its own judge corrected is left to the correction.
    """
    seen: set[int] = set()
    for preference in _whole(_training_judgements(project)).order_by("pk").iterator(chunk_size=BATCH):
        decided = [pair for pair in preference.pairs() if not pair.tie]
        beaten = {pair.rejected.pk for pair in decided}
        best = [pair.chosen for pair in decided if pair.chosen.pk not in beaten]
        for completion in [*best, *preference.demonstrations()]:
            if completion.pk not in seen:
                seen.add(completion.pk)
                yield _demonstration(preference.comparison.prompt, completion)


def _written_rows(project: Project) -> Iterator[dict[str, Any]]:
    """Demonstrations and corrections: those of judgements in force, and those that came with no judgement."""
    by_people = (Completion.Source.WRITTEN, Completion.Source.CORRECTED)
    found = Completion.objects.filter(prompt__project=project, source__in=by_people)
    in_force = _training_judgements(project).filter(written=OuterRef("pk"))
    judged = Preference.objects.filter(written=OuterRef("pk"))
    return _completion_rows(found.filter(Exists(in_force) | ~Exists(judged)))


def _training_judgements(project: Project) -> PreferenceQuerySet:
    purpose = Comparison.Purpose.TRAINING
    return Preference.objects.filter(comparison__project=project, comparison__purpose=purpose).deciding()


def _completion_rows(found: QuerySet[Completion]) -> Iterator[dict[str, Any]]:
    for completion in found.select_related("prompt").order_by("pk").iterator(chunk_size=BATCH):
        yield _demonstration(completion.prompt, completion)


def _demonstration(prompt: Prompt, completion: Completion) -> dict[str, Any]:
    split = split_of(prompt.content_hash, prompt.split)
    return {"prompt": prompt.messages, "completion": completion.text, "split": split}


def _freeze_demonstrations(
    project: Project, rows: Iterable[dict[str, Any]], filter: dict[str, Any], actor: User | None
) -> Snapshot:
    counts = {"demonstrations": 0, "train": 0, "held_out": 0}

    def counted() -> Iterator[dict[str, Any]]:
        for row in rows:
            counts["demonstrations"] += 1
            counts[row["split"]] += 1
            yield row

    sha256 = _write(counted())
    if not counts["train"]:
        raise NothingToFreeze(_("There is no demonstration to learn from."))
    return _keep(project, Snapshot.Kind.DEMONSTRATIONS, filter, sha256, counts, actor)


# --- prompts ----------------------------------------------------------------------------------------


def freeze_prompts(
    project: Project,
    *,
    actor: User | None,
    split: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Snapshot:
    """Prompts of one split, or of all; `limit` takes that many, drawn by `seed`."""
    found = Prompt.objects.filter(project=project, **({"split": split} if split else {}))
    keys = list(found.order_by("pk").values_list("pk", "content_hash"))
    if limit is not None and limit < len(keys):
        keys = sorted(sorted(keys, key=lambda key: drawn_order(key[1], seed))[:limit])
    filter = {"split": split, "limit": limit, "seed": seed if limit is not None else None}
    return freeze_prompt_ids(project, [pk for pk, _hash in keys], actor=actor, filter=filter)


def drawn_order(content_hash: str, seed: int) -> str:
    """Sorts prompts into the random order that belongs to `seed`, whatever else is in the project."""
    return sha256_text(f"{seed}:{content_hash}")


def freeze_prompt_ids(
    project: Project, pks: Sequence[int], *, actor: User | None, filter: dict[str, Any]
) -> Snapshot:
    """These prompts of the project, in this order."""
    if not pks:
        raise NothingToFreeze(_("There are no prompts yet: import some first."))

    def rows() -> Iterator[dict[str, Any]]:
        for start in range(0, len(pks), BATCH):
            found = Prompt.objects.filter(project=project).in_bulk(pks[start : start + BATCH])
            for pk in pks[start : start + BATCH]:
                yield {"prompt": found[pk].messages, "prompt_id": pk}

    return _keep(project, Snapshot.Kind.PROMPTS, filter, _write(rows()), {"prompts": len(pks)}, actor)


# --- files and rows ---------------------------------------------------------------------------------


def _write(rows: Iterable[Mapping[str, Any]]) -> str:
    """Write the rows aside, sync, and rename the file to its sha256; returns that hash."""
    folder = settings.ARTIFACT_ROOT / "snapshots"
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{uuid.uuid4().hex}.part"
    digest = hashlib.sha256()
    try:
        with aside.open("wb") as file:
            for row in rows:
                line = (canonical_json(row) + "\n").encode()
                digest.update(line)
                file.write(line)
            file.flush()
            os.fsync(file.fileno())
        aside.chmod(0o444)
        aside.replace(folder / f"{digest.hexdigest()}.jsonl")
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(folder)
    return digest.hexdigest()


def _keep(
    project: Project,
    kind: str,
    filter: dict[str, Any],
    sha256: str,
    counts: dict[str, int],
    actor: User | None,
) -> Snapshot:
    same = Snapshot.objects.filter(project=project, kind=kind, sha256=sha256)
    for snapshot in same:
        if snapshot.filter == filter:
            return snapshot
    return Snapshot.objects.create(
        project=project, kind=kind, filter=filter, sha256=sha256, counts=counts, created_by=actor
    )
