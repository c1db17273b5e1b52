"""The judging page of the project "desk": for tests that judge in a browser."""

from __future__ import annotations

from playwright.sync_api import Page, expect


def open_judge(page: Page, site: str) -> str:
    page.goto(f"{site}/p/desk/judge/")
    return shown(page)


def shown(page: Page) -> str:
    """The assignment on the screen."""
    return page.locator("#comparison").get_attribute("data-assignment") or ""


def wait_for_another(page: Page, before: str) -> str:
    """What is on the screen now, once the judgement of `before` has been saved."""
    expect(page.locator("#comparison")).not_to_have_attribute("data-assignment", before)
    expect(page.locator("body[data-judge-going]")).to_have_count(0)
    # What could not be saved has come back, and goes when it is.
    expect(page.locator("#comparison")).not_to_have_attribute("data-assignment", before)
    return shown(page)


def judge_without_network(page: Page, comment: str) -> None:
    """The right one much better, and why; the page says that it could not be saved."""
    page.keyboard.press("7")
    page.keyboard.press("c")
    page.keyboard.type(comment)
    page.context.set_offline(True)
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-saving]")).to_contain_text("Not saved yet")
