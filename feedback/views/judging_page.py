"""What the judging page shows of a comparison, and how its form is filled. Blind, as judging.py says."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, cast

from django.http import HttpRequest, QueryDict
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.safestring import SafeString
from django.utils.translation import get_language, gettext_lazy
from django.utils.translation import gettext as _

from feedback.forms import LETTERS, RATINGS, Flag, JudgementForm, SkipReason, Strength
from feedback.markdown import LONGEST_TEXT, completion_html
from feedback.models import Assignment, Candidate, ComparisonKind, Preference, Project
from feedback.people import USUAL_QUESTIONS
from feedback.recording import as_shown
from feedback.visible import Piece, pieces
from feedback.word_diff import Part, word_diff
from rlhf_app.prepared import Prepared, number

WHO = {
    "system": gettext_lazy("System"),
    "user": gettext_lazy("User"),
    "assistant": gettext_lazy("Assistant"),
}
SHORT_STEPS = ("A++", "A+", "A", "=", "B", "B+", "B++")
FLOOR_KEYS = {"both": "G", "one": "O", "neither": "N"}
FLOOR_WORDS = {
    "both": (gettext_lazy("Both"), gettext_lazy("Both")),
    "one": (gettext_lazy("Only the better"), gettext_lazy("One")),
    "neither": (gettext_lazy("Neither"), gettext_lazy("Neither")),
}
"""In full, and where there is little room."""
FLOOR_WORDS_OF_SEVERAL = {
    "both": (gettext_lazy("All"), gettext_lazy("All")),
    "one": (gettext_lazy("Only the best"), gettext_lazy("Best")),
    "neither": (gettext_lazy("None"), gettext_lazy("None")),
}
FOLD_OVER = 1_800
"""Characters of a completion that are shown before it is folded."""
FOLD_LINES = 30
VIEW_COOKIE = "judge_view"
QUESTIONS_OF_FEW = {
    (ComparisonKind.RANKING, 2): gettext_lazy("Which completion is better?"),
    (ComparisonKind.RATING, 1): gettext_lazy("How good is the completion?"),
}
"""However many a project asks for, a file may bring fewer."""
LONGEST_DRAFT = 60_000
DOCK_FIELDS = ("strength", "acceptability", "flags", "comment")
FILLED_FIELDS = ("strength", "acceptability", "comment", "written", "corrects")


class View(NamedTuple):
    """How this person likes to see texts: kept in a cookie, so that every answer already comes that way."""

    formatted: bool = False
    differences: bool = False


def view_of(request: HttpRequest) -> View:
    """Of the cookie's letters: m for Markdown, d for differences."""
    letters = request.COOKIES.get(VIEW_COOKIE, "")
    return View("m" in letters, "d" in letters)


class Chunk(NamedTuple):
    """A run of a text; `own` when the text it is compared with has it not."""

    text: list[Piece]
    own: bool

    @property
    def plain(self) -> str | None:
        """The text itself, which nearly always hides nothing."""
        return self.text[0].text if len(self.text) == 1 and not self.text[0].hidden else None


@dataclass(frozen=True)
class Text:
    """A text as it is shown: in chunks, or as HTML that has been made safe."""

    chunks: list[Chunk]
    html: SafeString | None = None


@dataclass(frozen=True)
class Side:
    """One completion as shown."""

    place: int
    letter: str
    shown: Text
    words: int
    folded: bool
    ranks: list[dict[str, Any]] = field(default_factory=list)
    criteria: list[dict[str, Any]] = field(default_factory=list)


def plain(text: str, view: View) -> Text:
    if view.formatted and len(text) <= LONGEST_TEXT:
        return Text([], completion_html(text))
    return Text([Chunk(pieces(text), False)])


def parts(found: list[Part]) -> Text:
    return Text([Chunk(pieces(part.text), not part.kept) for part in found])


def page_of(assignment: Assignment, filled: dict[str, Any], view: View) -> dict[str, Any]:
    """What the templates of judging and of deciding both show of a comparison."""
    kind = assignment.comparison.kind
    project, places = assignment.comparison.project, len(assignment.shown_order)
    return {
        "kind": kind,
        "question": question_of(project, ComparisonKind(kind), places),
        "turns": turns_of(assignment, view),
        "sides": sides_of(assignment, filled, view),
        "view": view,
        "written": filled.get("written", ""),
        "corrects": filled.get("corrects", ""),
        "choose_first": choose_first(kind, places),
    }


