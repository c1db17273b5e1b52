"""Which comparisons are open and which judgements count; apart, so that models.py stays readable."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.db import models
from django.db.models import Exists, OuterRef

if TYPE_CHECKING:
    from feedback.models import Comparison, Preference  # noqa: F401  # named in strings


class ComparisonQuerySet(models.QuerySet["Comparison"]):
    def open(self) -> ComparisonQuerySet:
        """Those that still take judgements."""
        return self.filter(state=self.model.State.OPEN)


class PreferenceQuerySet(models.QuerySet["Preference"]):
    def in_force(self) -> PreferenceQuerySet:
        """Neither superseded by a later row nor withdrawn; adjudications are among them."""
        later = self.model._default_manager.filter(supersedes=OuterRef("pk"))
        return self.filter(~Exists(later), withdrawn=False)

    def current(self) -> PreferenceQuerySet:
        """The annotators' judgements in force: what is counted, shown and compared."""
        return self.in_force().filter(adjudication=False)

    def deciding(self) -> PreferenceQuerySet:
        """What trains and is exported: all in force, each with `overruled` brought along."""
        return self.in_force().with_overruled()

    def with_overruled(self) -> PreferenceQuerySet:
        """Spares `Preference.overruled` a query for each row."""
        every = PreferenceQuerySet(self.model)
        decided = every.in_force().filter(adjudication=True, comparison=OuterRef("comparison"))
        found = Exists(decided.exclude(pk=OuterRef("pk")))
        return self.annotate(overruled=found)  # type: ignore[no-redef]  # fills the property of that name

    def by_people(self) -> PreferenceQuerySet:
        """Judged here and by people: the only ones that human statistics may count."""
        return self.filter(simulated=False, imported=False, adjudication=False)
