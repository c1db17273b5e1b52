"""Browser tests: a real web process on the test database, a real Chromium, and no silent failures in it.

def test_it(page, site, sign_in):
    sign_in(someone)
    page.goto(site + "/")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from feedback.models import User
from tests.browser import web
from tests.factories import make_comparison, make_member, make_project

# Playwright's synchronous API keeps an event loop in this thread, and Django then refuses database calls.
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if web.chromium_path() is None:
        pytest.skip(web.NO_CHROMIUM)
    with sync_playwright() as playwright:
        chromium = web.launch(playwright)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def site_of_session(
    django_db_setup: None, django_db_blocker: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("web")
    (folder / "artifacts").mkdir()
    with django_db_blocker.unblock(), web.web_process(folder / "artifacts", folder / "web.log") as url:
        yield url, folder / "artifacts"


@pytest.fixture
def artifact_root(site_of_session: tuple[str, Path], settings: Any) -> Path:
    """The web process's ARTIFACT_ROOT, so that both sides see the same files."""
    settings.ARTIFACT_ROOT = site_of_session[1]
    return site_of_session[1]


@pytest.fixture
def site(site_of_session: tuple[str, Path], artifact_root: Path, transactional_db: None) -> str:
    """The address of a web process that serves the test database."""
    return site_of_session[0]


@pytest.fixture
def watched() -> web.Watched:
    """What went wrong so far; a test that breaks something on purpose takes its own traces away."""
    return web.Watched()


@pytest.fixture
def context(browser: Browser, watched: web.Watched) -> Iterator[BrowserContext]:
    """A browser of its own for each test; console errors and violations of the policy fail the test."""
    made = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    made.set_default_timeout(15_000)
    web.watch(made, watched)
    yield made
    for page in made.pages:
        web.collect_csp(page, watched)
    made.close()
    assert not watched.problems()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def sign_in(context: BrowserContext, site: str) -> Callable[[User], None]:
    """`sign_in(user)`: from now on the browser is that person's."""
    return lambda user: web.sign_in(context, site, user)


@pytest.fixture
def mei(site: str, sign_in: Callable[[User], None]) -> User:
    """An annotator of a fresh project with 25 comparisons, signed in."""
    project = make_project(slug="desk")
    for number in range(25):
        make_comparison(project=project, priority=-number, texts=(f"left {number}", f"right {number}"))
    user = make_member(project=project)
    sign_in(user)
    return user


@pytest.fixture
def rough(browser: Browser, site: str, mei: User) -> Iterator[BrowserContext]:
    """A browser of hers whose network fails: its console has errors by right."""
    context = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
    context.set_default_timeout(15_000)
    web.sign_in(context, site, mei)
    yield context
    context.close()
