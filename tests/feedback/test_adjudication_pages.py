"""The pages on which a reviewer decides: who sees them, what they show and hide, and what they refuse."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from feedback import adjudication, queue, submitting
from feedback.models import AuditEntry, Comparison, Preference, Project, User
from tests.factories import (
    make_comparison,
    make_member,
    make_preference,
)

pytestmark = pytest.mark.django_db
SignIn = Callable[[User], Client]


def address(comparison: Comparison, name: str = "adjudication") -> str:
    return reverse(name, args=[comparison.project.slug, comparison.pk])


def test_only_reviewers_and_above_decide(
    disputed: Comparison, annotator: User, reviewer: User, engineer: User, sign_in: SignIn
) -> None:
    for name in ("adjudication", "adjudication_withdraw"):
        assert sign_in(annotator).post(address(disputed, name)).status_code == 404
    assert sign_in(annotator).get(address(disputed)).status_code == 404
    for person in (reviewer, engineer):
        assert sign_in(person).get(address(disputed)).status_code == 200


def test_what_a_reviewer_may_yet_judge_shows_nobody_s_answer(
    project: Project, reviewer: User, sign_in: SignIn
) -> None:
    """Open with two of three judgements: out of sight until this reviewer has judged it, or it is done."""
    comparison = make_comparison(project=project, texts=("left", "right"), overlap=3)
    for strength in (-3, 2):
        make_preference(comparison=comparison, strength=strength)
    pages, listed = sign_in(reviewer), reverse("disagreements", args=[project.slug])

    def seen() -> tuple[bool, int]:
        return address(comparison) in pages.get(listed).content.decode(), pages.get(
            address(comparison)
        ).status_code

    assert seen() == (False, 404)
    assignment = queue.claim(project, reviewer)
    assert assignment is not None and assignment.comparison_id == comparison.pk
    submitting.submit(
        assignment, reviewer, fencing_token=assignment.fencing_token, strength=1, acceptability="both",
        key="own", body_hash="own",
    )  # fmt: skip
    assert seen() == (True, 200)
    other = sign_in(make_member(project=project, role="reviewer"))
    assert other.get(address(comparison)).status_code == 200, "it is done"


def test_a_reviewer_decides_changes_and_takes_back(
    project: Project, disputed: Comparison, reviewer: User, sign_in: SignIn
) -> None:
    client = sign_in(reviewer)
    page = client.get(address(disputed))
    assert page.context["since"] == "" and "A much better" in page.content.decode()
    fields = {"since": "", "strength": "2", "acceptability": "one", "comment": "It says when."}
    assert client.post(address(disputed), fields).status_code == 302
    first = adjudication.in_force(disputed)
    assert first is not None and (first.strength, first.acceptability) == (2, "one")
    assert (first.comment, first.annotator, first.shown_order) == ("It says when.", reviewer, [0, 1])
    assert first.guideline == project.guideline()
    # A stale page does not overwrite; it shows what was typed.
    stale = client.post(address(disputed), {**fields, "strength": "-1"})
    assert stale.status_code == 409 and adjudication.in_force(disputed) == first
    page = client.get(address(disputed))
    assert page.context["since"] == first.pk
    assert [step["value"] for step in page.context["steps"] if step["checked"]] == [2]
    client.post(address(disputed), {**fields, "strength": "-1", "since": str(first.pk)})
    second = adjudication.in_force(disputed)
    assert second is not None and second.strength == -1 and second.supersedes == first
    client.post(address(disputed, "adjudication_withdraw"))
    assert adjudication.in_force(disputed) is None
    entries = AuditEntry.objects.filter(project=project).order_by("pk")
    assert list(entries.values_list("action", flat=True)) == [
        "comparison.adjudicated", "comparison.adjudicated", "adjudication.withdrawn"
    ]  # fmt: skip
    assert entries[0].detail == {"judgement": first.pk, "answer": {"strength": 2}}
    assert "taken back" in client.get(address(disputed)).content.decode()


def test_a_decision_leads_to_the_next_disagreement(
    project: Project, disputed: Comparison, reviewer: User, sign_in: SignIn
) -> None:
    """The widest apart first, round to the first again, past what is decided, and last to the list."""
    narrow = make_comparison(project=project, overlap=2)
    for strength in (1, -1):
        make_preference(comparison=narrow, strength=strength)
    client, listed = sign_in(reviewer), reverse("disagreements", args=[project.slug])

    def after(comparison: Comparison) -> str:
        return client.get(address(comparison, "adjudication_next"))["Location"]

    assert (after(disputed), after(narrow)) == (address(narrow), address(disputed))
    response = client.post(address(disputed), {"since": "", "strength": "2"}, follow=True)
    assert response.redirect_chain[-1][0] == address(narrow)
    assert (after(disputed), after(narrow)) == (address(narrow), listed)


@pytest.mark.parametrize("fields", [{}, {"strength": "4"}, {"strength": "0", "acceptability": "one"}])
def test_no_decision_without_a_sound_one(
    disputed: Comparison, reviewer: User, sign_in: SignIn, fields: dict[str, str]
) -> None:
    response = sign_in(reviewer).post(address(disputed), {"since": "", **fields})
    assert response.status_code == 422
    assert adjudication.in_force(disputed) is None


def test_rankings_and_ratings_by_page(project: Project, reviewer: User, sign_in: SignIn) -> None:
    client = sign_in(reviewer)
    ranking = make_comparison(project=project, kind="ranking", texts=("a", "b", "c"))
    client.post(address(ranking), {"rank_0": "2", "rank_1": "1", "rank_2": "2"})
    row = adjudication.in_force(ranking)
    assert row is not None and row.ranking == [[1], [0, 2]]
    rating = make_comparison(project=project, kind="rating")
    given = {f"rating_{place}_{n}": str(place + n + 1) for place in range(2) for n in range(3)}
    client.post(address(rating), given)
    row = adjudication.in_force(rating)
    assert row is not None
    assert row.ratings == [
        {"helpful": 1, "harmless": 2, "honest": 3}, {"helpful": 2, "harmless": 3, "honest": 4}
    ]  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [{"purpose": "review"}, {"purpose": "gold", "gold_answer": {"strength": 1}}, {"kind": "demonstration"}],
    ids=["review", "gold", "demonstration"],
)
def test_reviews_gold_and_demonstrations_are_not_decided(
    project: Project, reviewer: User, sign_in: SignIn, fields: dict[str, Any]
) -> None:
    """Gold has its answer; a review is blind until it is closed, and this page would show what was said."""
    comparison = make_comparison(project=project, **fields)
    client = sign_in(reviewer)
    assert client.get(address(comparison)).status_code == 404
    assert client.post(address(comparison), {"strength": "1"}).status_code == 404
    assert not Preference.objects.exists()


def test_a_ranking_of_more_than_fits_on_a_page_is_not_decided(
    project: Project, reviewer: User, sign_in: SignIn
) -> None:
    client = sign_in(reviewer)
    for count, status in ((8, 200), (9, 404)):
        texts = tuple(f"text {number}" for number in range(count))
        comparison = make_comparison(project=project, kind="ranking", texts=texts)
        assert client.get(address(comparison)).status_code == status


def test_said_is_in_the_letters_of_the_page(project: Project, reviewer: User, sign_in: SignIn) -> None:
    """Both prefer candidate 0; one saw it on the right and pressed B."""
    comparison = make_comparison(project=project, overlap=2)
    for order in ([0, 1], [1, 0]):
        make_preference(comparison=comparison, strength=-2, shown_order=order)
    said = sign_in(reviewer).get(address(comparison)).context["said"]
    assert [row["words"] for row in said] == ["A better", "A better"]


def test_a_hostile_text_is_shown_as_text(project: Project, reviewer: User, sign_in: SignIn) -> None:
    comparison = make_comparison(project=project, texts=("<script>alert(1)</script>", "b"), overlap=2)
    for strength in (-3, 3):
        make_preference(comparison=comparison, strength=strength, comment="<img src=x onerror=alert(1)>")
    client = sign_in(reviewer)
    for url in (address(comparison), reverse("disagreements", args=[project.slug])):
        html = client.get(url).content.decode()
        assert "&lt;script&gt;alert(1)" in html and "<script>alert" not in html
        assert "&lt;img src=x" in html and "<img src=x" not in html
