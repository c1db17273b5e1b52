"""Rankings, ratings, corrections, demonstrations on the judging page: what is posted, what is recorded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from feedback.models import Assignment, Comparison, Completion, Preference, Project, User
from tests.factories import make_comparison, make_member, make_preference, make_project, make_prompt, put_up
from tests.feedback.judging import Annotator, form_in

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]
TEXTS = ("zero", "one", "two", "three")


def shown(mei: Annotator, order: list[int]) -> dict[str, str]:
    """The form of the comparison that mei has, shown in this order."""
    mei.get()
    Assignment.objects.update(shown_order=order)
    return form_in(mei.get())


def said() -> Preference:
    return Preference.objects.get()


# --- ranking ----------------------------------------------------------------------------------------


def test_a_ranking_is_recorded_on_positions(project: Project, mei: Annotator) -> None:
    make_comparison(project=project, kind="ranking", texts=TEXTS)
    fields = shown(mei, [3, 1, 0, 2])
    # On the screen: A (three) is second, B (one) first, C (zero) second as well, D (two) last.
    ranks = {"rank_0": "2", "rank_1": "1", "rank_2": "2", "rank_3": "4", "acceptability": "one"}
    assert mei.post(fields | ranks).status_code == 200
    row = said()
    assert (row.kind, row.strength, row.ranking) == ("ranking", None, [[1], [0, 3], [2]])
    assert (row.acceptability, row.shown_order) == ("one", [3, 1, 0, 2])
    page = mei.text(mei.client.get(reverse("progress", args=[project.slug])))
    assert "B &gt; A = C &gt; D" in page
    html = mei.post({}, mei.verb("undo")).content.decode()
    assert re.findall(r'name="rank_(\d)".*?<option value="(\d)" selected', html) == [
        ("0", "2"), ("1", "1"), ("2", "2"), ("3", "3"),
    ]  # fmt: skip
    assert Preference.objects.current().count() == 0


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ({"rank_0": "1", "rank_1": "2"}, "Rank every completion first"),
        ({"rank_0": "1", "rank_1": "2", "rank_2": "4"}, "Select a valid choice"),
        ({"rank_0": "1", "rank_1": "2", "rank_2": ""}, "Rank every completion first"),
        ({"rank_0": "0", "rank_1": "2", "rank_2": "1"}, "Select a valid choice"),
    ],
)
def test_a_ranking_with_a_gap_is_refused_and_kept(
    project: Project, mei: Annotator, ranks: dict[str, str], words: str
) -> None:
    make_comparison(project=project, kind="ranking", texts=TEXTS[:3])
    response = mei.post(shown(mei, [0, 1, 2]) | ranks)
    html = response.content.decode()
    assert response.status_code == 422 and words in html
    assert re.search(r'name="rank_1".*?<option value="2" selected', html)
    assert not Preference.objects.exists()


@pytest.mark.parametrize(
    ("rating", "words"),
    [("", "Rate every completion"), ("0", "Select a valid choice"), ("6", "Select a valid choice")],
)
def test_a_rating_with_a_gap_or_off_the_scale_is_refused_and_kept(
    project: Project, mei: Annotator, rating: str, words: str
) -> None:
    make_comparison(project=project, kind="rating", texts=TEXTS[:1])
    names = [f"rating_0_{n}" for n in range(len(project.criteria))]
    response = mei.post(
        form_in(mei.get()) | dict.fromkeys(names, "5") | {names[1]: rating, "comment": "mine"}
    )
    html = response.content.decode()
    assert response.status_code == 422 and words in html and "mine</textarea>" in html
    assert len(re.findall(r'value="5" checked', html)) == len(names) - 1
    assert not Preference.objects.exists()


def test_eight_are_shown_each_at_its_own_place(project: Project, mei: Annotator) -> None:
    texts = tuple(f"text number {number}" for number in range(8))
    make_comparison(project=project, kind="ranking", texts=texts)
    html = mei.get()
    order = Assignment.objects.get().shown_order
    assert sorted(order) == list(range(8))
    found = [int(number) for number in re.findall(r"text number (\d)", html)]
    assert found == order
    assert re.findall(r"<header><b>(\w)</b>", html) == list("ABCDEFGH")


def test_the_order_is_drawn_anew_for_each_person(project: Project, sign_in: SignIn) -> None:
    comparison = make_comparison(project=project, kind="ranking", texts=TEXTS, overlap=12)
    for _person in range(12):
        Annotator(sign_in(make_member(project=project)), project).get()
    orders = Assignment.objects.filter(comparison=comparison).values_list("shown_order", flat=True)
    assert len({tuple(order) for order in orders}) >= 4  # of 24; fewer have a chance below one in a million


# --- rating -----------------------------------------------------------------------------------------


def test_ratings_are_recorded_by_position_and_criterion(mei: Annotator, project: Project) -> None:
    Project.objects.update(criteria=["kind", "true"])
    make_comparison(project=project, kind="rating", texts=TEXTS[:2])
    fields = shown(mei, [1, 0])
    rated = {"rating_0_0": "1", "rating_0_1": "2", "rating_1_0": "4", "rating_1_1": "5"}
    assert mei.post(fields | rated | {"acceptability": "both"}).status_code == 200
    row = said()
    assert row.ratings == [{"kind": 4, "true": 5}, {"kind": 1, "true": 2}]
    assert (row.kind, row.acceptability) == ("rating", "")
    assert "A 1.5, B 4.5" in mei.text(mei.client.get(reverse("progress", args=[project.slug])))
    html = mei.post({}, mei.verb("undo")).content.decode()
    assert re.findall(r'name="rating_(\d_\d)" value="(\d)" checked', html) == [
        ("0_0", "1"), ("0_1", "2"), ("1_0", "4"), ("1_1", "5"),
    ]  # fmt: skip


@pytest.mark.parametrize("broken", [{"rating_0_2": ""}, {"rating_0_2": "6"}, {"rating_0_2": "0"}])
def test_a_rating_needs_every_criterion(project: Project, mei: Annotator, broken: dict[str, str]) -> None:
    make_comparison(project=project, kind="rating", texts=TEXTS[:1])
    rated = {"rating_0_0": "3", "rating_0_1": "3", "rating_0_2": "3"}
    response = mei.post(shown(mei, [0]) | rated | broken)
    assert response.status_code == 422
    assert 'name="rating_0_1" value="3" checked' in response.content.decode()
    assert not Preference.objects.exists()


# --- corrections ------------------------------------------------------------------------------------


def test_a_correction_is_a_completion_that_knows_what_it_mends(project: Project, mei: Annotator) -> None:
    comparison = make_comparison(project=project, texts=("poor", "It arives."))
    fields = shown(mei, [1, 0])
    text = mei.client.get(mei.verb("text"), {"assignment": fields["assignment"], "place": "0"}).json()
    assert text == {"text": "It arives."}
    mei.post(fields | {"strength": "-2", "written": "It arrives.\r\nSoon.", "corrects": "0"})
    row = said()
    original = comparison.candidates.get(position=1).completion
    assert row.written is not None
    assert (row.written.text, row.written.source) == ("It arrives.\nSoon.", "corrected")
    assert (row.corrects, row.written.corrected_from) == (original, original)
    assert row.strength == 2
    html = mei.post({}, mei.verb("undo")).content.decode()
    assert "It arrives.\nSoon.</textarea>" in html and 'name="corrects" value="0"' in html


def test_a_correction_that_changes_nothing_is_none(project: Project, mei: Annotator) -> None:
    make_comparison(project=project, texts=("as\r\nit is", "other"))
    fields = shown(mei, [0, 1]) | {"strength": "1", "written": "as\r\nit is", "corrects": "0"}
    assert mei.post(fields).status_code == mei.post(fields).status_code == 200
    assert (said().written, said().corrects) == (None, None)
    assert not Completion.objects.filter(source="corrected").exists()


def test_a_correction_says_what_it_corrects(project: Project, mei: Annotator) -> None:
    make_comparison(project=project)
    fields = shown(mei, [0, 1]) | {"strength": "1", "written": "better"}
    for place in ("", "2", "x"):
        response = mei.post(fields | {"corrects": place})
        assert response.status_code == 422 and "better</textarea>" in response.content.decode()
    assert not Preference.objects.exists()


def test_two_who_correct_alike_share_a_text_and_keep_their_own_originals(
    project: Project, sign_in: SignIn
) -> None:
    comparison = make_comparison(project=project, texts=("a", "b"), overlap=2)
    for place in ("0", "1"):
        mei = Annotator(sign_in(make_member(project=project)), project)
        fields = form_in(mei.get())
        Assignment.objects.filter(pk=fields["assignment"]).update(shown_order=[0, 1])
        mei.post(fields | {"strength": "0", "written": "the same", "corrects": place})
    assert Completion.objects.filter(source="corrected").count() == 1
    rows = Preference.objects.order_by("pk")
    assert [row.corrects for row in rows] == [row.completion for row in comparison.candidates.all()]
    decided = [pair for row in rows for pair in row.pairs() if not pair.tie]
    assert [(pair.chosen.text, pair.rejected.text) for pair in decided] == [
        ("the same", "a"),
        ("the same", "b"),
    ]


def test_the_text_of_others_is_not_given_away(project: Project, mei: Annotator, sign_in: SignIn) -> None:
    make_comparison(project=project)
    fields = form_in(mei.get())
    other = sign_in(make_member(project=project))
    for query in ({}, {"assignment": "x"}, {"assignment": fields["assignment"], "place": "0"}):
        assert other.get(mei.verb("text"), query).status_code == 404
    for place in ("2", "", "-1"):
        query = {"assignment": fields["assignment"], "place": place}
        assert mei.client.get(mei.verb("text"), query).status_code == 404


# --- demonstrations ---------------------------------------------------------------------------------


@pytest.fixture
def asked(project: Project) -> Comparison:
    return put_up(make_prompt(project=project, text="Say something kind."), [], kind="demonstration")


def test_a_demonstration_is_written_and_can_be_changed(asked: Comparison, mei: Annotator) -> None:
    html = mei.get()
    assert "Say something kind." in html and "<article" not in html
    mei.post(form_in(html) | {"written": "You did\r\nwell."})
    row = said()
    assert row.written is not None
    assert (row.written.text, row.written.source, row.corrects) == ("You did\nwell.", "written", None)
    assert (row.kind, row.written.prompt, row.shown_order) == ("demonstration", asked.prompt, [])
    assert row.comparison.state == "done"
    html = mei.post({}, mei.verb("undo")).content.decode()
    assert "You did\nwell.</textarea>" in html
    mei.post(form_in(html) | {"written": "You did very well."})
    current = Preference.objects.current().get()
    assert [text.text for text in current.demonstrations()] == ["You did very well."]


@pytest.mark.parametrize("written", ["", " \n\t "])
def test_a_demonstration_of_nothing_is_refused(asked: Comparison, mei: Annotator, written: str) -> None:
    response = mei.post(form_in(mei.get()) | {"written": written})
    assert response.status_code == 422 and "Write the completion first" in response.content.decode()
    assert not Preference.objects.exists()


# --- what is the same for all -----------------------------------------------------------------------

ANSWERS: list[tuple[str, int, dict[str, Any], dict[str, Any]]] = [
    ("ranking", 3, {"rank_0": "1", "rank_1": "2", "rank_2": "2"}, {"rank_2": "3"}),
    ("rating", 1, {f"rating_0_{n}": "3" for n in range(3)}, {"rating_0_0": "4"}),
    ("demonstration", 0, {"written": "mine"}, {"written": "other"}),
    ("pairwise", 2, {"strength": "1", "written": "edit", "corrects": "1"}, {"written": "other"}),
]


@pytest.mark.parametrize(("kind", "count", "answer", "change"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_sent_twice_is_one_judgement_and_another_under_its_key_is_refused(
    project: Project, mei: Annotator, kind: str, count: int, answer: dict[str, Any], change: dict[str, Any]
) -> None:
    make_comparison(project=project, kind=kind, texts=TEXTS[:count])
    posted = (
        form_in(mei.get()) | answer | {"flags": ["off_topic", "language"], "comment": "hm", "active_ms": "9"}
    )
    assert [mei.post(posted).status_code for _time in range(2)] == [200, 200]
    refused = mei.post(posted | change)
    assert refused.status_code == 422 and "Sent before with another judgement" in refused.content.decode()
    row = said()
    assert (row.kind, row.flags, row.comment, row.active_ms) == (kind, ["off_topic", "language"], "hm", 9)


@pytest.mark.parametrize(("kind", "count", "answer", "change"), ANSWERS, ids=[row[0] for row in ANSWERS])
def test_skipping_and_undoing_work_for_every_kind(
    project: Project, mei: Annotator, kind: str, count: int, answer: dict[str, Any], change: dict[str, Any]
) -> None:
    make_comparison(project=project, kind=kind, texts=TEXTS[:count])
    first = form_in(mei.get())
    mei.post(first | {"reason": "upsetting"}, mei.verb("skip"))
    assert Assignment.objects.get().skip_reason == "upsetting"
    back = form_in(mei.post({}, mei.verb("undo")).content.decode())
    assert back["assignment"] == first["assignment"]
    assert mei.post(back | answer).status_code == 200 and Preference.objects.count() == 1


# --- drafts -----------------------------------------------------------------------------------------


def test_a_draft_is_there_on_another_machine_until_it_is_judged(
    asked: Comparison, mei: Annotator, sign_in: SignIn
) -> None:
    fields = form_in(mei.get())
    typed = {
        "written": "Half a tho",
        "comment": "later",
        "flags": ["unsafe"],
        "key": "other key",
        "junk": "x",
    }
    answer = mei.post(fields | typed, mei.verb("draft"))
    assert answer.status_code == 200 and answer.json()["at"] > 1_700_000_000_000  # type: ignore[attr-defined]
    person = User.objects.get(pk=Assignment.objects.get().annotator_id)
    elsewhere = Annotator(sign_in(person), asked.project)
    html = elsewhere.get()
    assert "Half a tho</textarea>" in html and "later</textarea>" in html and 'value="unsafe" checked' in html
    assert set(Assignment.objects.get().draft) == {"written", "comment", "flags", "at"}
    assert not Preference.objects.exists() and not Completion.objects.exists()
    elsewhere.post(fields | {"written": "A thought."})
    assert Assignment.objects.get().draft == {}
    assert mei.post(fields | typed, mei.verb("draft")).status_code == 409
    html = mei.post({}, mei.verb("undo")).content.decode()
    assert "A thought.</textarea>" in html


def test_a_draft_is_its_owner_s_and_has_an_end(asked: Comparison, mei: Annotator, sign_in: SignIn) -> None:
    fields = form_in(mei.get())
    other = Annotator(sign_in(make_member(project=asked.project)), asked.project)
    assert other.post(fields | {"written": "x"}, mei.verb("draft")).status_code == 404
    assert mei.post(fields | {"written": "x" * 60_000}, mei.verb("draft")).status_code == 422
    old = fields | {"fencing_token": "7", "written": "x"}
    assert mei.post(old, mei.verb("draft")).status_code == 409
    assert Assignment.objects.get().draft == {}


# --- views of the texts -----------------------------------------------------------------------------


def test_formatting_and_differences_are_switched_by_a_cookie(project: Project, mei: Annotator) -> None:
    make_comparison(project=project, texts=("**one** `two` <b>x</b>", "**one** `three` \u202e<b>x</b>"))
    plain = mei.get()
    assert "**one**" in plain and "<mark>" not in plain
    mei.client.cookies["judge_view"] = "m"
    formatted = mei.get()
    assert "<strong>one</strong>" in formatted and "**one**" not in formatted
    assert "&lt;b&gt;" in formatted and '<span class="hidden-char">RLO</span>' in formatted
    mei.client.cookies["judge_view"] = "d"
    marked = mei.get()
    assert "<mark>two</mark>" in marked and "<mark>three</mark>" in marked and "\u202e" not in marked


def test_a_long_text_is_folded(project: Project, mei: Annotator) -> None:
    make_comparison(project=project, texts=("word " * 1000, "short"))
    html = mei.get()
    assert html.count("data-unfold") == 1 and "Show all 1000 words" in html


def test_flags_of_a_peer_are_never_shown(project: Project, mei: Annotator) -> None:
    comparison = make_comparison(project=project, kind="ranking", texts=TEXTS[:3], overlap=2)
    make_preference(comparison=comparison, ranking=[[0], [1], [2]], flags=["unsafe"], comment="a peer's word")
    html = mei.get()
    assert "a peer" not in html and 'value="unsafe" checked' not in html and " selected" not in html


def test_criteria_with_markup_are_only_text(mei: Annotator, project: Project) -> None:
    Project.objects.update(criteria=["<img src=x onerror=alert(1)>"])
    make_comparison(project=project, kind="rating", texts=TEXTS[:1])
    assert "<img" not in mei.get()


@pytest.mark.parametrize(
    ("kind", "count", "words", "not_these"),
    [
        (
            "ranking",
            2,
            ["Which completion is better?", "Rank both first", "Only the better"],
            ["Only the best"],
        ),
        ("ranking", 4, ["which is worst?", "Rank all 4 first", "Only the best"], ["Only the better"]),
        ("rating", 1, ["How good is the completion?", "Rate it by every"], ["Differences"]),
        ("rating", 4, ["How good is each completion?", "Rate every completion", "Differences"], []),
    ],
)
def test_the_words_fit_how_many_there_are_whatever_the_settings_say(
    sign_in: SignIn, kind: str, count: int, words: list[str], not_these: list[str]
) -> None:
    """A file brings as many completions as it has; the settings say how many are put up here."""
    project = make_project(kind=kind, candidates=2)
    make_comparison(project=project, kind=kind, texts=TEXTS[:count])
    html = Annotator(sign_in(make_member(project=project)), project).get()
    shown_of_page = html[html.index('id="comparison"') : html.index('id="judge_keys"')]
    assert [text for text in words if text not in shown_of_page] == []
    assert [text for text in not_these if text in shown_of_page] == []
    assert len(re.findall(r'<article class="card side', html)) == count


def test_the_same_project_asks_its_own_question(sign_in: SignIn) -> None:
    own = make_project(kind="ranking", question="Which would you send?")
    make_comparison(project=own, kind="ranking", texts=TEXTS[:3])
    assert "Which would you send?" in Annotator(sign_in(make_member(project=own)), own).get()
