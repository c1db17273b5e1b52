"""The kinds beside pairs in a real Chromium, and how texts are looked at: by keyboard, by mouse, by touch."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, expect

from feedback.models import Assignment, Completion, Guideline, Preference, Project, User
from tests.browser import web
from tests.browser.judging import shown, wait_for_another
from tests.factories import make_comparison, make_member, make_project, make_prompt, put_up

pytestmark = pytest.mark.browser
SignIn = Callable[[User], None]
MAKE = Callable[[str], Project]
TEXTS = ("text zero", "text one", "text two", "text three")
COUNTS = {"pairwise": 2, "ranking": 4, "rating": 2, "demonstration": 0}


@pytest.fixture
def open_kind(page: Page, site: str, sign_in: SignIn) -> Callable[[str], str]:
    """Open the judging page of a fresh project of a kind with three comparisons; the assignment shown."""

    def opened(kind: str) -> str:
        project = make_project(slug="desk", kind=kind)
        for number in range(3):
            make_comparison(project=project, kind=kind, texts=TEXTS[: COUNTS[kind]], priority=-number)
        sign_in(make_member(project=project))
        page.goto(f"{site}/p/desk/judge/")
        return shown(page)

    return opened


def on_screen(ranking: list[list[int]], assignment: str) -> list[list[int]]:
    """A recorded ranking in the places that the annotator saw."""
    order = Assignment.objects.get(pk=assignment).shown_order
    return [sorted(order.index(position) for position in group) for group in ranking]


def ranks(page: Page) -> list[str]:
    return page.locator(".judge-rank select").evaluate_all("all => all.map(one => one.value)")


# --- the sheet of keys ---


@pytest.mark.parametrize(
    ("kind", "there", "absent"),
    [
        ("pairwise", ["One step towards A or B", "Good enough: both;"], ["ties with", "criterion"]),
        (
            "ranking",
            ["The next best one", "ties with the last", "Good enough: all;"],
            ["towards A", "criterion"],
        ),
        ("rating", ["Rate by this criterion"], ["towards A", "ties with", "Good enough"]),
        ("demonstration", ["Write"], ["towards A", "ties with", "criterion", "Mark the differences"]),
    ],
)
def test_the_sheet_holds_the_keys_of_what_is_asked(
    page: Page, open_kind: Callable[[str], str], kind: str, there: list[str], absent: list[str]
) -> None:
    open_kind(kind)
    if kind == "demonstration":
        page.locator("#comparison_title").focus()
    page.keyboard.press("?")
    said = page.locator("#judge_keys").inner_text()
    assert [words for words in there if words not in said] == []
    assert [words for words in absent if words in said] == []
    assert "Confirm" in said and "Comment and flags" in said


# --- ranking ----------------------------------------------------------------------------------------


def test_a_ranking_by_keyboard_alone(page: Page, open_kind: Callable[[str], str]) -> None:
    first = open_kind("ranking")
    for key in ("3", "1", "Backspace", "4", "=", "1", "2"):
        page.keyboard.press(key)
    assert ranks(page) == ["2", "3", "1", "2"]
    page.keyboard.press("o")
    page.keyboard.press("Enter")
    wait_for_another(page, first)
    row = Preference.objects.get()
    assert on_screen(row.ranking, first) == [[2], [0, 3], [1]]
    assert (row.kind, row.acceptability) == ("ranking", "one")
    page.keyboard.press("u")
    expect(page.locator("#comparison")).to_have_attribute("data-assignment", first)
    assert ranks(page) == ["2", "3", "1", "2"]


def test_a_ranking_with_a_gap_is_not_sent(page: Page, open_kind: Callable[[str], str]) -> None:
    before = open_kind("ranking")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    expect(page.locator("#judge_announcer")).to_contain_text("Rank all 4 first")
    assert shown(page) == before and not Preference.objects.exists()


def test_arrows_walk_a_letter_through_ties(page: Page, open_kind: Callable[[str], str]) -> None:
    open_kind("ranking")
    for key in "1234":
        page.keyboard.press(key)
    page.locator("[data-chip='2']").focus()
    page.keyboard.press("ArrowLeft")
    assert ranks(page) == ["1", "2", "2", "3"]
    page.keyboard.press("ArrowLeft")
    assert ranks(page) == ["1", "3", "2", "4"]
    expect(page.locator("[data-chip='2']")).to_be_focused()
    expect(page.locator("#judge_announcer")).to_have_text("C: rank 2")
    for _step in range(4):
        page.keyboard.press("ArrowRight")
    assert ranks(page) == ["1", "2", "4", "3"]


def drag(page: Page, chip: Locator, onto: Locator) -> None:
    start, end = chip.bounding_box(), onto.bounding_box()
    assert start is not None and end is not None
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(start["x"] + 30, start["y"] - 10, steps=4)
    end = onto.bounding_box()  # gaps widen while something is dragged
    assert end is not None
    page.mouse.move(end["x"] + end["width"] / 2, end["y"] + end["height"] / 2, steps=6)
    page.mouse.up()


def test_a_ranking_by_dragging(page: Page, open_kind: Callable[[str], str]) -> None:
    first = open_kind("ranking")
    chip = lambda place: page.locator(f"[data-chip='{place}']")  # noqa: E731
    drag(page, chip(0), page.locator("[data-gap='0']"))
    drag(page, chip(1), page.locator("[data-gap='0']"))
    drag(page, chip(2), page.locator("[data-group='1']"))
    drag(page, chip(3), page.locator("[data-gap='2']"))
    assert ranks(page) == ["2", "1", "2", "3"]
    drag(page, chip(3), page.locator("[data-tray]"))
    assert ranks(page) == ["2", "1", "2", ""]
    drag(page, chip(3), page.locator("[data-gap='1']"))
    assert ranks(page) == ["3", "1", "3", "2"]
    page.locator("[data-confirm]").click()
    wait_for_another(page, first)
    assert on_screen(Preference.objects.get().ranking, first) == [[1], [3], [0, 2]]


def test_a_ranking_by_buttons_and_boxes(page: Page, open_kind: Callable[[str], str]) -> None:
    first = open_kind("ranking")
    page.locator("[data-chip='1']").click()
    page.locator("[data-chip='3']").click()
    assert ranks(page) == ["", "1", "", "2"]
    page.locator("[data-clear-ranks]").click()
    assert ranks(page) == [""] * 4
    for place, rank in enumerate("2114"):
        page.locator(".judge-rank select").nth(place).select_option(rank)
    page.locator("[data-confirm]").click()
    wait_for_another(page, first)
    assert on_screen(Preference.objects.get().ranking, first) == [[1, 2], [0], [3]]


def test_a_ranking_by_touch_on_a_phone(browser: Browser, site: str) -> None:
    project = make_project(slug="desk", kind="ranking")
    make_comparison(project=project, kind="ranking", texts=TEXTS)
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    watched = web.watch(context)
    web.sign_in(context, site, make_member(project=project))
    page = context.new_page()
    page.goto(f"{site}/p/desk/judge/")
    first = shown(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    for place in (2, 0, 3, 1):
        page.locator(f"[data-chip='{place}']").tap()
        if place == 0:
            page.locator("[data-tie]").tap()
            expect(page.locator("[data-tie]")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("[data-tie]")).to_have_attribute("aria-pressed", "false")
    page.locator("[data-confirm]").tap()
    wait_for_another(page, first)
    assert on_screen(Preference.objects.get().ranking, first) == [[2], [0, 3], [1]]
    context.close()
    assert not watched.problems()


@pytest.mark.parametrize(("kind", "count"), [("ranking", 8), ("rating", 2)])
def test_a_phone_has_room_for_every_button(browser: Browser, site: str, kind: str, count: int) -> None:
    """Buttons as large as a finger, a dock that leaves the texts in sight, labels above what they name."""
    project = make_project(slug="desk", kind=kind)
    Guideline.objects.create(project=project, version=12, text="Be kind.")
    texts = tuple(f"text {number}" for number in range(count))
    make_comparison(project=project, kind=kind, texts=texts)
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    web.sign_in(context, site, make_member(project=project))
    page = context.new_page()
    page.goto(f"{site}/p/desk/judge/")
    expect(page.locator("[data-confirm]")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    guidelines = page.locator("[data-guidelines]").bounding_box()
    assert guidelines is not None and guidelines["height"] < 30, "its words break into two lines"

    def dock_is_low() -> None:
        dock = page.locator(".dock").bounding_box()
        assert dock is not None and dock["height"] < 844 * 0.4

    dock_is_low()
    buttons = page.locator(".dock :is(button, summary, label.btn), .rating label").filter(visible=True)
    small = [
        box for one in buttons.all() if (box := one.bounding_box()) and min(box["height"], box["width"]) < 38
    ]
    assert small == []
    if kind == "rating":
        for fieldset in page.locator(".rating").all():
            legend, step = (
                fieldset.locator("legend").bounding_box(),
                fieldset.locator("label").first.bounding_box(),
            )
            outside = fieldset.bounding_box()
            assert legend and step and outside
            assert outside["y"] + 4 <= legend["y"] and legend["y"] + legend["height"] <= step["y"] + 1
    else:
        for place in range(0, count, 2):
            page.locator(f"[data-chip='{place}']").tap()
        dock_is_low()
    context.close()


def test_a_ranking_works_without_scripts(browser: Browser, site: str) -> None:
    project = make_project(slug="desk", kind="ranking")
    make_comparison(project=project, kind="ranking", texts=TEXTS[:3])
    context = browser.new_context(java_script_enabled=False)
    web.sign_in(context, site, make_member(project=project))
    page = context.new_page()
    page.goto(f"{site}/p/desk/judge/")
    first = shown(page)
    for place, rank in enumerate("312"):
        page.locator(".judge-rank select").nth(place).select_option(rank)
    page.locator("[data-confirm]").click()
    assert on_screen(Preference.objects.get().ranking, first) == [[1], [2], [0]]
    context.close()


# --- rating and writing -----------------------------------------------------------------------------


def test_a_rating_by_keyboard_alone(page: Page, open_kind: Callable[[str], str]) -> None:
    first = open_kind("rating")
    for key in "54":
        page.keyboard.press(key)
    page.keyboard.press("Enter")
    expect(page.locator("#judge_announcer")).to_contain_text("Rate every completion")
    for key in ("3", "2", "ArrowUp", "1", "1", "1", "Enter"):
        page.keyboard.press(key)
    wait_for_another(page, first)
    row = Preference.objects.get()
    places = [row.ratings[position] for position in row.shown_order]
    assert places == [
        {"helpful": 5, "harmless": 4, "honest": 3},
        {"helpful": 1, "harmless": 1, "honest": 1},
    ]


def test_a_demonstration_is_typed_kept_and_sent(
    page: Page, site: str, open_kind: Callable[[str], str]
) -> None:
    first = open_kind("demonstration")
    page.keyboard.press("e")
    page.keyboard.type("Half a sentence, with keys s, u and 3")
    page.goto(f"{site}/p/desk/progress/")
    page.goto(f"{site}/p/desk/judge/")
    assert shown(page) == first
    expect(page.locator("textarea[name=written]")).to_have_value("Half a sentence, with keys s, u and 3")
    page.keyboard.press("e")
    page.keyboard.press("Control+End")
    page.keyboard.type(".")
    page.keyboard.press("Control+Enter")
    wait_for_another(page, first)
    written = Preference.objects.get().written
    assert written is not None
    assert (written.text, written.source) == ("Half a sentence, with keys s, u and 3.", "written")


def test_a_text_is_kept_by_the_server_too(page: Page, site: str, open_kind: Callable[[str], str]) -> None:
    first = open_kind("demonstration")
    with page.expect_response("**/judge/draft/"):
        page.locator("textarea[name=written]").fill("Typed at home")
    expect(page.locator("textarea[name=written]")).to_have_value("Typed at home")
    page.wait_for_timeout(200)
    page.evaluate("localStorage.clear()")  # as on another machine
    page.goto(f"{site}/p/desk/judge/")
    assert shown(page) == first
    expect(page.locator("textarea[name=written]")).to_have_value("Typed at home")
    # A later draft from elsewhere is shown instead of the older one that this browser kept.
    page.locator("textarea[name=written]").fill("Typed here")
    Assignment.objects.filter(pk=first).update(draft={"written": "Typed at work", "flags": [], "at": 2**43})
    page.goto(f"{site}/p/desk/judge/")
    expect(page.locator("textarea[name=written]")).to_have_value("Typed at work")


def test_a_text_written_offline_arrives_once(
    page: Page, site: str, context: BrowserContext, watched: web.Watched, open_kind: Callable[[str], str]
) -> None:
    first = open_kind("demonstration")
    page.locator("textarea[name=written]").fill("Written on a train.")
    context.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
    context.set_offline(False)
    wait_for_another(page, first)
    assert [row.text for row in Completion.objects.all()] == ["Written on a train."]
    assert Preference.objects.count() == 1
    watched.console.clear()  # the failed requests were on purpose


def test_the_preferred_one_is_improved_in_place(page: Page, open_kind: Callable[[str], str]) -> None:
    first = open_kind("pairwise")
    page.keyboard.press("6")
    page.keyboard.press("e")
    text = page.locator("[data-edit] textarea")
    expect(text).to_be_focused()
    order = Assignment.objects.get(pk=first).shown_order
    expect(text).to_have_value(TEXTS[order[1]])
    expect(page.locator("[data-edit-letter]")).to_have_text("B")
    page.keyboard.press("Control+End")
    page.keyboard.type(" and more")
    page.reload()
    expect(text).to_have_value(TEXTS[order[1]] + " and more")
    expect(page.locator("[data-edit-letter]")).to_have_text("B")
    page.keyboard.press("Enter")
    wait_for_another(page, first)
    row = Preference.objects.get()
    assert row.written is not None and row.corrects is not None
    assert (row.written.text, row.corrects.text) == (TEXTS[order[1]] + " and more", TEXTS[order[1]])


def test_an_edit_can_be_dropped_and_is_not_overwritten(page: Page, open_kind: Callable[[str], str]) -> None:
    first = open_kind("pairwise")
    improve = page.locator(".judge-improve")
    improve.nth(0).click()
    page.locator("[data-edit] textarea").fill("mine")
    improve.nth(1).click()
    expect(page.locator("[data-edit] textarea")).to_have_value("mine")
    expect(page.locator("#judge_announcer")).to_contain_text("Drop the edit")
    page.locator("[data-drop-edit]").click()
    expect(page.locator("[data-edit]")).to_be_hidden()
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    wait_for_another(page, first)
    assert Preference.objects.get().written is None


# --- keys of one's own, and how texts are shown -----------------------------------------------------


def test_keys_can_be_put_elsewhere_and_back(page: Page, open_kind: Callable[[str], str]) -> None:
    open_kind("pairwise")
    page.keyboard.press("?")
    page.locator("[data-remap=skip]").click()
    page.keyboard.press("u")  # Undo's: the two change places
    page.keyboard.press("Escape")
    expect(page.locator("#undo_form kbd")).to_have_text("S")
    page.reload()
    expect(page.locator("[data-skip] kbd").first).to_have_text("U")
    page.keyboard.press("u")
    expect(page.locator("[data-skip]")).to_have_attribute("open", "")
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    page.locator("[data-remap=skip]").click()
    page.keyboard.press("4")  # digits choose a step, and stay with that
    page.locator("[data-reset-keys]").click()
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    expect(page.locator("[data-skip]")).to_have_attribute("open", "")


MARKED = "**bold** and\n```python\nreturn 1\n```\n" + "line\n" * 60


def test_views_are_switched_by_keys_and_stay(page: Page, site: str, sign_in: SignIn) -> None:
    project = make_project(slug="desk")
    for number in range(2):
        make_comparison(project=project, texts=(MARKED + "left", MARKED + "right"), priority=-number)
    sign_in(make_member(project=project))
    page.goto(f"{site}/p/desk/judge/")
    first = shown(page)
    page.keyboard.press("2")
    page.keyboard.press("m")
    expect(page.locator(".side.a strong")).to_have_text("bold")
    expect(page.locator(".side.a pre .k")).to_have_text("return")
    expect(page.locator("input[name=strength]:checked")).to_have_value("-2")
    assert page.locator(".side.a [data-fold]").bounding_box()["height"] < 400  # type: ignore[index]
    page.keyboard.press("x")
    assert page.locator(".side.a [data-fold]").bounding_box()["height"] > 800  # type: ignore[index]
    expect(page.locator(".side.a [data-unfold]")).to_have_text("Show less")
    page.keyboard.press("Enter")
    wait_for_another(page, first)
    expect(page.locator(".side.a strong")).to_have_text("bold")
    page.keyboard.press("m")
    expect(page.locator(".side.a strong")).to_have_count(0)
    page.keyboard.press("d")
    marks = [page.locator(f".side.{letter} mark") for letter in "ab"]
    expect(marks[0]).to_have_text(re.compile("^(left|right)$"))
    assert {mark.inner_text() for mark in marks} == {"left", "right"}


def test_a_conversation_is_shown_as_one(page: Page, site: str, sign_in: SignIn) -> None:
    project = make_project(slug="desk")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello, how can I help?"},
        {"role": "user", "content": "Where is it?"},
    ]
    put_up(make_prompt(project=project, messages=messages), [], kind="demonstration")
    sign_in(make_member(project=project))
    page.goto(f"{site}/p/desk/judge/")
    assert page.locator(".judge-prompt .who").all_inner_texts() == ["System", "User", "Assistant", "User"]
    assert page.locator(".judge-prompt .text").all_inner_texts() == [turn["content"] for turn in messages]
