"""Visit every page in every width and colour: pictures, axe-core, the policy, sideways scrolling."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext
from playwright.sync_api import Page as BrowserPage
from playwright.sync_api import TimeoutError as BrowserTimeout

from tests.browser import web
from tests.browser.pages import Page
from tests.browser.seed import Seeded
from tests.browser.seed_runs import beat

AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
COLOUR_RULES = ["color-contrast", "link-in-text-block"]
SCHEMES = ("light", "dark")
HEIGHTS = {360: 740, 768: 1024, 1440: 900}


@dataclass
class Findings:
    pages: int = 0
    axe: list[str] = field(default_factory=list)
    csp: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)
    sideways: list[str] = field(default_factory=list)
    """Pages wider than the window."""
    unreached: list[str] = field(default_factory=list)
    """Pages that did not answer as they should, or on which the preparation failed."""

    def problems(self) -> list[str]:
        return self.unreached + self.axe + self.csp + self.console + self.sideways


def visit(
    browser: Browser,
    site: str,
    done: Seeded,
    listed: Iterable[Page],
    *,
    widths: Iterable[int],
    pictures: Path | None = None,
    axe_widths: Iterable[int] = (360, 1440),
) -> Findings:
    """Look at each page once per width and colour; with `pictures` keep what was seen as PNG files."""
    found = Findings()
    axe = AXE.read_text(encoding="utf-8")
    with contexts(browser, site, done) as context_of:
        for listed_page in listed:
            found.pages += 1
            context, watched = context_of(listed_page.visitor)
            look_at(context.new_page(), site, listed_page, found, watched, axe, widths, axe_widths, pictures)
            found.csp, found.console = found.csp + watched.csp, found.console + watched.console
            watched.csp, watched.console = [], []
    return found


@contextlib.contextmanager
def contexts(browser: Browser, site: str, done: Seeded) -> Iterator[Any]:
    """One browser for each visitor, signed in once."""
    made: dict[str | None, tuple[BrowserContext, web.Watched]] = {}

    def context_of(visitor: str | None) -> tuple[BrowserContext, web.Watched]:
        if visitor not in made:
            context = browser.new_context(reduced_motion="reduce")
            context.set_default_timeout(10_000)
            made[visitor] = context, web.watch(context)
            if visitor:
                web.sign_in(context, site, done.people[visitor])
        return made[visitor]

    yield context_of
    for context, _watched in made.values():
        context.close()


def look_at(
    page: BrowserPage,
    site: str,
    listed: Page,
    found: Findings,
    watched: web.Watched,
    axe: str,
    widths: Iterable[int],
    axe_widths: Iterable[int],
    pictures: Path | None,
) -> None:
    page.set_viewport_size({"width": 1440, "height": HEIGHTS[1440]})
    beat()
    answer = page.goto(site + listed.path)
    if answer is None or answer.status != listed.status:
        found.unreached.append(f"{listed.name}: {answer and answer.status}, wanted {listed.status}")
    try:
        if listed.prepare:
            listed.prepare(page)
    except BrowserTimeout as problem:
        found.unreached.append(f"{listed.name}: {problem.message.splitlines()[0]}")
    for width in widths:
        page.set_viewport_size({"width": width, "height": HEIGHTS[width]})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            page.evaluate(
                "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
            )
            where = f"{listed.name} at {width} px, {scheme}"
            if page.evaluate("document.documentElement.scrollWidth > innerWidth"):
                found.sideways.append(
                    f"{where}: {page.evaluate('document.documentElement.scrollWidth')} px wide"
                )
            if width in axe_widths and (scheme == "light" or width == max(axe_widths)):
                rules = COLOUR_RULES if scheme == "dark" else None  # nothing but colours differs
                found.axe += [f"{where}: {violation}" for violation in violations(page, axe, rules)]
            if pictures:
                page.screenshot(path=pictures / f"{listed.name}-{width}-{scheme}.png", full_page=True)
    web.collect_csp(page, watched)
    page.close()


def violations(page: BrowserPage, axe: str, rules: list[str] | None) -> list[str]:
    """What axe-core finds at level A and AA, one line for each element."""
    page.evaluate(axe)  # afresh: it remembers colours of the run before
    only = {"type": "rule", "values": rules} if rules else {"type": "tag", "values": LEVELS}
    # Preloading would add a <style> of axe's own to the page, which the policy rightly refuses.
    options = {"runOnly": only, "resultTypes": ["violations"], "preload": False}
    result = page.evaluate("options => axe.run(document, options)", options)
    return [
        f"{violation['id']}: {node['target']} {node['failureSummary'].splitlines()[-1].strip()}"
        for violation in result["violations"]
        for node in violation["nodes"]
    ]
