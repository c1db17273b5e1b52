"""Gold comparisons: their answer is known to staff, and tells how well each annotator judges."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _

from feedback.agreement import Share, wilson
from feedback.models import AuditEntry, Candidate, Comparison, ComparisonKind, Preference, Project, User
from feedback.ordering import agrees
from feedback.queue import GOLD_OVERLAP

GRADED = ("comparison", "annotator", "strength", "ranking", "ratings", "comparison__gold_answer")


class NoGold(Exception):
    """This judgement cannot be a gold answer; the message says why."""


def make_gold(preference: Preference, *, actor: User) -> Comparison:
    """A gold copy of a judged comparison, with this judgement as its answer.

    A copy, since what people judged of the original goes on to train, and gold does not.
    """
    answer = preference.answer()
    if preference.withdrawn or preference.kind == ComparisonKind.DEMONSTRATION or not answer:
        raise NoGold(f"judgement {preference.pk} has no answer to compare others with")
    original = preference.comparison
    with transaction.atomic():
        gold = Comparison.objects.create(
            project_id=original.project_id,
            prompt_id=original.prompt_id,
            kind=original.kind,
            purpose=Comparison.Purpose.GOLD,
            overlap=GOLD_OVERLAP,
            gold_answer=answer,
        )
        Candidate.objects.bulk_create(
            Candidate(comparison=gold, completion_id=row.completion_id, position=row.position)
            for row in original.candidates.all()
        )
        AuditEntry.record(actor, "gold.made", gold, judgement=preference.pk, answer=answer)
    return gold


def withdraw_gold(gold: Comparison, *, actor: User) -> None:
    """Nobody is served it any more; what was judged of it counts no longer."""
    with transaction.atomic():
        rows = Comparison.objects.filter(pk=gold.pk, purpose=Comparison.Purpose.GOLD)
        if rows.exclude(state=Comparison.State.WITHDRAWN).update(state=Comparison.State.WITHDRAWN):
            AuditEntry.record(actor, "gold.withdrawn", gold)


def share_in_words(share: Share | None) -> str:
    """ "8 of 10 (49 to 94 %)"."""
    if share is None or share.value is None or share.low is None or share.high is None:
        return "–"
    right, low, high = (round(share.value * share.total), round(100 * share.low), round(100 * share.high))
    return _("%(right)d of %(total)d (%(low)d to %(high)d %%)") % {
        "right": right, "total": share.total, "low": low, "high": high,
    }  # fmt: skip


class Grades(NamedTuple):
    """How often gold answers were met, with 95 % Wilson intervals."""

    by_annotator: dict[int, Share]
    by_comparison: dict[int, Share]


def grades(project: Project) -> Grades:
    """Of every annotator and every gold comparison, over judgements in force, those of imports aside."""
    right: Counter[tuple[str, int]] = Counter()
    total: Counter[tuple[str, int]] = Counter()
    for comparison, annotator, strength, ranking, ratings, gold in _judged(project).values_list(*GRADED):
        passed = agrees(gold, {"strength": strength, "ranking": ranking, "ratings": ratings})
        for place in (("annotator", annotator), ("comparison", comparison)):
            total[place] += 1
            right[place] += passed
    shares = {place: wilson(right[place], count) for place, count in total.items()}
    return Grades(
        {pk: share for (what, pk), share in shares.items() if what == "annotator"},
        {pk: share for (what, pk), share in shares.items() if what == "comparison"},
    )


def _judged(project: Project) -> QuerySet[Preference]:
    rows = Preference.objects.filter(comparison__project=project, comparison__purpose=Comparison.Purpose.GOLD)
    rows = rows.exclude(comparison__state=Comparison.State.WITHDRAWN)
    return rows.current().filter(imported=False).order_by("pk")
