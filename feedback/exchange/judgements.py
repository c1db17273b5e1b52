"""Everything that is recorded of a judgement, as this application writes it; other exports are parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from feedback.exchange.prompts import object_in, ranking_of, ratings_of
from feedback.exchange.rows import (
    ACCEPTABILITY,
    MAX_COMMENT,
    MAX_NAME,
    Judged,
    Row,
    different,
    external_id_of,
    list_in,
    margin_in,
    one_of,
    optional_list,
    prompt_in,
    required,
    short,
    text_in,
    time_in,
    whole_number,
    wrong_type,
    yes_or_no,
)
from feedback.lines import BadRow
from feedback.models import Completion, Preference, Project, User

KINDS = ("pairwise", "ranking", "rating", "demonstration")
PURPOSES = ("training", "gold", "review")
ANSWERS = ("strength", "ranking", "ratings")
COLUMNS = (
    "judgement", "project", "comparison", "purpose", "kind", "prompt", "messages", "candidates",
    "gold_answer", *ANSWERS, "margin", "acceptability", "written", "corrects", "flags", "comment",
    "shown_order", "annotator", "guideline", "opened_at", "judged_at", "active_ms", "late", "simulated",
    "imported", "withdrawn", "supersedes", "in_force", "adjudication", "overruled",
)  # fmt: skip
PROMPT_COLUMNS = ("id", "external_id", "split", "source")
DAY_MS = 24 * 3600 * 1000


def fits(data: dict[str, Any]) -> bool:
    return "judgement" in data and "candidates" in data


# --- in ---------------------------------------------------------------------------------------------


def read(data: dict[str, Any], line: int) -> Row:
    """Judgements taken back or replaced count for nothing; their prompts and completions stay."""
    texts = different((text_in(value, "text") for value in objects_in(data, "candidates")), "candidates")
    judged: tuple[Judged, ...] = ()
    if yes_or_no(data, "in_force") and not data.get("withdrawn"):
        said = judgement(data, texts)
        judged = correction_alone(said) if data.get("overruled") else (said,)
    return Row(
        line,
        prompt_in(data, "messages"),
        external_id_of(object_in(data.get("prompt") or {}, "prompt", PROMPT_COLUMNS), "external_id"),
        texts,
        judged,
        origin=f"{text_in(data, 'project')}/{whole_number(data, 'comparison', 1, 2**63 - 1)}",
        exported=(whole_number(data, "judgement", 1, 2**63 - 1), time_in(data, "judged_at")),
        ordered=True,
    )


def objects_in(data: dict[str, Any], name: str) -> list[dict[str, Any]]:
    values = list_in(data, name)
    for value in values:
        if not isinstance(value, dict):
            raise wrong_type(name, _("a list of objects"), value)
    return values


def judgement(data: dict[str, Any], texts: tuple[str, ...]) -> Judged:
    kind = one_of(data, "kind", KINDS)
    purpose = one_of(data, "purpose", PURPOSES)
    wanted = 2 if kind == "pairwise" else 1 if kind == "rating" else 0
    if len(texts) < wanted or (kind == "pairwise" and len(texts) > wanted):
        facts = {"kind": kind, "wanted": wanted, "found": len(texts)}
        raise BadRow(_("'candidates': %(kind)s needs %(wanted)d, found %(found)d") % facts)
    written = data.get("written")
    corrects = data.get("corrects")
    return Judged(
        kind,
        tuple(range(len(texts))),
        **answer_of(data, kind, len(texts)),
        written=None
        if written is None
        else text_in(object_in(written, "written", ("completion", "text")), "text"),
        corrects=None if corrects is None else whole_number(data, "corrects", 0, len(texts) - 1),
        acceptability=one_of(data, "acceptability", ACCEPTABILITY) if data.get("acceptability") else "",
        flags=tuple(short(flag, "flags", MAX_NAME) for flag in optional_list(data, "flags")),
        comment=short(data.get("comment") or "", "comment", MAX_COMMENT),
        by=short(data.get("annotator") or "", "annotator", MAX_NAME),
        opened=time_in(data, "opened_at"),
        at=time_in(data, "judged_at"),
        active_ms=None if data.get("active_ms") is None else whole_number(data, "active_ms", 0, DAY_MS),
        shown=shown_order(data, len(texts)),
        simulated=bool(data.get("simulated")),
        late=bool(data.get("late")),
        purpose=purpose,
        gold_answer=gold_answer(data, len(texts)) if purpose == "gold" else None,
    )


def correction_alone(said: Judged) -> tuple[Judged, ...]:
    """What stays of a judgement that was overruled: no word of the order, but what its annotator mended."""
    if said.written is None or said.corrects is None:
        return ()
    plain = Judged("rating", (said.corrects,), written=said.written, corrects=said.corrects)
    return (plain._replace(by=said.by, at=said.at, simulated=said.simulated, late=said.late),)


def answer_of(data: dict[str, Any], kind: str, number: int) -> dict[str, Any]:
    if kind == "pairwise":
        return {"strength": whole_number(data, "strength", -3, 3), "margin": margin_in(data)}
    if kind == "ranking":
        return {"ranking": ranking_of(required(data, "ranking"), number)}
    if kind == "rating" and data.get("ratings"):
        return {"ratings": ratings_of(data["ratings"], number)}
    if kind == "demonstration":
        required(data, "written")
    return {}


def gold_answer(data: dict[str, Any], number: int) -> dict[str, Any]:
    given = object_in(required(data, "gold_answer"), "gold_answer", ANSWERS)
    if given.get("strength") is not None:
        return {"strength": whole_number(given, "strength", -3, 3)}
    if given.get("ranking") is not None:
        return {"ranking": [list(group) for group in ranking_of(given["ranking"], number)]}
    return {"ratings": list(ratings_of(required(given, "ratings"), number))}


def shown_order(data: dict[str, Any], number: int) -> tuple[int, ...]:
    if not data.get("shown_order"):
        return ()
    groups = ranking_of(data["shown_order"], number, "shown_order")
    return tuple(place for group in groups for place in group)


# --- out --------------------------------------------------------------------------------------------


def write(preference: Preference) -> Iterator[dict[str, Any]]:
    comparison = preference.comparison
    prompt = comparison.prompt
    candidates = [candidate.completion for candidate in comparison.candidates.all()]
    later = preference.later  # type: ignore[attr-defined]  # set by feedback.exported_rows
    yield {
        "judgement": preference.pk,
        "project": comparison.project.slug,
        "comparison": comparison.pk,
        "purpose": comparison.purpose,
        "kind": preference.kind,
        "prompt": {
            "id": prompt.pk, "external_id": prompt.external_id, "split": prompt.split, "source": prompt.source
        },
        "messages": prompt.messages,
        "candidates": [completion_facts(completion) for completion in candidates],
        "gold_answer": comparison.gold_answer,
        "strength": preference.strength,
        "margin": preference.margin,
        "ranking": preference.ranking,
        "ratings": preference.ratings,
        "acceptability": preference.acceptability,
        "written": preference.written
        and {"completion": preference.written.pk, "text": preference.written.text},
        "corrects": position_of(preference.corrects_id, candidates),
        "flags": preference.flags,
        "comment": preference.comment,
        "shown_order": preference.shown_order,
        "annotator": pseudonym(comparison.project, preference.annotator),
        "guideline": preference.guideline and preference.guideline.version,
        "opened_at": opened_at(preference),
        "judged_at": preference.created_at.isoformat(),
        "active_ms": preference.active_ms,
        "late": preference.late,
        "simulated": preference.simulated,
        "imported": preference.imported,
        "withdrawn": preference.withdrawn,
        "supersedes": preference.supersedes_id,
        "in_force": not preference.withdrawn and not later,
        "adjudication": preference.adjudication,
        "overruled": preference.overruled,
    }  # fmt: skip


def opened_at(preference: Preference) -> str | None:
    """None where nobody knows: an imported judgement may have been opened no earlier than it was judged."""
    assignment = preference.assignment
    if assignment is None or (preference.imported and assignment.created_at >= preference.created_at):
        return None
    return assignment.created_at.isoformat()


def completion_facts(completion: Completion) -> dict[str, Any]:
    return {
        "completion": completion.pk,
        "text": completion.text,
        "source": completion.source,
        "model_version": completion.model_version_id,
        "sampling": completion.sampling,
        "token_count": completion.token_count,
        "finish_reason": completion.finish_reason,
        "logprob": completion.logprob,
    }


def position_of(completion_id: int | None, candidates: list[Completion]) -> int | None:
    return next((place for place, found in enumerate(candidates) if found.pk == completion_id), None)


def importer_name(project: Project) -> str:
    """The account that holds a project's imported judgements; accounts of people in files begin like it."""
    return f"imported-{project.slug}"


def pseudonym(project: Project, annotator: User) -> str:
    """Stands for one person in one project; nobody can turn it back without the installation's secret key."""
    own = importer_name(project)
    if annotator.username == own:
        return ""
    if annotator.username.startswith(f"{own}."):
        return annotator.username.removeprefix(f"{own}.")
    return keyed(f"{project.pk}/{annotator.pk}")


@lru_cache(maxsize=1000)
def keyed(value: str) -> str:
    return salted_hmac("feedback.exports", value).hexdigest()[:12]
