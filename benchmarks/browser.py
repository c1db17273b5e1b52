"""An admin in a real browser: judges by keyboard, launches runs, watches, compares, promotes."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect, sync_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Without these the browser calls home, which a measured machine should not.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


@contextmanager
def browser() -> Iterator[Page]:
    """A page of the Chromium that is installed on this machine; console errors fail the visit."""
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit(
            "No Chromium found. Install it (Debian: apt-get install chromium) or set CHROMIUM to its path."
        )
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET)
        page = chromium.new_page(viewport={"width": 1440, "height": 900})
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        yield page
        chromium.close()
        if errors:
            raise RuntimeError(f"the browser's console showed errors: {errors[:5]}")


class Admin:
    """The first admin of an installation, at a browser."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url

    def open(self, path: str) -> None:
        self.page.goto(f"{self.url}{path}")

    def sign_in(self, link: str) -> None:
        self.page.goto(link)
        self.page.locator("main form button").first.click()
        expect(self.page.locator("header.bar")).to_be_visible()

    def judge_by_keyboard(self, slug: str, count: int) -> dict[str, float]:
        """Judge `count` pairs with keys alone, by the simulated annotators' taste; times to the next."""
        from feedback.models import Message
        from feedback.simulation import TASTES

        taste = TASTES["helpful"]
        self.open(f"/p/{slug}/judge/")
        waits = []
        for _ in range(count):
            shown = self.page.locator("#comparison").get_attribute("data-assignment")
            asked = self.page.locator(".judge-prompt .turn.user .text").all_inner_texts()
            messages: list[Message] = [{"role": "user", "content": text} for text in asked]
            left, right = (
                taste.score(messages, self.page.locator(f".side.{side} .text").inner_text()) for side in "ab"
            )
            difference = right - left
            self.page.keyboard.press("7" if difference > 0 else "1" if difference < 0 else "4")
            begin = time.perf_counter()
            self.page.keyboard.press("Enter")
            expect(self.page.locator("#comparison")).not_to_have_attribute("data-assignment", shown or "")
            waits.append(1000 * (time.perf_counter() - begin))
        return {"judged": count, "next_p50_ms": round(sorted(waits)[len(waits) // 2], 1)}

    def create_project(self, name: str, slug: str) -> None:
        self.open("/projects/new/")
        self.page.locator("main form [name=name]").fill(name)
        if self.page.locator("main form [name=slug]").count():
            self.page.locator("main form [name=slug]").fill(slug)
        self.page.locator("main form button.main").click()
        self.page.wait_for_load_state()

    def import_file(self, slug: str, path: Path, *, limit: float = 120) -> Any:
        """Upload a file and stay until the page says how it went."""
        from feedback.models import DataImport

        self.open(f"/p/{slug}/data/import/")
        self.page.locator("main form [name=file]").set_input_files(path)
        self.page.locator("main form button.main").click()
        self.page.wait_for_url("**/data/imports/*/**")
        row = DataImport.objects.filter(project__slug=slug).latest("pk")
        deadline = time.monotonic() + limit
        while row.state in ("queued", "running", "uploaded") and time.monotonic() < deadline:
            if (start := self.page.locator("main form button.main")).count() and row.state == "uploaded":
                start.first.click()
            time.sleep(0.3)
            row.refresh_from_db()
        return row

    def launch_and_watch(
        self, slug: str, kind: str, settings: dict[str, Any] | None = None, *, limit: float = 420
    ) -> Any:
        """Launch from the form as it stands and stay on the live page until it says done, unreloaded."""
        from training.models import Run

        self.open(f"/p/{slug}/runs/new/{kind}/")
        for details in self.page.locator("main form details:not([open]) > summary").all():
            details.click()
        for name, value in (settings or {}).items():
            control = self.page.locator(f"main form [name={name}]")
            if control.evaluate("element => element.tagName") == "SELECT":
                control.select_option(str(value))
            else:
                control.fill(str(value))
        self.page.locator("main form button.main").click()
        self.page.wait_for_url("**/runs/*/")
        run = Run.objects.get(pk=int(self.page.url.rstrip("/").rsplit("/", 1)[1]))
        deadline = time.monotonic() + limit
        while not run.ended and time.monotonic() < deadline:
            time.sleep(0.5)
            run.refresh_from_db()
        if run.state != Run.State.DONE:
            raise RuntimeError(f"{run.title} is {run.state}: {run.outcome}")
        expect(self.page.locator("#run_status")).to_contain_text("done", timeout=10_000)
        return Run.objects.get(pk=run.pk)

    def compare(self, slug: str, version: Any) -> int:
        """Two versions side by side; on how many prompts."""
        from training.models import PromotedVersion

        promoted = PromotedVersion.objects.get(project__slug=slug).version
        self.open(f"/p/{slug}/versions/compare/?a={promoted.pk}&b={version.pk}")
        expect(self.page.locator(".pair .side").first).to_be_visible()
        return self.page.locator(".pair").count()

    def promote(self, slug: str, version: Any) -> None:
        self.open(f"/p/{slug}/versions/{version.pk}/promote/")
        self.page.locator("main form [name=reason]").fill("Wins its blind review.")
        self.page.locator("main form button.main").click()
        self.page.wait_for_load_state()
