"""Files out: what each format holds, and that the same state gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from feedback import adjudication
from feedback.exports import ExportFormat, Selection, export
from feedback.models import Preference, Project, Prompt, User
from tests.factories import (
    make_completion,
    make_member,
    make_preference,
    make_project,
    put_up,
)
from tests.feedback.exporting import (
    EVERYTHING,
    FORMATS,
    assistant,
    changed,
    compared,
    imported,
    lines,
    pairs_of,
    told,
    user,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("batches_of_one_size")]

# --- rows by hand -----------------------------------------------------------------------------------


RANKED = [("d", "a", 1.0), ("d", "b", 1.0), ("a", "c", 1.0), ("b", "c", 1.0), ("d", "c", 2.0)]


def test_trl_holds_every_pair_that_has_a_better_side(told_of: Project) -> None:
    assert lines(told_of)[0] == {
        "prompt": [user("Where?")],
        "chosen": [assistant("a")],
        "rejected": [assistant("c")],
        "margin": 3.0,
    }
    expected = [("a", "c", 3.0), *RANKED, ("a", "b", 2.0), ("y", "x", 1.0), ("y, mended", "y", 1.0)]
    expected += [("b", "a", 3.0), ("g", "e", 1.0)]
    assert sorted(pairs_of(told_of)) == sorted(expected)
    assert pairs_of(told_of)[-2:] == [("b", "a", 3.0), ("g", "e", 1.0)]  # oldest first


def test_hh_is_two_transcripts(project: Project) -> None:
    turns = [user("Hi"), assistant("Hello."), user("Name a fruit")]
    prompt = Prompt.objects.create(project=project, messages=turns)
    sides = [make_completion(prompt=prompt, text=text) for text in ("An anvil.", "An apple.")]
    make_preference(comparison=put_up(prompt, sides), strength=1)
    start = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Name a fruit\n\nAssistant: "
    assert lines(project, "hh") == [{"chosen": start + "An apple.", "rejected": start + "An anvil."}]


def test_unpaired_labels(project: Project) -> None:
    def labels(**fields: Any) -> dict[str, bool]:
        Preference.objects.all()
        own = make_project()
        kind = fields.pop("kind", "pairwise")
        comparison = compared(own, "a", "b", *fields.pop("more", ()), kind=kind)
        make_preference(comparison=comparison, **fields)
        return {row["completion"][0]["content"]: row["label"] for row in lines(own, "unpaired")}

    assert labels(strength=2) == {"a": False, "b": True}
    assert labels(strength=-1, acceptability="one") == {"a": True, "b": False}
    assert labels(strength=2, acceptability="both") == {"a": True, "b": True}
    assert labels(strength=2, acceptability="neither") == {"a": False, "b": False}
    assert labels(strength=0) == {}
    assert labels(strength=0, acceptability="both") == {"a": True, "b": True}
    assert labels(strength=0, acceptability="neither") == {"a": False, "b": False}
    # Whatever stands between the best and the worst is neither good nor bad.
    assert labels(kind="ranking", more=("c", "d"), ranking=[[2], [0, 1], [3]]) == {"c": True, "d": False}
    rated = [{"helpful": 5, "honest": 2}, {"helpful": 4, "honest": 2}]
    assert labels(kind="rating", ratings=rated) == {"a": True}  # b is in the middle


def test_demonstrations_hold_what_people_wrote(told_of: Project) -> None:
    assert lines(told_of, "demonstrations") == [
        {"prompt": [user("Mended?")], "completion": [assistant("y, mended")]},
        {"prompt": [user("Shown?")], "completion": [assistant("like this")]},
    ]


def test_label_studio_tasks(project: Project) -> None:
    comparison = compared(project, "a", "b")
    make_preference(comparison=comparison, strength=-3, active_ms=21400, comment="short")
    (task,) = json.loads(told(project, "label_studio"))
    assert task["data"] == {"prompt": "Where?", "messages": [user("Where?")], "answer1": "a", "answer2": "b"}
    (annotation,) = task["annotations"]
    assert annotation["lead_time"] == 21.4 and annotation["was_cancelled"] is False
    assert annotation["result"][0] == {
        "from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": "left"}
    }  # fmt: skip
    assert json.loads(told(make_project(), "label_studio")) == []


def test_csv_is_safe_in_a_spreadsheet(project: Project) -> None:
    comparison = compared(project, "=1+1", "+a", question='@SUM("x")\r\nnext')
    make_preference(comparison=comparison, strength=-2)
    content = told(project, "csv").decode()
    assert list(csv.reader(io.StringIO(content, newline=""))) == [
        ["prompt", "messages", "chosen", "rejected", "margin"],
        ['\'@SUM("x")\r\nnext', "", "'=1+1", "'+a", "2.0"],
    ]


def test_everything_that_is_recorded(told_of: Project) -> None:
    rows = lines(told_of, "judgements", EVERYTHING)
    assert len(rows) == Preference.objects.filter(comparison__project=told_of).count() == 14
    first = rows[0]
    row = Preference.objects.get(pk=first["judgement"])
    candidates = [candidate.completion for candidate in row.comparison.candidates.all()]
    assert {key: first[key] for key in first if key not in ("candidates", "annotator")} == {
        "judgement": row.pk,
        "project": told_of.slug,
        "comparison": row.comparison_id,
        "purpose": "training",
        "kind": "pairwise",
        "margin": None,
        "prompt": {"id": row.comparison.prompt_id, "external_id": "", "split": "train", "source": ""},
        "messages": [user("Where?")],
        "gold_answer": None,
        "strength": 2,
        "ranking": [],
        "ratings": [],
        "acceptability": "one",
        "written": None,
        "corrects": None,
        "flags": [],
        "comment": "so",
        "shown_order": row.shown_order,
        "guideline": row.guideline.version if row.guideline else None,
        "opened_at": row.assignment and row.assignment.created_at.isoformat(),
        "judged_at": row.created_at.isoformat(),
        "active_ms": row.active_ms,
        "late": False,
        "simulated": False,
        "imported": False,
        "withdrawn": False,
        "supersedes": None,
        "in_force": False,
        "adjudication": False,
        "overruled": False,
    }
    assert [(one["completion"], one["text"]) for one in first["candidates"]] == [
        (completion.pk, completion.text) for completion in candidates
    ]
    later = next(one for one in rows if one["supersedes"] == row.pk)
    assert later["in_force"] and later["strength"] == 3 and later["annotator"] == first["annotator"]
    gold = next(one for one in rows if one["purpose"] == "gold")
    assert gold["gold_answer"] == {"strength": 2}
    mended = next(one for one in rows if one["corrects"] is not None)
    assert (mended["corrects"], mended["written"]["text"]) == (1, "y, mended")


def test_an_annotator_has_a_pseudonym_of_the_project(project: Project, settings: Any) -> None:
    somebody = make_member(project=project)
    other = make_project()
    for own in (project, project, other):
        make_preference(project=own, annotator=somebody)
    (one, two), (three,) = (lines(own, "judgements") for own in (project, other))
    assert one["annotator"] == two["annotator"] != three["annotator"]
    assert somebody.username not in json.dumps([one, three])


# --- which judgements -------------------------------------------------------------------------------


def test_a_selection_by_purpose_split_time_annotator_and_origin(told_of: Project) -> None:
    assert pairs_of(told_of, purposes=("gold",)) == [("h", "g", 1.0)]
    assert pairs_of(told_of, purposes=("review",)) == [("j", "i", 1.0)]
    assert len(pairs_of(told_of, purposes=())) == len(pairs_of(told_of)) + 2
    assert len(pairs_of(told_of, include_simulated=False)) == len(pairs_of(told_of)) - 1
    assert pairs_of(told_of, split="held_out") == []
    Prompt.objects.filter(messages=[user("Mended?")]).update(split="held_out")
    assert pairs_of(told_of, split="held_out") == [("y", "x", 1.0), ("y, mended", "y", 1.0)]
    assert pairs_of(told_of, since=datetime(2100, 1, 1, tzinfo=UTC)) == []
    mender = Preference.objects.exclude(corrects=None).get().annotator_id
    assert pairs_of(told_of, annotator=mender) == [("y", "x", 1.0), ("y, mended", "y", 1.0)]
    imported(told_of, '{"prompt": "p", "chosen": "new", "rejected": "old"}\n')
    assert ("new", "old", 2.0) in pairs_of(told_of)
    assert ("new", "old", 2.0) not in pairs_of(told_of, include_imported=False)


def test_judgements_no_longer_in_force_only_stand_where_everything_stands(told_of: Project) -> None:
    current = {row["judgement"] for row in lines(told_of, "judgements", Selection(purposes=()))}
    every = {row["judgement"]: row["in_force"] for row in lines(told_of, "judgements", EVERYTHING)}
    assert {pk for pk, in_force in every.items() if in_force} == current
    assert len(every) == len(current) + 3
    for format in ("trl", "hh", "unpaired", "csv", "demonstrations", "label_studio"):
        assert told(told_of, format, EVERYTHING) == told(told_of, format, Selection(purposes=()))


def test_judging_during_an_export_does_not_change_it(
    told_of: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.exported_rows.CHUNK_ROWS", 2)
    before = told(told_of, "judgements", EVERYTHING)
    pieces = export(told_of, ExportFormat.JUDGEMENTS, EVERYTHING)
    first = next(pieces)
    last = Preference.objects.filter(comparison__project=told_of).order_by("-pk")[0]
    changed(last, strength=-3)
    make_preference(project=told_of)
    assert first + b"".join(pieces) == before


def test_a_decision_during_an_export_does_not_change_it(
    told_of: Project, reviewer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("feedback.exported_rows.CHUNK_ROWS", 2)
    before = told(told_of, "judgements")
    pieces = export(told_of, ExportFormat.JUDGEMENTS, Selection())
    first = next(pieces)
    last = Preference.objects.filter(comparison__project=told_of, comparison__purpose="training").in_force()
    comparison = last.filter(kind="pairwise").order_by("-pk")[0].comparison
    adjudication.adjudicate(comparison, reviewer, {"strength": -3}, since=None)
    assert first + b"".join(pieces) == before
    assert [row["overruled"] for row in lines(told_of, "judgements")].count(True) == 1


@pytest.mark.parametrize("format", FORMATS)
def test_two_exports_of_the_same_state_are_the_same_bytes(told_of: Project, format: str) -> None:
    assert told(told_of, format, EVERYTHING) == told(told_of, format, EVERYTHING)
    assert told(make_project(), format) == told(make_project(), format)


def test_an_export_asks_few_questions_however_many_rows(
    project: Project, django_assert_max_num_queries: Any
) -> None:
    imported(
        project,
        "".join(json.dumps({"prompt": f"p{n}", "chosen": "a", "rejected": "b"}) + "\n" for n in range(450)),
    )
    assert [row["prompt"] for row in lines(project)] == [[user(f"p{n}")] for n in range(450)]
    for format in ("trl", "hh", "unpaired", "demonstrations", "csv", "label_studio", "judgements"):
        with django_assert_max_num_queries(1 + 2 * 2):
            told(project, format)


@pytest.mark.parametrize("format", FORMATS)
def test_no_kind_of_judgement_asks_questions_of_its_own(
    told_of: Project, format: str, django_assert_max_num_queries: Any
) -> None:
    with django_assert_max_num_queries(3):
        told(told_of, format, EVERYTHING)
