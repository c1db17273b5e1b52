"""Prompts and completions of an import, by the hashes of their texts."""

from __future__ import annotations

from typing import Any, NamedTuple

from feedback.asked import Asking, Wanted
from feedback.bulk import ids_by, insert
from feedback.models import Completion, DataImport, Prompt

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
        made = insert(
            Prompt, PROMPT_COLUMNS, list(new.values()), ignore_conflicts=True,
            project_id=data_import.project_id, **fixed,
        )  # fmt: skip
        if len(made) == len(new):
            known.update(zip(new, made, strict=True))
        else:
            known = ids_by(Prompt, "content_hash", hashes, data_import.project_id)
            return known, {content_hash for content_hash, pk in known.items() if pk in set(made)}
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
