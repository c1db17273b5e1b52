"""People whom a file tells apart: nobody's judgements are put together or dropped without a word."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from feedback import imports
from feedback.models import DataImport, Preference, Project, User
from tests.feedback.importing import NO_ROWS, imported, number_of_rows
from tests.feedback.uploading import SignIn, an_import

pytestmark = pytest.mark.django_db
FEW = 3


@pytest.fixture
def few_people(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "MAX_PEOPLE", FEW)


def battle(number: int, judge: Any = None, winner: str = "model_a", **more: Any) -> str:
    sides = {
        f"conversation_{side}": [
            {"role": "user", "content": f"p{number}"},
            {"role": "assistant", "content": f"text {side}"},
        ]
        for side in "ab"
    }
    who = {} if judge is None else {"judge": judge}
    return json.dumps({**sides, "winner": winner, **who, **more}) + "\n"


def annotators() -> list[str]:
    rows = Preference.objects.order_by("pk").values_list("annotator__username", flat=True)
    return [name.partition(".")[2] for name in rows]


# --- who judged a battle ----------------------------------------------------------------------------


def test_who_judged_a_battle_is_kept(project: Project) -> None:
    long = "arena_user_" + "f" * 64
    imported(project, battle(1, "ann") + battle(2, 7) + battle(3, long) + battle(4))
    one, two, three, four = annotators()
    assert (one, two, four) == ("ann", "7", "")
    assert len(three) == 12, "a name that is no plain one is hashed"
    assert imported(project, battle(5, long)).counts["preferences"] == 1
    assert annotators()[-1] == three


def test_two_judges_of_one_battle_share_its_comparison(project: Project) -> None:
    done = imported(project, battle(1, "ann") + battle(1, "ben", winner="tie"))
    assert (done.counts["comparisons"], done.counts["preferences"]) == (1, 2)


def test_a_judge_that_is_no_name_is_a_bad_row(project: Project) -> None:
    done = imported(project, battle(1, ["gpt", "pair"]))
    assert [error["reason"] for error in done.errors] == [
        "'judge' must be text or a whole number, found a list"
    ]


# --- too many ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("few_people")
def test_more_people_than_get_accounts_stop_the_file(project: Project) -> None:
    done = imported(project, "".join(battle(number, f"user{number}") for number in range(FEW + 1)))
    assert done.state == "failed"
    assert [error["reason"] for error in done.errors] == [
        "the file tells more than 3 people apart, each of whom would get an account: "
        "choose “Leave out who judged”, or import it in parts"
    ]
    assert number_of_rows() == NO_ROWS


@pytest.mark.usefixtures("few_people")
def test_as_many_people_as_get_accounts_are_told_apart_in_each_part(project: Project) -> None:
    for part in (0, FEW):
        rows = (battle(number, f"user{number}") for number in range(part, part + FEW))
        assert imported(project, "".join(rows)).state == "done"
    assert annotators() == [f"user{number}" for number in range(2 * FEW)]


@pytest.mark.usefixtures("few_people")
@pytest.mark.parametrize("option", ["nameless", "put_up"])
def test_where_nobody_gets_an_account_nobody_is_counted(project: Project, option: str) -> None:
    content = "".join(battle(number, f"user{number}") for number in range(FEW + 1))
    assert imported(project, content, options={option: True}).state == "done"
    assert set(annotators()) == (set() if option == "put_up" else {""})


@pytest.mark.usefixtures("few_people")
def test_the_page_offers_to_leave_their_names_out(project: Project, engineer: User, sign_in: SignIn) -> None:
    content = "".join(battle(number, f"user{number}") for number in range(FEW + 1))
    failed = an_import(project, engineer, content.encode())
    imports.run_import(failed)
    client: Client = sign_in(engineer)
    html = client.get(reverse("import_detail", args=[project.slug, failed.pk])).content.decode()
    assert "Leave out who judged and import the rest" in html and "Skip bad rows and" not in html
    client.post(reverse("import_again", args=[project.slug, failed.pk]), {"do": "nameless"})
    again = DataImport.objects.get(state="queued")
    imports.run_import(again)
    assert Preference.objects.count() == FEW + 1
    assert set(annotators()) == {""}


# --- twice ------------------------------------------------------------------------------------------


def test_a_second_judgement_by_one_person_is_counted_as_left_out(project: Project) -> None:
    content = battle(1, "ann") + battle(1, "ann", winner="model_b") + battle(1, "ann") + battle(2, "ann")
    done = imported(project, content)
    assert done.counts == {
        "rows": 4, "prompts": 2, "completions": 4, "comparisons": 2, "preferences": 2, "left_out": 1,
        "unchanged": 1,
    }  # fmt: skip
    # Judged otherwise in another file: told again, and the same file says the same.
    for _time in range(2):
        later = imported(project, battle(1, "ann", winner="tie"), name="b.jsonl")
        assert later.counts == {"rows": 1, "left_out": 1}


def test_the_report_names_what_was_left_out(project: Project, engineer: User, sign_in: SignIn) -> None:
    done = an_import(project, engineer, (battle(1, "ann") + battle(1, "ann", winner="tie")).encode())
    imports.run_import(done)
    page = sign_in(engineer).get(reverse("import_detail", args=[project.slug, done.pk])).content.decode()
    assert "<dt>Second judgements by one person, left out</dt><dd>1</dd>" in page
