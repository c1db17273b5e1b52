"""The judging screen in a real Chromium: by keyboard alone, twice at once, by touch, without scripts."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from feedback.models import Assignment, Preference, User
from tests.browser import web
from tests.browser.judging import open_judge, shown, wait_for_another

pytestmark = pytest.mark.browser


def test_twenty_judgements_by_keyboard_alone(page: Page, site: str, mei: User) -> None:
    now = open_judge(page, site)
    said = []
    for number in range(20):
        step, floor = number % 7 + 1, "gn"[number % 2]
        page.keyboard.press(str(step))
        page.keyboard.press(floor)
        page.keyboard.press("Enter")
        said.append((int(now), step - 4, {"g": "both", "n": "neither"}[floor]))
        now = wait_for_another(page, now)
    found = [
        (
            row.assignment_id,
            row.strength if row.shown_order == [0, 1] else -(row.strength or 0),
            row.acceptability,
        )
        for row in Preference.objects.order_by("pk")
    ]
    assert found == said
    assert all(row.active_ms is not None for row in Preference.objects.all())
    expect(page.locator("#comparison_title")).to_be_focused()
    expect(page.locator("#judge_announcer")).to_have_text("Next comparison.")
    expect(page.locator("#comparison .head")).to_contain_text("20 today")


def test_skip_note_arrows_undo_and_help_by_keyboard(page: Page, site: str, mei: User) -> None:
    first = open_judge(page, site)
    page.keyboard.press("?")
    expect(page.locator("#judge_keys")).to_be_visible()
    page.keyboard.press("3")  # closed keys do nothing behind the dialog
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.keyboard.press("3")
    second = wait_for_another(page, first)
    assert Assignment.objects.get(pk=first).skip_reason == "language"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("c")
    page.keyboard.type("7 words, and the letters s and u")
    page.keyboard.press("Control+Enter")
    third = wait_for_another(page, second)
    preference = Preference.objects.get()
    assert preference.comment == "7 words, and the letters s and u"
    assert abs(preference.strength or 0) == 2
    page.keyboard.press("u")
    assert wait_for_another(page, third) == second
    expect(page.locator("input[name=strength]:checked")).to_have_value("2")
    expect(page.locator("#judge_announcer")).to_contain_text("Taken back")
    page.keyboard.press("u")
    assert wait_for_another(page, second) == first


def test_confirm_without_a_choice_says_so(page: Page, site: str, mei: User) -> None:
    before = open_judge(page, site)
    page.keyboard.press("Enter")
    expect(page.locator(".scale legend")).to_contain_text("Choose one of the seven steps")
    page.locator("[data-confirm]").click()
    assert shown(page) == before and not Preference.objects.exists()


def test_a_note_and_its_flags_are_saved_shown_and_brought_back(page: Page, site: str, mei: User) -> None:
    first = open_judge(page, site)
    page.keyboard.press("6")
    page.keyboard.press("c")
    page.keyboard.type("both miss the date")
    page.get_by_label("Personal data").check()
    page.get_by_label("Off topic").check()
    page.locator("[data-confirm]").click()
    wait_for_another(page, first)
    preference = Preference.objects.get()
    assert (preference.comment, preference.flags) == ("both miss the date", ["private", "off_topic"])
    page.get_by_role("link", name="today").click()
    row = page.locator(".judge-table tbody tr")
    expect(row).to_have_count(1)
    for words in ("both miss the date", "Personal data", "Off topic"):
        expect(row).to_contain_text(words)
    row.get_by_role("button", name="Change").click()
    assert shown(page) == first
    expect(page.locator("[data-note]")).to_have_attribute("data-filled", "")
    page.keyboard.press("c")
    expect(page.locator("textarea[name=comment]")).to_have_value("both miss the date")
    expect(page.get_by_label("Personal data")).to_be_checked()
    expect(page.get_by_label("Off topic")).to_be_checked()
    expect(page.get_by_label("Wrong language")).not_to_be_checked()


def test_single_keys_can_be_switched_off(page: Page, site: str, mei: User) -> None:
    open_judge(page, site)
    page.keyboard.press("?")
    page.locator("#judge_keys_on").uncheck()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    expect(page.locator("input[name=strength]:checked")).to_have_count(0)


def test_a_double_click_is_one_judgement(page: Page, site: str, mei: User) -> None:
    before = open_judge(page, site)
    page.keyboard.press("2")
    page.locator("[data-confirm]").dblclick()
    wait_for_another(page, before)
    page.wait_for_load_state("networkidle")
    assert Preference.objects.count() == 1


def test_two_tabs_are_one_judgement(context: BrowserContext, site: str, mei: User) -> None:
    one, two = context.new_page(), context.new_page()
    first = open_judge(one, site)
    assert open_judge(two, site) == first
    one.keyboard.press("1")
    one.keyboard.press("Enter")
    wait_for_another(one, first)
    two.keyboard.press("7")
    two.keyboard.press("Enter")
    wait_for_another(two, first)
    expect(two.locator("#comparison")).to_contain_text("already, in another tab")
    preference = Preference.objects.get()
    assert preference.strength == (-3 if preference.shown_order == [0, 1] else 3)
    assert shown(one) == shown(two)


# --- a reload, a small screen, no scripts -----------------------------------------------------------


def test_what_is_typed_survives_a_reload(page: Page, site: str, mei: User) -> None:
    before = open_judge(page, site)
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.type("half a thought")
    page.goto(f"{site}/p/desk/progress/")
    assert open_judge(page, site) == before
    expect(page.locator("textarea[name=comment]")).to_have_value("half a thought")
    expect(page.locator("input[name=strength]:checked")).to_have_value("-2")


def test_a_phone_judges_by_touch(browser: Browser, site: str, mei: User) -> None:
    context = browser.new_context(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    watched = web.watch(context)
    web.sign_in(context, site, mei)
    page = context.new_page()
    before = open_judge(page, site)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    dock = page.locator(".dock").bounding_box()
    assert dock is not None and dock["height"] < 640 * 0.4
    for target in page.locator(
        ".dock label.btn, .scale label, .dock button[data-confirm], .dock summary"
    ).all():
        box = target.bounding_box()
        assert box is not None and box["height"] >= 40 and box["width"] >= 40
    page.locator(".scale label").nth(5).tap()
    page.locator(".floor label").nth(1).tap()
    page.locator("[data-confirm]").tap()
    wait_for_another(page, before)
    assert Preference.objects.get().acceptability == "one"
    context.close()
    assert not watched.problems()


def test_judging_works_without_scripts(browser: Browser, site: str, mei: User) -> None:
    context = browser.new_context(java_script_enabled=False)
    web.sign_in(context, site, mei)
    page = context.new_page()
    first = open_judge(page, site)
    page.locator(".scale label").nth(0).click()
    page.locator("[data-confirm]").click()
    second = shown(page)
    assert second != first and Preference.objects.count() == 1
    page.locator("[data-skip] summary").click()
    page.get_by_role("button", name="It is broken").click()
    assert shown(page) not in (first, second)
    assert Assignment.objects.get(pk=second).skip_reason == "broken"
    page.get_by_role("button", name="Undo").click()
    assert shown(page) == second
    page.get_by_role("link", name="today").click()
    page.get_by_role("button", name="Change").click()
    assert shown(page) == first
    context.close()
