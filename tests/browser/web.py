"""A real web process for browser tests, and a Chromium that tells of everything that goes wrong in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from django.conf import settings
from django.db import connection
from django.test import Client
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright

from feedback.models import User

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NO_CHROMIUM = "no Chromium: install one (Debian: apt install chromium) or set CHROMIUM to its path"


def chromium_path() -> str | None:
    """CHROMIUM when it is set, else the first Chromium or Chrome on the PATH."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in CHROMIUMS if (path := shutil.which(name))), None)


def launch(playwright: Playwright) -> Browser:
    # Containers run as root and without user namespaces, where Chromium's own sandbox cannot start.
    return playwright.chromium.launch(executable_path=chromium_path(), args=["--no-sandbox"])


# --- the web process --------------------------------------------------------------------------------


def database_url() -> str:
    """The database that this process uses now (the test database in a test), as the web process reads it."""
    facts = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{facts['NAME']}"
    host, port = facts["HOST"] or "", f":{facts['PORT']}" if facts["PORT"] else ""
    who = f"{quote(facts['USER'], safe='')}:{quote(facts['PASSWORD'], safe='')}"
    return f"postgresql://{who}@{quote(host, safe='')}{port}/{quote(facts['NAME'], safe='')}"


@contextlib.contextmanager
def web_process(artifact_root: Path, log: Path) -> Iterator[str]:
    """Yield the address of a uvicorn that serves this process's database; it ends with the block."""
    with socket.socket() as listener:
        # The socket is handed over open, so that nobody else can take the port in between.
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = {
            **os.environ,
            "DJANGO_SETTINGS_MODULE": "tests.browser.site_settings",
            "RLHF_ENV": "development",
            "DATABASE_URL": database_url(),
            "ARTIFACT_ROOT": str(artifact_root),
            "SECRET_KEY": settings.SECRET_KEY,
            "REDIS_URL": settings.REDIS_URL,
        }
        environment.pop("DJANGO_ALLOW_ASYNC_UNSAFE", None)
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "rlhf_app.asgi:application",
            "--fd",
            str(listener.fileno()),
        ]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "--lifespan", "off", "--no-server-header", "--timeout-graceful-shutdown", "1"],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
            )
    try:
        wait_for(url + "/health/", process, log)
        yield url
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the web process answers; raises with the end of its log when it does not."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, TimeoutError):
            time.sleep(0.1)
    raise RuntimeError(f"The web process does not answer:\n{log.read_text(errors='replace')[-3000:]}")


# --- the browser ------------------------------------------------------------------------------------

WATCH_CSP = """
window.cspReports = [];
document.addEventListener("securitypolicyviolation", (event) => {
  const where = `${event.sourceFile || ""}:${event.lineNumber}`;
  window.cspReports.push(`${event.violatedDirective} ${event.blockedURI} ${where}`);
});
"""


@dataclass
class Watched:
    """What went wrong in the pages of one browser context."""

    console: list[str] = field(default_factory=list)
    csp: list[str] = field(default_factory=list)

    def problems(self) -> list[str]:
        return self.csp + self.console


def watch(context: BrowserContext, watched: Watched | None = None) -> Watched:
    """Collect console errors, uncaught exceptions and violations of the content security policy.

    A status of 4xx or 5xx alone is no console error here: pages that show one are tested on purpose.
    """
    watched = Watched() if watched is None else watched

    def on_console(message: ConsoleMessage) -> None:
        if message.type != "error" or message.text.startswith("Failed to load resource"):
            return
        found = watched.csp if "Content Security Policy" in message.text else watched.console
        found.append(f"{message.page.url if message.page else ''}: {message.text}")

    context.on("console", on_console)
    context.on("weberror", lambda problem: watched.console.append(f"{problem.error}"))
    context.add_init_script(WATCH_CSP)
    return watched


def collect_csp(page: Page, watched: Watched) -> None:
    """Add the violations of the page that is shown now; they are lost with the page."""
    watched.csp += [f"{page.url}: {report}" for report in page.evaluate("window.cspReports || []")]


def sign_in(context: BrowserContext, url: str, user: User) -> None:
    """Give the browser a session of this person, without the sign-in form."""
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    name = settings.SESSION_COOKIE_NAME
    context.add_cookies([{"name": name, "value": client.cookies[name].value, "url": url}])
