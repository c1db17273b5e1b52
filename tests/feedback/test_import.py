"""Imports into the database: what a row becomes, and that the same rows again change nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.utils import timezone

from feedback import imports, tasks
from feedback.models import (
    Assignment,
    Comparison,
    Completion,
    DataImport,
    Preference,
    Project,
    Prompt,
    User,
)
from feedback.queue import GOLD_OVERLAP
from tests.factories import make_preference, make_project
from tests.feedback.exporting import lines
from tests.feedback.importing import THREE, Killed, die_at, imported, number_of_rows, pairs, upload

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("batches_of_one_size")]

# --- what a row becomes -----------------------------------------------------------------------------


def test_a_recorded_preference_can_train_at_once(project: Project) -> None:
    done = imported(project, THREE)
    assert (done.state, done.counts) == (
        "done",
        {"rows": 3, "prompts": 2, "completions": 5, "comparisons": 3, "preferences": 3},
    )
    told = {
        (pair.chosen.prompt.last_message, pair.chosen.text, pair.rejected.text, pair.margin)
        for preference in Preference.objects.current()
        for pair in preference.pairs()
    }
    assert told == {("p", "a", "b", 2.0), ("p", "c", "a", 2.0), ("q", "x", "y", 2.0)}
    assert {comparison.state for comparison in Comparison.objects.all()} == {"done"}
    assert {completion.source for completion in Completion.objects.all()} == {"imported"}


def test_imported_judgements_are_marked_and_out_of_human_statistics(project: Project) -> None:
    imported(project, THREE)
    make_preference(project=project)
    importer = User.objects.get(username=f"imported-{project.slug}")
    assert not importer.is_active and not importer.has_usable_password() and not importer.simulated
    assert set(Preference.objects.filter(imported=True).values_list("annotator", flat=True)) == {importer.pk}
    assert Preference.objects.by_people().count() == 1
    assert {tuple(row.shown_order) for row in Preference.objects.filter(imported=True)} == {()}
    assert not project.memberships.filter(user=importer).exists()


def test_the_canonical_order_tells_nothing_of_the_choice(project: Project) -> None:
    rows = [(f"prompt {n}", f"good {n}", f"bad {n}") for n in range(400)]
    imported(project, pairs(*rows))
    first_chosen = Preference.objects.filter(strength__lt=0).count()
    assert 150 < first_chosen < 250  # 5 standard deviations of a fair coin

    other = make_project()
    imported(other, pairs(*[(prompt, rejected, chosen) for prompt, chosen, rejected in rows]))
    for prompt in ("prompt 1", "prompt 2", "prompt 3"):
        orders = [
            [candidate.completion.text for candidate in comparison.candidates.all()]
            for comparison in Comparison.objects.all()
            if comparison.prompt.last_message == prompt
        ]
        assert orders[0] == orders[1]  # the same two texts stand alike, whichever was chosen


def test_pairs_can_be_put_up_for_judging_instead(project: Project) -> None:
    Project.objects.filter(pk=project.pk).update(overlap=3)
    project.refresh_from_db()
    done = imported(project, THREE, options={"put_up": True})
    assert done.counts["comparisons"] == 3 and "preferences" not in done.counts
    assert set(Comparison.objects.values_list("state", "overlap", "purpose")) == {("open", 3, "training")}
    assert not Preference.objects.exists() and not Assignment.objects.exists()


@pytest.mark.parametrize(("options", "wanted"), [({}, (0, "done")), ({"put_up": True}, (1, "open"))])
def test_what_is_new_misses_what_it_does_not_bring(
    project: Project, options: dict[str, bool], wanted: tuple[int, str]
) -> None:
    imported(project, THREE, options=options)
    assert list(Comparison.objects.values_list("missing", "state")) == [wanted] * 3


def test_new_prompts_are_for_what_the_form_said(project: Project) -> None:
    done = imported(project, "One\nTwo\n", name="a.txt", options={"split": "held_out"})
    assert list(Prompt.objects.values_list("split", "source")) == [("held_out", f"import {done.pk}")] * 2


def judgement() -> Preference:
    (row,) = Preference.objects.all()
    return row


def test_a_ranking_of_a_file_is_a_ranking_here(project: Project) -> None:
    row = {"prompt": "p", "completions": ["a", "b", "c", "d"], "ranking": [[3], [0, 1], [2]]}
    done = imported(project, json.dumps(row))
    assert done.counts == {"rows": 1, "prompts": 1, "completions": 4, "comparisons": 1, "preferences": 1}
    found = {
        (pair.chosen.text, pair.rejected.text, pair.margin) for pair in judgement().pairs() if not pair.tie
    }
    assert found == {("d", "a", 1.0), ("d", "b", 1.0), ("a", "c", 1.0), ("b", "c", 1.0), ("d", "c", 2.0)}
    assert (judgement().kind, judgement().comparison.kind) == ("ranking", "ranking")
    # The same said in another order is the same.
    same = {"prompt": "p", "completions": ["d", "c", "b", "a"], "ranking": [[0], [2, 3], [1]]}
    assert imported(project, json.dumps(same)).counts == {"rows": 1, "unchanged": 1}
    other = {**row, "ranking": [[2], [0, 1], [3]]}
    assert imported(project, json.dumps(other)).counts["preferences"] == 1


def test_ratings_ties_corrections_and_demonstrations_of_a_file(project: Project) -> None:
    content = [
        {"prompt": "rated", "completions": ["a", "b"], "ratings": [{"helpful": 5}, {"helpful": 2}]},
        {"prompt": "tied", "completions": ["a", "b"], "preferences": [{"tie": [0, 1]}]},
        {"prompt": "mended", "completions": ["a"], "corrections": [{"of": 0, "text": "A!"}]},
    ]
    done = imported(project, "".join(json.dumps(row) + "\n" for row in content))
    assert (done.counts["comparisons"], done.counts["preferences"], done.counts["completions"]) == (3, 3, 6)
    rated, tied, mended = Preference.objects.order_by("pk")
    assert [(pair.chosen.text, pair.margin) for pair in rated.pairs()] == [("a", 3.0)]
    assert [(pair.tie, pair.margin) for pair in tied.pairs()] == [(True, 0.0)]
    assert [(pair.chosen.text, pair.rejected.text) for pair in mended.pairs()] == [("A!", "a")]
    assert mended.written is not None and mended.written.source == "corrected"
    assert mended.written.corrected_from == mended.corrects
    imported(project, json.dumps({"prompt": "shown", "completion": "so"}))
    shown = Preference.objects.order_by("-pk")[0]
    assert [text.text for text in shown.demonstrations()] == ["so"] and shown.pairs() == []
    assert shown.written is not None and shown.written.source == "written"


def test_both_bad_of_a_battle_is_kept_and_trains_nothing(project: Project) -> None:
    sides = {
        f"conversation_{side}": [{"role": "user", "content": "p"}, {"role": "assistant", "content": side}]
        for side in "ab"
    }
    imported(project, json.dumps({"winner": "tie (bothbad)", **sides}))
    assert (judgement().strength, judgement().acceptability, judgement().pairs()) == (0, "neither", [])


def test_completions_alone_are_kept_and_can_be_put_up(project: Project) -> None:
    row = json.dumps({"prompt": "p", "completions": ["a", "b", "c"]})
    assert imported(project, row).counts == {"rows": 1, "prompts": 1, "completions": 3}
    done = imported(project, row, options={"put_up": True})
    assert done.counts == {"rows": 1, "comparisons": 3}
    assert imported(project, row, options={"put_up": True}).counts == {"rows": 1, "unchanged": 1}
    ranks = make_project(kind="ranking", candidates=3)
    many = json.dumps({"prompt": "p", "completions": [str(number) for number in range(11)]})
    imported(ranks, many, options={"put_up": True})
    sizes = sorted(one.candidates.count() for one in Comparison.objects.filter(project=ranks))
    assert sizes == [3, 8]
    assert set(Comparison.objects.filter(project=ranks).values_list("kind", "state")) == {("ranking", "open")}


def test_people_whom_a_file_tells_apart_share_a_comparison(project: Project) -> None:
    def task(who: int, side: str) -> dict[str, Any]:
        result = [{"from_name": "pw", "to_name": "pw", "type": "pairwise", "value": {"selected": side}}]
        return {"result": result, "completed_by": who}

    data = {"prompt": "p", "answer1": "a", "answer2": "b"}
    tasks_of = {"data": data, "annotations": [task(1, "left"), task(2, "right"), task(3, "left")]}
    done = imported(project, json.dumps([tasks_of]), name="a.json")
    assert (done.counts["comparisons"], done.counts["preferences"]) == (1, 3)
    assert Preference.objects.values("annotator").distinct().count() == 3
    names = set(Preference.objects.values_list("annotator__username", flat=True))
    assert names == {f"imported-{project.slug}.{who}" for who in (1, 2, 3)}
    assert not User.objects.filter(username__in=names, is_active=True).exists()
    assert imported(project, json.dumps([tasks_of]), name="b.json").counts == {"rows": 1, "unchanged": 1}
    # One more annotation in a later export of the same project is added, the rest is there.
    tasks_of["annotations"].append(task(4, "left"))  # type: ignore[attr-defined]
    later = imported(project, json.dumps([tasks_of]), name="c.json")
    assert later.counts == {"rows": 1, "preferences": 1}
    assert list(Comparison.objects.values_list("missing", "state")) == [(0, "done")]
    # A changed mind elsewhere does not make two judgements of one person.
    tasks_of["annotations"] = [task(1, "right")]
    assert imported(project, json.dumps([tasks_of]), name="d.json").counts == {"rows": 1, "left_out": 1}


def test_the_first_judgement_of_a_person_counts_where_a_file_holds_two(project: Project) -> None:
    def task(*said: tuple[int, str]) -> str:
        annotations = [
            {
                "completed_by": who,
                "result": [{"from_name": "pw", "to_name": "pw", "value": {"selected": side}}],
            }
            for who, side in said
        ]
        data = {"prompt": "p", "answer1": "a", "answer2": "b"}
        return json.dumps([{"data": data, "annotations": annotations}])

    done = imported(project, task((1, "left"), (2, "left"), (1, "right")), name="a.json")
    assert (done.counts["comparisons"], done.counts["preferences"], done.counts["left_out"]) == (1, 2, 1)
    [first] = Preference.objects.filter(annotator__username=f"imported-{project.slug}.1")
    assert first.pairs()[0].chosen.text == "a"
    # The comparison is there now, its person not, nor with either of two further judgements.
    assert imported(project, task((1, "left"), (1, "right")), name="b.json").counts["left_out"] == 1
    later = imported(project, task((3, "right"), (3, "left")), name="c.json")
    assert later.counts == {"rows": 1, "preferences": 1, "left_out": 1}


def test_gold_comparisons_can_be_put_up_from_a_file(project: Project) -> None:
    row = {
        "judgement": 1, "project": "elsewhere", "comparison": 1, "purpose": "gold", "kind": "pairwise",
        "messages": [{"role": "user", "content": "p"}], "candidates": [{"text": "a"}, {"text": "b"}],
        "gold_answer": {"strength": 3}, "strength": 1, "in_force": True,
    }  # fmt: skip
    imported(project, json.dumps(row), options={"put_up": True})
    (comparison,) = Comparison.objects.all()
    assert (comparison.purpose, comparison.gold_answer, comparison.state) == ("gold", {"strength": 3}, "open")
    assert [candidate.completion.text for candidate in comparison.candidates.all()] == ["a", "b"]
    assert not Preference.objects.exists()
    # Everybody is to meet it: no number of judgements makes it done.
    assert comparison.overlap == GOLD_OVERLAP


def test_rows_of_one_object_are_written_together(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import that dies within a tree must not take it for written."""
    replies = [
        {"role": "assistant", "text": f"a{n}", "rank": n, "message_id": f"a{n}", "replies": [
            {"role": "prompter", "text": f"q{n}", "message_id": f"q{n}", "replies": [
                {"role": "assistant", "text": "x", "message_id": f"x{n}"}]}]}
        for n in range(150)
    ]  # fmt: skip
    trees = [
        {"message_tree_id": f"t{n}", "prompt": {"role": "prompter", "text": f"p{n}", "replies": replies[:60]}}
        for n in range(5)
    ]
    data_import = upload(project, "".join(json.dumps(tree) + "\n" for tree in trees))
    with monkeypatch.context() as patched:
        die_at(patched, 2)
        with pytest.raises(Killed):
            imports.run_import(data_import)
    data_import.refresh_from_db()
    assert data_import.last_line == 2  # 61 rows each: the second tree filled the first batch
    DataImport.objects.update(heartbeat_at=timezone.now() - timezone.timedelta(seconds=120))
    assert imports.take_back() == [data_import.pk]
    tasks.run_import(data_import.pk)
    data_import.refresh_from_db()
    assert data_import.state == "done"
    assert (Prompt.objects.count(), Preference.objects.count()) == (5 * 61, 5)


