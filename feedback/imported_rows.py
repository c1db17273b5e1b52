"""Rows of an import into the database: only what is not there yet, so the same rows twice change nothing."""

from __future__ import annotations

import secrets
from collections import Counter

from feedback.asked import Asked, Asking, Wanted
from feedback.bulk import ids_by, insert
from feedback.imported_judgements import People, record_judgements, to_record
from feedback.imported_texts import Known, write_completions, write_prompts
from feedback.models import Candidate, Comparison, Completion, DataImport, Preference
from feedback.queue import GOLD_OVERLAP


def write_rows(data_import: DataImport, people: People, asked: list[Asked]) -> Counter[str]:
    """Write what is not there yet; what was added and what was left out, by kind.

    `unchanged` counts rows, all of which was there; `left_out` judgements by people who had judged the same
    comparison otherwise.
    """
    own = exported_here(data_import, [one.asking for one in asked])
    asked = [one for place, one in enumerate(asked) if place not in own]
    batch = [one.asking for one in asked]
    prompts, new_prompts = write_prompts(data_import, batch)
    texts = {
        (prompts[asking.prompt_hash], text_hash, str(Completion.Source.IMPORTED)): text
        for asking in batch
        for text_hash, text in zip(asking.hashes, asking.row.completions, strict=True)
    }
    completions, new_completions = write_completions(texts)
    known = Known(prompts, completions)
    added = Counter(unchanged=len(own), prompts=len(new_prompts), completions=len(new_completions))
    wanted: dict[str, Wanted] = {}
    for _asking, found in asked:
        for one in found:
            wanted.setdefault(one.judgement_key, one)
    comparisons, new = write_comparisons(data_import, wanted, known)
    added["comparisons"] = len(new)
    second: set[str] = set()
    if data_import.options.get("put_up"):
        fresh = {key for key, one in wanted.items() if one.key in new}
    else:
        recorded, second = to_record(data_import, people, wanted, comparisons, new)
        fresh = set(recorded)
        added["completions"] += record_judgements(data_import, people, recorded, comparisons, known)
        added["preferences"] = len(recorded)
    added["left_out"] = len(second)
    new_texts = {(prompt, text_hash) for prompt, text_hash, _source in new_completions}
    added["unchanged"] += unchanged(asked, fresh | second, prompts, new_prompts, new_texts)
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


def unchanged(
    asked: list[Asked],
    news: set[str],
    prompts: dict[str, int],
    new_prompts: set[str],
    new_texts: set[tuple[int, str]],
) -> int:
    """How many rows brought nothing: of rows that bring the same thing, the first one brought it.

    What is new is given by keys of judgements or, for rows without any, by prompts and completions.
    """
    news, new_prompts, new_texts = set(news), set(new_prompts), set(new_texts)
    number = 0
    for asking, found in asked:
        if found:
            keys = {one.judgement_key for one in found}
            number += not keys & news
            news -= keys
        else:
            texts = {(prompts[asking.prompt_hash], text_hash) for text_hash in asking.hashes}
            number += asking.prompt_hash not in new_prompts and not texts & new_texts
            new_prompts.discard(asking.prompt_hash)
            new_texts -= texts
    return number


COMPARISON_COLUMNS = (
    "prompt_id", "shuffle", "import_key", "kind", "purpose", "gold_answer", "state", "overlap", "missing",
)  # fmt: skip


def write_comparisons(
    data_import: DataImport, wanted: dict[str, Wanted], known: Known
) -> tuple[dict[str, int], set[str]]:
    """Ids of the comparisons by key, and the keys of those that are new."""
    ids = ids_by(Comparison, "import_key", {one.key for one in wanted.values()}, data_import.project_id)
    new = {one.key: one for one in wanted.values() if one.key not in ids}
    # A comparison of the recorded kind wants one judgement and comes with one: more of them change nothing.
    judged = {one.key for one in wanted.values() if one.judged}
    made = insert(
        Comparison,
        COMPARISON_COLUMNS,
        [
            (known.prompts[one.prompt_hash], secrets.randbelow(2**31), key, one.kind, one.purpose,
             one.gold_answer, *state_of(one, data_import, comes_judged=key in judged))
            for key, one in new.items()
        ],
        project_id=data_import.project_id,
    )  # fmt: skip
    ids.update(zip(new, made, strict=True))
    insert(
        Candidate,
        ("comparison_id", "completion_id", "position"),
        [
            (ids[key], known.completion(one, text_hash), position)
            for key, one in new.items()
            for position, text_hash in enumerate(one.hashes)
        ],
    )
    return ids, set(new)


def state_of(one: Wanted, data_import: DataImport, *, comes_judged: bool) -> tuple[str, int, int]:
    """State, overlap and how many judgements are missing, of a new comparison."""
    if data_import.options.get("put_up"):
        gold = one.purpose == Comparison.Purpose.GOLD
        overlap = GOLD_OVERLAP if gold else data_import.project.overlap
        return Comparison.State.OPEN, overlap, overlap
    # A review of models that are not here can never be closed, which is what withdraws its comparisons.
    review = one.purpose == Comparison.Purpose.REVIEW
    state = Comparison.State.WITHDRAWN if review else Comparison.State.DONE
    return state, 1, 0 if comes_judged else 1
