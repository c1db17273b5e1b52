"""`./run screenshots`: every page at 360, 768 and 1440 px, light and dark; axe-core and the policy look too.

Pictures go to var/screenshots, those that the documentation shows to docs/screenshots as well. The last line
is one JSON object. Arguments, if any, choose pages by the beginning of their names: `run_ judge`.
"""

# ruff: noqa: E402  Django wants its settings before anything of it is imported.
from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "true"  # Playwright keeps an event loop in this thread

import django

django.setup()

from django.conf import settings
from django.core.management import call_command
from playwright.sync_api import sync_playwright

from tests.browser import web
from tests.browser.pages import pages
from tests.browser.seed import fill
from tests.browser.visit import HEIGHTS, Findings, visit

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "var" / "screenshots"
DOCS = ROOT / "docs" / "screenshots"
SHOWN_IN_DOCS = ("judge.chosen", "loop", "run_detail.going", "version_compare")


def main(wanted: list[str]) -> int:
    if web.chromium_path() is None:
        print(web.NO_CHROMIUM, file=sys.stderr)
        return 1
    begin = time.monotonic()
    if not wanted:
        shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir(parents=True, exist_ok=True)
    call_command("migrate", verbosity=0)
    done = fill()
    listed = [page for page in pages(done) if not wanted or page.name.startswith(tuple(wanted))]
    with (
        web.web_process(settings.ARTIFACT_ROOT, PICTURES / "web.log") as site,
        sync_playwright() as playwright,
    ):
        browser = web.launch(playwright)
        found = visit(browser, site, done, listed, widths=HEIGHTS, axe_widths=HEIGHTS, pictures=PICTURES)
        browser.close()
    if not wanted:
        for_docs()
    for problem in found.problems():
        print(problem)
    print(json.dumps(report(found, time.monotonic() - begin)))
    return 1 if found.problems() else 0


def for_docs() -> None:
    """`loop.png` is light, `loop-dark.png` dark."""
    DOCS.mkdir(parents=True, exist_ok=True)
    for name in SHOWN_IN_DOCS:
        for scheme, ending in (("light", ""), ("dark", "-dark")):
            target = DOCS / f"{name.split('.')[0]}{ending}.png"
            shutil.copy(PICTURES / f"{name}-1440-{scheme}.png", target)


def report(found: Findings, seconds: float) -> dict[str, object]:
    figures = {
        "pages": found.pages,
        "pictures": found.pages * len(HEIGHTS) * 2,
        "axe_violations": len(found.axe),
        "csp_reports": len(found.csp),
        "console_errors": len(found.console),
        "wider_than_the_window": len(found.sideways),
        "unreached": len(found.unreached),
        "seconds": round(seconds),
    }
    return {"name": "screenshots", "figures": figures, "pass": not found.problems()}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