def test_nothing_is_opened_after_it_was_judged(project: Project) -> None:
    """A file that does not say when, or says nonsense: then nobody knows."""

    def row(number: int, **times: str) -> dict[str, Any]:
        return {
            "judgement": number, "project": "elsewhere", "comparison": number, "purpose": "training",
            "kind": "pairwise", "messages": [{"role": "user", "content": "p"}],
            "candidates": [{"text": "a"}, {"text": f"b{number}"}], "strength": 1, "in_force": True, **times,
        }  # fmt: skip

    early, late = "2026-01-31T11:59:20+00:00", "2026-01-31T12:00:00+00:00"
    given = [
        {"opened_at": early, "judged_at": late}, {"judged_at": late},
        {"opened_at": late, "judged_at": early}, {},
    ]  # fmt: skip
    imported(project, "".join(json.dumps(row(n, **times)) + "\n" for n, times in enumerate(given, 1)))
    for preference in Preference.objects.select_related("assignment"):
        assert preference.assignment is not None
        assert preference.assignment.created_at <= preference.created_at
    assert [line["opened_at"] for line in lines(project, "judgements")] == [early, None, None, None]


# --- again ------------------------------------------------------------------------------------------


def test_the_same_file_again_changes_nothing(project: Project) -> None:
    imported(project, THREE)
    before = number_of_rows()
    again = imported(project, THREE)
    assert number_of_rows() == before
    assert again.counts == {"rows": 3, "unchanged": 3}