def question_of(project: Project, kind: ComparisonKind, places: int) -> Any:
    """The project's own question, else the one that fits the kind and how many completions there are."""
    if project.question not in map(str, USUAL_QUESTIONS.values()):
        return project.question
    return QUESTIONS_OF_FEW.get((kind, places), USUAL_QUESTIONS[kind])


def given_of(kind: str, places: int, filled: dict[str, Any]) -> dict[str, Any]:
    """What can be said, and what of it was."""
    several = kind == ComparisonKind.RANKING and places > 2
    floors = floors_of(filled.get("acceptability", ""), FLOOR_WORDS_OF_SEVERAL if several else FLOOR_WORDS)
    return {
        "steps": steps_of(filled.get("strength", "")),
        "floors": floors if kind in (ComparisonKind.PAIRWISE, ComparisonKind.RANKING) else [],
        "flags": [(value, label, value in filled.get("flags", [])) for value, label in Flag.choices],
        "comment": filled.get("comment", ""),
    }


@lru_cache(maxsize=1000)
def urls_of(slug: str) -> dict[str, str]:
    """The addresses in the page of a project."""
    verbs = {
        name: reverse(f"judge_{name}", args=[slug]) for name in ("renew", "ahead", "draft", "undo", "text")
    }
    return verbs | {name: reverse(name, args=[slug]) for name in ("judge", "progress", "guidelines")}


def dock_of(kind: str, slug: str, places: int, filled: dict[str, Any]) -> SafeString:
    """Where the judgement is given."""
    if any(filled.get(name) for name in DOCK_FIELDS) or filled.get("strength") == 0:
        return dock(kind, slug, places, filled)
    return empty_dock(kind, slug, places, get_language())


@lru_cache(maxsize=1000)
def empty_dock(kind: str, slug: str, places: int, language: str) -> SafeString:
    """Nothing in it is of one comparison or one person, so it is the same for the next."""
    return dock(kind, slug, places, {})


def dock(kind: str, slug: str, places: int, filled: dict[str, Any]) -> SafeString:
    context = {
        **given_of(kind, places, filled),
        "kind": kind,
        "sides": [{"place": place, "letter": LETTERS[place]} for place in range(places)],
        "skip_reasons": [(n, value, label) for n, (value, label) in enumerate(SkipReason.choices, 1)],
        "skip_url": reverse("judge_skip", args=[slug]),
    }
    return render_to_string(f"feedback/_judge_{kind}_dock.html", context)


def choose_first(kind: str, count: int) -> str:
    """What to do before confirming."""
    if kind == ComparisonKind.PAIRWISE:
        return _("Choose one of the seven steps first: keys 1 to 7.")
    if kind == ComparisonKind.RANKING and count == 2:
        return _("Rank both first: press their numbers, the better one first.")
    if kind == ComparisonKind.RANKING:
        return _("Rank all %d first: press their numbers, the best one first.") % count
    if kind == ComparisonKind.RATING and count == 1:
        return _("Rate it by every criterion first: keys 1 to 5.")
    if kind == ComparisonKind.RATING:
        return _("Rate every completion by every criterion first: keys 1 to 5.")
    return _("Write the completion first.")


def turns_of(assignment: Assignment, view: View) -> list[tuple[str, str, Text]]:
    """(role, who is speaking, text) of each turn of the prompt."""
    turns = assignment.comparison.prompt.messages
    return [(turn["role"], str(WHO[turn["role"]]), plain(turn["content"], view)) for turn in turns]


def texts_of(assignment: Assignment) -> list[str]:
    """The completions in the order drawn for this annotator."""
    if not assignment.shown_order:
        return []
    texts = dict(TEXTS.all(comparison=assignment.comparison_id))
    return [texts[position] for position in assignment.shown_order]


TEXTS = Prepared(
    lambda: (
        Candidate.objects.filter(comparison=number("comparison"))
        .order_by()
        .values_list("position", "completion__text")
    )
)


