"""The form of a new project in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils.text import slugify
from playwright.sync_api import Page, expect

from feedback.models import User
from tests.factories import make_project, make_superuser

pytestmark = pytest.mark.browser


def test_the_address_follows_the_name_until_somebody_types_one(
    page: Page, site: str, sign_in: Callable[[User], None]
) -> None:
    sign_in(make_superuser())
    page.goto(f"{site}/projects/new/")
    name, address = page.get_by_label("Name"), page.get_by_label("Address")
    for text in ("Support answers", "Größe: 2 & more -- ", "_日本 Ａ_"):
        name.fill(text)
        expect(address).to_have_value(slugify(text))  # what the server would make of it
    address.fill("mine")
    name.fill("Another name")
    expect(address).to_have_value("mine")
    address.fill("")
    name.fill("A third name")
    expect(address).to_have_value("a-third-name")


def test_a_typed_address_outlives_a_refusal(page: Page, site: str, sign_in: Callable[[User], None]) -> None:
    """Refused, the form comes back: the address in it is still somebody's own."""
    sign_in(make_superuser())
    make_project(slug="taken")
    page.goto(f"{site}/projects/new/")
    page.get_by_label("Name").fill("Support answers")
    page.get_by_label("Address").fill("taken")
    page.get_by_role("button", name="Create project").click()
    expect(page.get_by_text("already exists")).to_be_visible()
    page.get_by_label("Name").fill("Support answers, new")
    expect(page.get_by_label("Address")).to_have_value("taken")
