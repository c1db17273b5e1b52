"""The judgements of an export, read some hundreds at a time, with what formats read of the rows around them.

Only the judgement is a model object, for its `pairs()`: making one of each row around it took half the time.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from django.db import connection
from django.db.models import Exists, OuterRef

from feedback.models import Candidate, Preference, PreferenceQuerySet, Project

CHUNK_ROWS = 250


# The rows around a judgement, with the names that formats and `pairs()` know from the models.


class Text(NamedTuple):
    """A completion."""

    pk: int
    text: str
    source: str = ""
    model_version_id: int | None = None
    sampling: dict[str, Any] | None = None
    token_count: int | None = None
    finish_reason: str = ""
    logprob: float | None = None


class Shown(NamedTuple):
    """A candidate."""

    completion: Text
    completion_id: int


class Candidates(list[Shown]):
    """As the related manager gives them."""

    def all(self) -> Candidates:
        return self


class Prompt(NamedTuple):
    pk: int
    messages: list[dict[str, str]]
    external_id: str = ""
    split: str = ""
    source: str = ""


class Comparison(NamedTuple):
    pk: int
    project: Project
    prompt: Prompt
    candidates: Candidates
    purpose: str = ""
    gold_answer: dict[str, Any] | None = None


class Annotator(NamedTuple):
    pk: int
    username: str


class Assignment(NamedTuple):
    created_at: datetime


class Guideline(NamedTuple):
    version: int


OWN = ("id", "comparison_id", "written_id", "corrects_id", "kind", "strength", "margin", "ranking",
       "ratings", "acceptability", "comment", "active_ms", "withdrawn", "adjudication")  # fmt: skip
AROUND = ("written__text", "corrects__text", "comparison__prompt_id", "comparison__prompt__messages")
"""What formats read that hold what was said of which texts, and nothing else of what is recorded."""
OWN_TOO = ("flags", "shown_order", "late", "simulated", "imported", "supersedes_id", "created_at")
PROMPT_TOO = (
    "comparison__prompt__external_id", "comparison__prompt__split", "comparison__prompt__source",
)  # fmt: skip
COMPARISON_TOO = ("comparison__purpose", "comparison__gold_answer")
JUDGED_BY = ("annotator_id", "annotator__username", "assignment__created_at", "guideline__version")


def chunks(project: Project, selected: PreferenceQuerySet, *, everything: bool) -> Iterator[list[Preference]]:
    """The judgements, oldest first, in lists of a few hundred.

    One query fixes which rows these are and which of them are in force, and judgements never change: judging
    may go on while the file is sent.
    """
    later = Exists(Preference.objects.filter(supersedes=OuterRef("pk")))
    rows = selected.with_overruled().order_by("pk").annotate(replaced=later)
    # Of a million rows too: eight bytes each, negative for those replaced. Few are ever overruled.
    found = array("q")
    overruled: set[int] = set()
    for pk, replaced, decided in rows.values_list("pk", "replaced", "overruled").iterator():
        found.append(-pk if replaced else pk)
        if decided:
            overruled.add(pk)
    for start in range(0, len(found), CHUNK_ROWS):
        part = {abs(pk): pk < 0 for pk in found[start : start + CHUNK_ROWS]}
        by_id = read(project, list(part), everything=everything)
        for pk, preference in by_id.items():
            preference.overruled = pk in overruled
            preference.later = part[pk]  # type: ignore[attr-defined]  # for feedback.exchange.judgements
        yield [by_id[pk] for pk in part]


def read(project: Project, pks: list[int], *, everything: bool) -> dict[int, Preference]:
    """The judgements by id, each with what stands around it."""
    wanted = (*OWN, *OWN_TOO) if everything else OWN
    own = [field.attname for field in Preference._meta.concrete_fields if field.attname in wanted]
    around = (*AROUND, *PROMPT_TOO, *COMPARISON_TOO, *JUDGED_BY) if everything else AROUND
    rows = list(Preference.objects.filter(pk__in=pks).values_list(*own, *around))
    place = own.index("comparison_id")
    candidates = candidates_of({row[place] for row in rows})
    found = {}
    for row in rows:
        preference = Preference.from_db(connection.alias, own, row[: len(own)])
        written, corrects, prompt_id, messages, *more = row[len(own) :]
        rest = iter(more)  # empty unless `everything`: then the tuples below have their usual values
        prompt = Prompt(prompt_id, messages, *islice(rest, len(PROMPT_TOO)))
        shown = candidates.get(preference.comparison_id, Candidates())
        facts = islice(rest, len(COMPARISON_TOO))
        cache = preference._state.fields_cache  # where Django keeps related rows
        cache["written"] = text_of(preference.written_id, written)
        cache["corrects"] = text_of(preference.corrects_id, corrects)
        cache["comparison"] = Comparison(preference.comparison_id, project, prompt, shown, *facts)
        if everything:
            annotator_id, username, opened, version = rest
            cache["annotator"] = Annotator(annotator_id, username)
            cache["assignment"] = None if opened is None else Assignment(opened)
            cache["guideline"] = None if version is None else Guideline(version)
        found[preference.pk] = preference
    return found


def text_of(pk: int | None, text: str) -> Text | None:
    return None if pk is None else Text(pk, text)


def candidates_of(comparisons: set[int]) -> dict[int, Candidates]:
    """The candidates of each comparison, by position."""
    columns = ("comparison", *(f"completion__{name}" for name in Text._fields))
    rows = Candidate.objects.filter(comparison__in=comparisons).order_by("comparison", "position")
    found: dict[int, Candidates] = {}
    for comparison, *facts in rows.values_list(*columns):
        text = Text(*facts)
        found.setdefault(comparison, Candidates()).append(Shown(text, text.pk))
    return found
