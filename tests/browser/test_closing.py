"""A project that is closed while somebody has its judging page open."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils import timezone
from playwright.sync_api import Page, expect

from feedback.models import Preference, Project, User
from tests.factories import make_comparison, make_member, make_project

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("key", ["u", "m"], ids=["undo", "another view"])
def test_what_a_closed_project_no_longer_does_is_told_once(
    page: Page, site: str, sign_in: Callable[[User], None], key: str
) -> None:
    project = make_project(slug="desk")
    for _number in range(2):
        make_comparison(project=project)
    sign_in(make_member(project=project))
    page.goto(f"{site}/p/desk/judge/")
    before = page.locator("#comparison").get_attribute("data-assignment") or ""
    page.keyboard.press("6")
    page.keyboard.press("Enter")
    expect(page.locator("#comparison")).not_to_have_attribute("data-assignment", before)
    expect(page.locator("body[data-judge-going]")).to_have_count(0)
    Project.objects.update(archived_at=timezone.now())
    page.keyboard.press("2")
    with page.expect_response(lambda response: response.status == 409):
        page.keyboard.press(key)
    said = page.locator("[data-saving]")
    expect(said).to_contain_text("This project is closed: nothing is judged or taken back")
    expect(said.locator("button")).to_be_hidden()
    expect(page.locator("#toasts > *")).to_have_count(0)
    expect(page.locator("input[name=strength]:checked")).to_have_value("-2")
    assert not Preference.objects.filter(withdrawn=True).exists()
