"""A reviewer decides by keyboard alone, with the keys of the judging page."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from feedback import adjudication
from feedback.models import Comparison, Preference, Project, User
from tests.factories import make_comparison, make_member, make_preference, make_project

pytestmark = pytest.mark.browser
SignIn = Callable[[User], None]


@pytest.fixture
def ravi(site: str, sign_in: SignIn) -> User:
    """A reviewer, signed in, in a project of pairs."""
    project = make_project(slug="desk")
    user = make_member(project=project, role="reviewer")
    sign_in(user)
    return user


def disputed(*said: int, kind: str = "pairwise", count: int = 2, **fields: object) -> Comparison:
    """Two people, who do not agree; far apart by default."""
    project = Project.objects.get(slug="desk")
    texts = tuple(f"text {number}" for number in range(count))
    comparison = make_comparison(project=project, kind=kind, texts=texts, overlap=2)
    for strength in said:
        make_preference(comparison=comparison, strength=strength)
    return comparison


def open_decision(page: Page, site: str, comparison: Comparison) -> None:
    page.goto(f"{site}/p/desk/quality/disagreements/{comparison.pk}/")
    expect(page.locator("[data-keys]")).to_be_visible()


def decided_by(page: Page, site: str, comparison: Comparison, *keys: str) -> Preference:
    """The decision that these keys make."""
    open_decision(page, site, comparison)
    for key in keys:
        page.keyboard.press(key)
    expect(page.locator(".notice.success")).to_contain_text("Decided.")
    decided = adjudication.in_force(comparison)
    assert decided is not None
    return decided


def title(page: Page, comparison: Comparison) -> None:
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Comparison {comparison.pk}")


def test_choose_say_why_confirm_and_on_to_the_next(page: Page, site: str, ravi: User) -> None:
    first, second = disputed(-3, 3), disputed(-3, 2)
    open_decision(page, site, first)
    page.keyboard.press("Enter")  # nothing is chosen yet
    expect(page.locator(".scale legend")).to_contain_text("Choose one of the seven steps")
    page.keyboard.press("7")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("o")
    page.keyboard.press("c")
    page.keyboard.type("s, u and 1 are only letters here")
    page.keyboard.press("Control+Enter")
    title(page, second)
    expect(page.locator(".notice.success")).to_contain_text("Decided.")
    decided = adjudication.in_force(first)
    assert decided is not None
    assert (decided.strength, decided.acceptability) == (2, "one")
    assert decided.comment == "s, u and 1 are only letters here"
    page.keyboard.press("4")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="People agree")).to_be_visible()
    last = adjudication.in_force(second)
    assert last is not None and last.strength == 0


def test_next_passes_one_over_and_comes_round(page: Page, site: str, ravi: User) -> None:
    wide, narrow = disputed(-3, 3), disputed(1, -1)
    open_decision(page, site, wide)
    page.keyboard.press("s")
    title(page, narrow)
    page.keyboard.press("s")
    title(page, wide)
    assert adjudication.in_force(wide) is None and adjudication.in_force(narrow) is None


def test_undo_takes_the_decision_back(page: Page, site: str, ravi: User) -> None:
    comparison = disputed(-3, 3)
    adjudication.adjudicate(comparison, ravi, {"strength": 1}, since=None)
    open_decision(page, site, comparison)
    page.keyboard.press("u")
    expect(page.locator("#undo_form")).to_have_count(0)
    assert adjudication.in_force(comparison) is None


def test_enter_twice_is_one_decision(page: Page, site: str, ravi: User) -> None:
    comparison = disputed(-3, 3)
    open_decision(page, site, comparison)
    page.keyboard.press("1")
    page.evaluate("""for (let n = 0; n < 2; n++) document.body.dispatchEvent(
        new KeyboardEvent('keydown', {key: 'Enter', bubbles: true, cancelable: true}))""")
    expect(page.locator(".notice.success")).to_contain_text("Decided.")
    assert adjudication.adjudications(comparison).count() == 1


def test_the_sheet_holds_the_keys_of_deciding_and_one_s_own(page: Page, site: str, ravi: User) -> None:
    comparison = disputed(-3, 3)
    open_decision(page, site, comparison)
    page.keyboard.press("?")
    sheet = page.locator("#judge_keys")
    expect(sheet).to_contain_text("The next disagreement")
    expect(sheet.get_by_text("Skip, then the number of the reason")).to_have_count(0)
    expect(sheet.get_by_text("Guidelines beside the work")).to_be_hidden()
    sheet.get_by_role("button", name="Change Say why").click()
    page.keyboard.press("w")
    page.keyboard.press("Escape")
    expect(page.locator("[data-kbd=comment]").first).to_have_text("W")
    page.keyboard.press("w")
    expect(page.locator("textarea[name=comment]")).to_be_focused()


def test_a_ranking_is_decided_by_its_numbers(page: Page, site: str, ravi: User) -> None:
    comparison = disputed(kind="ranking", count=3)
    for ranking in ([[0], [1], [2]], [[2], [1], [0]]):
        make_preference(comparison=comparison, ranking=ranking)
    decided = decided_by(page, site, comparison, "3", "1", "=", "2", "Enter")
    assert decided.ranking == [[2], [0, 1]]


def test_a_rating_is_decided_by_its_numbers(page: Page, site: str, ravi: User) -> None:
    Project.objects.update(criteria=["helpful", "honest"])
    comparison = disputed(kind="rating")
    for low, high in ((1, 5), (5, 1)):
        ratings = [{"helpful": low, "honest": 3}, {"helpful": high, "honest": 3}]
        make_preference(comparison=comparison, ratings=ratings)
    decided = decided_by(page, site, comparison, "4", "5", "2", "1", "Enter")
    assert decided.ratings == [{"helpful": 4, "honest": 5}, {"helpful": 2, "honest": 1}]
