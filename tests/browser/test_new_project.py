"""The form of a new project in a real Chromium."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.utils.text import slugify
from playwright.sync_api import Page, expect

from feedback.models import User
from tests.factories import make_superuser

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
