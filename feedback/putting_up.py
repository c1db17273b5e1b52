"""How comparisons come to be: a prompt's completions, put up as the project's kind of judgement asks."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping, Sequence

from django.db.models import Exists, OuterRef

from feedback.models import Candidate, Comparison, ComparisonKind, Completion, Project, Prompt

BATCH = 500
LEAST = {ComparisonKind.PAIRWISE: 2, ComparisonKind.RANKING: 3, ComparisonKind.RATING: 1}
"""Fewer completions than this are no comparison of the kind: they wait for more."""
Written = Mapping[int, Sequence[Completion]]
"""Prompt id -> its completions, in the order in which they were written, each text once."""


def put_up(project: Project, written: Written, *, overlap: int | None = None) -> int:
    """Put each prompt's completions up in groups, as the project's kind asks; how many comparisons are new.

    A pairwise project compares the first with the second, the third with the fourth, and so on; rankings and
    ratings take `Project.candidates` at a time; a demonstration shows the prompt alone. What is too few for
    the kind waits for a later run, and so does a prompt whose completions are all the same. A group that was
    put up before is not put up again.
    """
    kind = ComparisonKind(project.kind)
    if kind == ComparisonKind.DEMONSTRATION:
        return ask_for_demonstrations(project, written, overlap=overlap)
    groups = [
        (prompt_id, group)
        for prompt_id, rows in written.items()
        for group in grouped(rows, project.wanted_candidates)
        if len(group) >= LEAST[kind]
    ]
    standing = standing_groups(kind, [row.pk for _prompt, group in groups for row in group])
    groups = [
        (prompt_id, group)
        for prompt_id, group in groups
        if frozenset(row.pk for row in group) not in standing
    ]
    create_comparisons(
        [
            (
                Comparison(
                    project=project, prompt_id=prompt_id, kind=kind, overlap=overlap or project.overlap
                ),
                group,
            )
            for prompt_id, group in groups
        ]
    )
    return len(groups)


def grouped(rows: Sequence[Completion], size: int) -> list[list[Completion]]:
    """Groups of `size` in order; the last one holds what is left."""
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def standing_groups(kind: ComparisonKind, completion_ids: Sequence[int]) -> set[frozenset[int]]:
    """Groups of these completions that were put up for this kind of training judgement before."""
    groups: dict[int, set[int]] = {}
    for start in range(0, len(completion_ids), BATCH):
        found = Candidate.objects.filter(
            completion__in=completion_ids[start : start + BATCH],
            comparison__kind=kind,
            comparison__purpose=Comparison.Purpose.TRAINING,
        )
        for comparison_id, completion_id in found.values_list("comparison", "completion"):
            groups.setdefault(comparison_id, set()).add(completion_id)
    return {frozenset(group) for group in groups.values()}


def ask_for_demonstrations(project: Project, prompts: Iterable[int], *, overlap: int | None = None) -> int:
    """Put these prompts up for people to write completions for, each once; how many are new."""
    asked = Comparison.objects.filter(
        prompt=OuterRef("pk"),
        kind=ComparisonKind.DEMONSTRATION,
        purpose=Comparison.Purpose.TRAINING,
    )
    wanted = list(prompts)
    new: list[int] = []
    for start in range(0, len(wanted), BATCH):
        rows = Prompt.objects.filter(~Exists(asked), project=project, pk__in=wanted[start : start + BATCH])
        new += rows.order_by("pk").values_list("pk", flat=True)
    create_comparisons(
        [
            (
                Comparison(
                    project=project,
                    prompt_id=prompt_id,
                    kind=ComparisonKind.DEMONSTRATION,
                    overlap=overlap or project.overlap,
                ),
                [],
            )
            for prompt_id in new
        ]
    )
    return len(new)


def create_comparisons(planned: Sequence[tuple[Comparison, Sequence[Completion]]]) -> None:
    """Create comparisons with their candidates in canonical order, in two queries a batch."""
    for comparison, _completions in planned:
        comparison.shuffle = secrets.randbelow(2**31)  # bulk_create calls no save()
        comparison.missing = comparison.overlap
    Comparison.objects.bulk_create([comparison for comparison, _completions in planned], batch_size=BATCH)
    Candidate.objects.bulk_create(
        [
            Candidate(comparison=comparison, completion=completion, position=position)
            for comparison, completions in planned
            for position, completion in enumerate(completions)
        ],
        batch_size=BATCH,
    )


def put_up_waiting(project: Project, limit: int) -> int:
    """Put up what no comparison of the project's kind shows yet, for `limit` training prompts at most.

    Texts that people wrote are not judged again here, and those of a review are its own.
    """
    prompts = Prompt.objects.filter(project=project, split=Prompt.Split.TRAIN)
    if project.kind == ComparisonKind.DEMONSTRATION:
        asked = Comparison.objects.filter(
            prompt=OuterRef("pk"), kind=project.kind, purpose=Comparison.Purpose.TRAINING
        )
        new = prompts.filter(~Exists(asked)).order_by("pk").values_list("pk", flat=True)[:limit]
        return ask_for_demonstrations(project, list(new))
    shown = Candidate.objects.filter(completion=OuterRef("pk"))
    used = shown.filter(comparison__kind=project.kind) | shown.filter(
        comparison__purpose=Comparison.Purpose.REVIEW
    )
    by_people = (Completion.Source.WRITTEN, Completion.Source.CORRECTED)
    waiting = Completion.objects.filter(~Exists(used), prompt__in=prompts).exclude(source__in=by_people)
    written: dict[int, list[Completion]] = {}
    for completion in waiting.order_by("prompt", "pk").iterator(chunk_size=BATCH):
        enough = sum(len(rows) >= LEAST[ComparisonKind(project.kind)] for rows in written.values())
        if completion.prompt_id not in written and enough >= limit:
            break
        written.setdefault(completion.prompt_id, []).append(completion)
    return put_up(project, written)