def sides_of(assignment: Assignment, filled: dict[str, Any], view: View) -> list[Side]:
    texts = texts_of(assignment)
    shown = compared(texts) if view.differences and len(texts) > 1 else [plain(text, view) for text in texts]
    kind = assignment.comparison.kind
    criteria = assignment.comparison.project.criteria if kind == ComparisonKind.RATING else []
    return [
        Side(
            place,
            LETTERS[place],
            shown[place],
            len(text.split()),
            len(text) > FOLD_OVER or text.count("\n") > FOLD_LINES,
            ranks_of(place, len(texts), filled) if kind == ComparisonKind.RANKING else [],
            criteria_of(place, criteria, filled),
        )
        for place, text in enumerate(texts)
    ]


def compared(texts: list[str]) -> list[Text]:
    """Each text with what it does not share with the first one; of two, both sides are marked."""
    first = texts[0]
    ours, theirs = word_diff(first, texts[1])
    if len(texts) == 2:
        return [parts(ours), parts(theirs)]
    return [parts([Part(first, True)]), *(parts(word_diff(first, text)[1]) for text in texts[1:])]


def ranks_of(place: int, count: int, filled: dict[str, Any]) -> list[dict[str, Any]]:
    own = str(filled.get(f"rank_{place}", ""))
    return [{"value": rank, "selected": own == str(rank)} for rank in range(1, count + 1)]


def criteria_of(place: int, criteria: list[str], filled: dict[str, Any]) -> list[dict[str, Any]]:
    found = []
    for n, name in enumerate(criteria):
        own = str(filled.get(f"rating_{place}_{n}", ""))
        scale = [{"value": step, "checked": own == str(step)} for step in RATINGS]
        found.append({"name": name, "field": f"rating_{place}_{n}", "scale": scale})
    return found


def steps_of(chosen: object) -> list[dict[str, Any]]:
    """The seven radio buttons."""
    return [
        {
            "value": value,
            "key": value + 4,
            "label": label,
            "short": short,
            "checked": str(value) == str(chosen),
        }
        for (value, label), short in zip(Strength.choices, SHORT_STEPS, strict=True)
    ]


def floors_of(chosen: object, words: dict[str, Any]) -> list[dict[str, Any]]:
    """The three radio buttons of "good enough?"."""
    return [
        {"value": value, "key": FLOOR_KEYS[value], "label": label, "brief": brief, "checked": value == chosen}
        for value, (label, brief) in words.items()
    ]


# --- what fills the form ----------------------------------------------------------------------------


def answer_in(form: JudgementForm) -> dict[str, Any]:
    """What a refused form said, so that nothing typed is lost."""
    said = {name: form.data.get(name, "") for name in [*FILLED_FIELDS, *form.fields]}
    return said | {"flags": cast(QueryDict, form.data).getlist("flags")}


def draft_in(posted: QueryDict, form: JudgementForm) -> dict[str, Any]:
    """What the form holds of a judgement, finished or not."""
    names = set(form.fields) - {"assignment", "fencing_token", "key", "active_ms", "flags"}
    draft: dict[str, Any] = {name: posted[name] for name in sorted(names) if posted.get(name)}
    return draft | {"flags": posted.getlist("flags")[: len(Flag.choices)]}


def answer_before(assignment: Assignment) -> dict[str, Any]:
    """What this annotator said before taking it back; empty at the first showing."""
    before = None
    if assignment.fencing_token > 1:
        before = assignment.preferences.filter(withdrawn=False).order_by("-pk").first()
    return answer_of(before, assignment.comparison.project.criteria) if before else {}


def answer_of(preference: Preference, criteria: list[str]) -> dict[str, Any]:
    """A recorded judgement as the fields of its form."""
    said = as_shown(preference.shown_order, preference.answer())
    order = preference.shown_order
    filled: dict[str, Any] = {
        "strength": "" if said.strength is None else said.strength,
        "acceptability": preference.acceptability,
        "flags": preference.flags,
        "comment": preference.comment,
        "written": preference.written.text if preference.written else "",
    }
    for rank, group in enumerate(said.ranking, 1):
        filled |= {f"rank_{place}": rank for place in group}
    for place, given in enumerate(said.ratings):
        filled |= {f"rating_{place}_{n}": given[name] for n, name in enumerate(criteria) if name in given}
    if preference.corrects_id:
        row = Candidate.objects.get(comparison=preference.comparison_id, completion=preference.corrects_id)
        filled["corrects"] = order.index(row.position)
    return filled
