"""A judgement that could not be sent: it is kept, sent again, and never lost without a word."""

from __future__ import annotations

import json
from urllib.parse import parse_qsl

import pytest
from django.utils import timezone
from playwright.sync_api import BrowserContext, Page, Route, expect

from feedback.models import Comparison, Membership, Preference, Project, User
from tests.browser import web
from tests.browser.judging import judge_without_network, open_judge, shown, wait_for_another
from tests.browser.visit import AXE, violations
from tests.factories import make_comparison, make_member, make_project

pytestmark = pytest.mark.browser


def test_offline_is_said_and_mended(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    page.keyboard.press("6")
    rough.set_offline(True)
    page.keyboard.press("Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
    page.keyboard.press("1")  # what was sent must stay what was sent
    expect(page.locator("input[name=strength]:checked")).to_have_value("2")
    assert not Preference.objects.exists()
    rough.set_offline(False)
    wait_for_another(page, before)
    assert Preference.objects.count() == 1
    assert page.evaluate("Object.keys(localStorage)") == []


def test_a_lost_reply_is_resent_under_the_same_key(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    bodies = []

    def lose_the_reply(route: Route) -> None:
        bodies.append(route.request.post_data)
        if len(bodies) > 1:
            return route.continue_()
        route.fetch()  # the server has it now
        route.abort()

    page.route("**/p/desk/judge/", lose_the_reply)
    page.keyboard.press("5")
    page.keyboard.press("Enter")
    wait_for_another(page, before)
    assert len(bodies) == 2
    assert Preference.objects.count() == 1


def test_a_closed_page_sends_what_it_kept_when_opened_again(rough: BrowserContext, site: str) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    rough.set_offline(True)
    page.keyboard.press("7")
    page.keyboard.press("Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
    page.close()
    rough.set_offline(False)
    again = rough.new_page()
    open_judge(again, site)
    wait_for_another(again, before)
    expect(again.locator("#judge_announcer")).to_contain_text("has been saved now")
    assert Preference.objects.get().assignment_id == int(before)


def test_signed_out_keeps_the_answer_until_signed_in(rough: BrowserContext, site: str, mei: User) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    rough.clear_cookies()
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    expect(page.locator("[data-saving]")).to_contain_text("signed out")
    expect(page.locator("#id_password")).to_have_count(0)
    web.sign_in(rough, site, mei)
    rough.new_page().goto(f"{site}/p/desk/progress/")  # sets the new token, as signing in by the form does
    page.locator("[data-try-now]").click()
    wait_for_another(page, before)
    assert Preference.objects.count() == 1


# --- refused when it is sent at last ----------------------------------------------------------------


def kept_offline(rough: BrowserContext, site: str) -> str:
    """A judgement with a comment, given without a network in a page that was closed; its assignment."""
    page = rough.new_page()
    before = open_judge(page, site)
    judge_without_network(page, "an hour of <b>thought</b>")
    page.close()
    rough.set_offline(False)
    return before


def stored(page: Page) -> list[str]:
    """What this browser keeps: drafts and unsent judgements."""
    return sorted(name.split(".")[1] for name in page.evaluate("Object.keys(localStorage)"))


def test_a_kept_judgement_that_a_closed_project_refuses_is_told_and_kept(
    rough: BrowserContext, site: str, mei: User
) -> None:
    before = kept_offline(rough, site)
    other = make_project(slug="other")
    make_comparison(project=other)
    make_member(project=other, user=mei)
    Project.objects.filter(slug="desk").update(archived_at=timezone.now())
    page = rough.new_page()
    page.goto(f"{site}/p/other/judge/")
    notice = page.get_by_role("alert")
    expect(notice).to_contain_text("Its project is closed")
    notice.get_by_text("What you typed, to copy").click()
    expect(notice.locator(".read")).to_have_text("an hour of <b>thought</b>")
    assert violations(page, AXE.read_text(), None) == []
    notice.get_by_role("button", name="Close").click()
    expect(notice).to_have_count(0)
    assert stored(page) == ["draft", "unsent"] and not Preference.objects.exists()
    with page.expect_response("**/p/desk/judge/"):
        page.reload()  # told once
    page.wait_for_timeout(200)
    expect(page.get_by_role("alert")).to_have_count(0)
    Project.objects.filter(slug="desk").update(archived_at=None)
    with page.expect_response("**/p/desk/judge/"):
        page.reload()
    expect(page.locator("#judge_announcer")).to_contain_text("has been saved now")
    preference = Preference.objects.get()
    assert (preference.assignment_id, preference.comment) == (int(before), "an hour of <b>thought</b>")
    assert stored(page) == []


def test_a_kept_judgement_of_somebody_who_was_removed_is_told_and_kept(
    rough: BrowserContext, site: str, mei: User
) -> None:
    kept_offline(rough, site)
    other = make_project(slug="other")
    make_member(project=other, user=mei)
    Membership.objects.filter(project__slug="desk", user=mei).delete()
    page = rough.new_page()
    page.goto(f"{site}/p/other/judge/")
    expect(page.get_by_role("alert")).to_contain_text("no longer a member")
    assert stored(page) == ["draft", "unsent"] and not Preference.objects.exists()


def test_a_kept_judgement_of_what_was_judged_elsewhere_is_told_and_its_draft_kept(
    rough: BrowserContext, site: str, mei: User
) -> None:
    """The same key with another answer: the first one stands, and the person reads so."""
    kept_offline(rough, site)
    page = rough.new_page()
    page.route(
        "**/p/desk/judge/",
        lambda route: route.abort() if route.request.method == "POST" else route.continue_(),
    )
    open_judge(page, site)
    name = page.evaluate("Object.keys(localStorage).find((name) => name.includes('.unsent.'))")
    unsent = json.loads(page.evaluate("(name) => localStorage.getItem(name)", name))
    said = dict(parse_qsl(unsent["body"]))
    page.unroute("**/p/desk/judge/")
    first = page.request.post(
        f"{site}/p/desk/judge/",
        form=said
        | {
            "strength": "-3",
            "csrfmiddlewaretoken": page.locator("[name=csrfmiddlewaretoken]").first.input_value(),
        },
        headers={"Referer": site},
    )
    assert first.ok and Preference.objects.count() == 1
    open_judge(page, site)
    expect(page.get_by_role("alert").first).to_contain_text("Sent before with another judgement")
    assert Preference.objects.count() == 1 and stored(page) == ["draft"]


# --- in a project that closes meanwhile -------------------------------------------------------------


def test_a_project_that_closes_meanwhile_leaves_the_judgement_on_the_screen(
    rough: BrowserContext, site: str, mei: User
) -> None:
    page = rough.new_page()
    before = open_judge(page, site)
    Project.objects.update(archived_at=timezone.now())
    page.keyboard.press("2")
    page.keyboard.press("c")
    page.keyboard.type("kept")
    page.keyboard.press("Control+Enter")
    said = page.locator("[data-saving]")
    expect(said).to_contain_text("Not saved: this project is closed.")
    expect(said).to_have_attribute("role", "status")
    assert shown(page) == before
    expect(page.locator("input[name=strength]:checked")).to_have_value("-2")
    page.wait_for_timeout(1500)  # nothing goes on trying
    expect(said).to_contain_text("closed")
    expect(said.locator("button")).to_be_hidden()
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("Project closed")
    assert violations(page, AXE.read_text(), None) == []
    Project.objects.update(archived_at=None)
    open_judge(page, site)
    expect(page.locator("#judge_announcer")).to_contain_text("has been saved now")
    assert Preference.objects.get().comment == "kept"


def test_a_page_that_waits_in_a_project_that_closes_says_so(
    rough: BrowserContext, site: str, mei: User
) -> None:
    Comparison.objects.all().delete()
    page = rough.new_page()
    open_judge(page, site)
    expect(page.locator(".empty")).to_be_visible()
    Project.objects.update(archived_at=timezone.now())
    page.evaluate("htmx.ajax('GET', location.pathname, {target: '#comparison'})")
    expect(page.get_by_role("heading", level=1)).to_have_text("Project closed")