def test_rows_of_other_files_and_within_a_file_are_not_doubled(project: Project) -> None:
    imported(project, THREE)
    mixed = imported(project, THREE + pairs(("q", "x", "z"), ("q", "x", "z")), name="more.jsonl")
    assert (mixed.counts["comparisons"], mixed.counts["completions"], mixed.counts["unchanged"]) == (1, 1, 4)


def test_two_people_who_disagree_are_both_kept(project: Project) -> None:
    done = imported(project, pairs(("p", "a", "b"), ("p", "b", "a")))
    assert done.counts["preferences"] == 2 and done.counts["completions"] == 2
    texts = {
        (pair.chosen.text, pair.rejected.text) for row in Preference.objects.all() for pair in row.pairs()
    }
    assert texts == {("a", "b"), ("b", "a")}
    other = make_project()
    assert (
        imported(other, pairs(("p", "a", "b"), ("p", "b", "a")), options={"put_up": True}).counts[
            "comparisons"
        ]
        == 1
    )


def test_two_projects_share_nothing(project: Project) -> None:
    imported(project, THREE)
    other = imported(make_project(), THREE)
    assert other.counts["preferences"] == 3
    assert Preference.objects.count() == 6


def test_prompts_again_are_counted_as_there(project: Project) -> None:
    imported(project, "One\nTwo\n", name="a.txt")
    again = imported(project, "Two\nThree\nThree\n", name="b.txt")
    assert (again.counts["prompts"], again.counts["unchanged"]) == (1, 2)
