"""On every page: nothing for axe-core at level A and AA, nothing against the policy, nothing too wide."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser

from tests.browser.pages import NO_PAGE, SECTIONS, named_addresses, pages
from tests.browser.seed import fill
from tests.browser.visit import visit

pytestmark = pytest.mark.browser


def test_every_named_address_is_a_listed_page_or_none(site: str) -> None:
    listed = {page.name.split(".")[0] for page in pages(fill())}
    named = named_addresses()
    assert named - listed - set(NO_PAGE) == set(), "new pages: add them to tests/browser/pages.py"
    assert set(NO_PAGE) <= named, "these addresses are gone"
    assert not set(NO_PAGE) & listed


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("section", SECTIONS)
def test_nothing_is_found_on_any_page(browser: Browser, site: str, section: str) -> None:
    done = fill()
    listed = SECTIONS[section](done)
    found = visit(browser, site, done, listed, widths=(360, 1440))
    assert found.pages == len(listed) > 0
    assert not found.problems(), "\n".join(found.problems())
