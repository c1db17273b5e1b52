"""The next comparison, kept ready: shown before the last judgement is saved."""

from __future__ import annotations

import pytest
from playwright.sync_api import BrowserContext, Page, Route, expect

from feedback.models import Assignment, Preference, User
from tests.browser.judging import judge_without_network, open_judge, shown, wait_for_another

pytestmark = pytest.mark.browser


def test_the_next_one_is_shown_before_the_last_is_saved(page: Page, site: str, mei: User) -> None:
    held: list[Route] = []
    page.route(
        "**/p/desk/judge/",
        lambda route: held.append(route) if route.request.method == "POST" else route.continue_(),
    )
    with page.expect_response("**/judge/ahead/"):
        first = open_judge(page, site)
    page.wait_for_timeout(100)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    expect(page.locator("#comparison")).not_to_have_attribute("data-assignment", first)
    second = shown(page)
    assert len(held) == 1 and not Preference.objects.exists()
    page.keyboard.press("6")
    page.keyboard.press("Enter")  # waits for the one before
    assert shown(page) == second
    assert len(held) == 1
    held[0].continue_()
    expect(page.locator("body[data-judge-going]")).to_have_count(0)
    for _tick in range(50):
        page.wait_for_timeout(100)  # lets the route's handler run
        if len(held) == 2:
            break
    held[1].continue_()
    wait_for_another(page, second)
    said = [(str(row.assignment_id), abs(row.strength or 0)) for row in Preference.objects.order_by("pk")]
    assert said == [(first, 2), (second, 2)]
    expect(page.locator("#comparison .head")).to_contain_text("2 today")
    page.keyboard.press("u")
    expect(page.locator("#comparison")).to_have_attribute("data-assignment", second)
    assert Preference.objects.current().count() == 1


def test_a_failed_save_brings_the_judged_one_back(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    with page.expect_response("**/judge/ahead/"):
        first = open_judge(page, site)
    page.wait_for_timeout(100)
    judge_without_network(page, "kept")
    assert shown(page) == first
    expect(page.locator("input[name=strength]:checked")).to_have_value("3")
    rough.set_offline(False)
    wait_for_another(page, first)
    assert [(str(row.assignment_id), row.comment) for row in Preference.objects.all()] == [(first, "kept")]
    assert page.evaluate("Object.keys(localStorage)") == []


def test_what_is_kept_ready_is_held_by_nobody_else(page: Page, site: str, mei: User) -> None:
    with page.expect_response("**/judge/ahead/"):
        first = open_judge(page, site)
    held = Assignment.objects.filter(annotator=mei, state="leased").order_by("-lease_expires_at")
    assert [str(row.pk) for row in held][0] == first and held.count() == 2
    page.reload()
    assert shown(page) == first
