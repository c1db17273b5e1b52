"""What every page shares: light and dark, menus, keys, messages, failed requests; and no scripts at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, expect

from feedback.models import Role, User
from tests import factories
from tests.browser import web
from training.models import Run

pytestmark = pytest.mark.browser

SignIn = Callable[[User], None]
LIGHT_PAPER, DARK_PAPER = "rgb(251, 250, 247)", "rgb(20, 22, 26)"
"""--paper of tokens.css, #fbfaf7 and #14161a."""


def test_the_choice_of_dark_is_remembered(page: Page, site: str, sign_in: SignIn) -> None:
    sign_in(factories.make_user())
    page.emulate_media(color_scheme="light")
    page.goto(site)
    expect(page.locator("body")).to_have_css("background-color", LIGHT_PAPER)
    page.locator("details.drop summary").last.click()
    page.get_by_role("button", name="Dark").click()
    expect(page.locator("body")).to_have_css("background-color", DARK_PAPER)
    page.reload()
    expect(page.locator("body")).to_have_css("background-color", DARK_PAPER)
    page.locator("details.drop summary").last.click()
    expect(page.get_by_role("button", name="Dark")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="As the system").click()
    expect(page.locator("body")).to_have_css("background-color", LIGHT_PAPER)


def test_the_admin_wears_the_same_colours(page: Page, site: str, sign_in: SignIn) -> None:
    sign_in(factories.make_superuser())
    page.emulate_media(color_scheme="light")
    page.goto(site + "/admin/")
    expect(page.locator("body")).to_have_css("background-color", LIGHT_PAPER)
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.reload()
    expect(page.locator("body")).to_have_css("background-color", DARK_PAPER)


def test_escape_closes_a_menu_and_returns_the_focus(page: Page, site: str, sign_in: SignIn) -> None:
    sign_in(factories.make_user(username="mei"))
    page.goto(site)
    summary = page.locator("details.drop summary").last
    summary.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Change password")).to_be_visible()
    page.keyboard.press("Tab")
    page.keyboard.press("Escape")
    expect(page.get_by_role("link", name="Change password")).to_be_hidden()
    expect(summary).to_be_focused()


def test_keys_press_and_are_listed_and_can_be_switched_off(page: Page, site: str, sign_in: SignIn) -> None:
    admin = factories.make_superuser()
    factories.make_member(project=factories.make_project(), role=Role.ADMIN, user=admin)
    sign_in(admin)
    page.goto(site)
    page.keyboard.press("?")
    sheet = page.get_by_role("dialog", name="Keys of this page")
    expect(sheet).to_contain_text("New project")
    sheet.get_by_label("Single keys are on").uncheck()
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.reload()  # the choice is remembered
    page.keyboard.press("n")
    assert page.url == site + "/"
    page.keyboard.press("?")
    sheet.get_by_label("Single keys are on").check()
    sheet.get_by_role("button", name="Close").click()
    expect(sheet).to_be_hidden()
    page.keyboard.press("n")
    page.wait_for_url("**/projects/new/")


def test_the_first_tab_stop_leads_past_the_navigation(page: Page, site: str, sign_in: SignIn) -> None:
    sign_in(factories.make_user())
    page.goto(site)
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()


def test_a_page_that_cannot_reach_the_server_says_so_once_until_it_can(
    page: Page, site: str, sign_in: SignIn, watched: web.Watched
) -> None:
    project = factories.make_project()
    sign_in(factories.make_member(project=project, role=Role.ENGINEER))
    config = {"steps": 40, "kl_limit": 12.0}
    run = factories.make_run(project=project, config=config, state=Run.State.QUEUED)
    page.goto(f"{site}/p/{project.slug}/runs/{run.pk}/")
    page.route("**/status/**", lambda route: route.abort())
    toast = page.locator("#toasts .notice")
    expect(toast).to_contain_text("cannot be reached")
    page.wait_for_timeout(5000)  # two more failures of a page that asks every two seconds
    expect(toast).to_have_count(1)
    page.unroute("**/status/**")
    expect(toast).to_have_count(0)
    assert all("htmx:" in line for line in watched.console)
    watched.console.clear()


def test_a_message_is_announced_and_can_be_dismissed(page: Page, site: str, sign_in: SignIn) -> None:
    project = factories.make_project()
    sign_in(factories.make_member(project=project, role=Role.ADMIN))
    page.goto(f"{site}/p/{project.slug}/settings/")
    page.get_by_label("Question").fill("Which one helps more?")
    page.get_by_role("button", name="Save").click()
    notice = page.locator("#notices .notice")
    expect(notice).to_have_attribute("role", "status")
    notice.get_by_role("button", name="Dismiss").click()
    expect(notice).to_have_count(0)
    expect(page.locator("#main")).to_be_focused()


def test_menus_and_sign_out_work_without_scripts(browser: Browser, site: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    web.sign_in(context, site, factories.make_user(username="mei"))
    page = context.new_page()
    page.goto(site)
    page.locator("details.drop summary").last.click()
    expect(page.get_by_role("button", name="Dark")).to_be_hidden()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    context.close()
