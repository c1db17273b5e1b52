"""Which gold comparison somebody is served, and when; what gold is and tells stands in gold.py."""

from __future__ import annotations

import secrets

from django.db.models import Exists, OuterRef

from feedback.models import Candidate, Comparison, ComparisonQuerySet, Preference, Project, User


def gold_for(free: ComparisonQuerySet, annotator: User) -> ComparisonQuerySet:
    """Of what is free for this annotator the gold that they can be tested with, in an order of their own.

    Gold copies a comparison that somebody judged. Whoever judged those very completions at work would meet
    them again: it would grade them by their own judgement, and show them that it is gold.
    """
    rows = free.filter(~judged_at_work(annotator), purpose=Comparison.Purpose.GOLD)
    return rows.order_by("?")


def judged_at_work(annotator: User) -> Exists:
    """Whether the annotator has judged just the completions of a comparison in one that is no gold.

    A judgement that was taken back counts: they have seen the completions all the same.
    """
    said = Preference.objects.filter(comparison=OuterRef("pk"), annotator=annotator)
    rows = Comparison.objects.filter(Exists(said), prompt=OuterRef("prompt"))
    gold, other = OuterRef(OuterRef(OuterRef("pk"))), OuterRef(OuterRef("pk"))
    in_gold = Candidate.objects.filter(comparison=gold, completion=OuterRef("completion"))
    only_there = Candidate.objects.filter(~Exists(in_gold), comparison=OuterRef("pk"))
    in_other = Candidate.objects.filter(comparison=other, completion=OuterRef("completion"))
    only_in_gold = Candidate.objects.filter(~Exists(in_other), comparison=OuterRef(OuterRef("pk")))
    same = rows.filter(~Exists(only_there), ~Exists(only_in_gold))
    return Exists(same.exclude(purpose=Comparison.Purpose.GOLD))


def gold_is_due(project: Project) -> bool:
    """A coin that falls at the project's gold rate: nobody can tell when the next one comes."""
    return secrets.randbelow(1_000_000) < round(project.gold_rate * 1_000_000)
