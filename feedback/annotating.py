"""A simulated annotator's browser: signs in and judges through the pages that people use.

It reads what a person could read, sends what a person could send, and knows nothing else of the application.
"""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from typing import cast

from feedback.models import ComparisonKind, Message
from feedback.simulation import SimulatedAnnotator

TIMEOUT = 30


class PageError(Exception):
    """A page answered with something a person could not go on from."""


@dataclass
class Page:
    """What the judging page shows: the form's hidden fields, the prompt's turns, completions by letter."""

    fields: dict[str, str] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    completions: dict[str, str] = field(default_factory=dict)


class PageReader(HTMLParser):
    """Finds forms' hidden fields, `.turn ROLE` and `article.side LETTER`, and the `.text` inside these."""

    def __init__(self) -> None:
        super().__init__()
        self.forms: dict[str, dict[str, str]] = {}
        self.page = Page()
        self.form = ""
        self.kind = ""
        """What the page asks for: a pairwise comparison, a ranking, ..."""
        self.role = ""
        self.letter = ""
        self.depth = 0
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        classes = (found.get("class") or "").split()
        if tag == "form":
            self.form = found.get("id") or f"form {len(self.forms)}"
            self.forms[self.form] = {}
            self.kind = found.get("data-kind") or self.kind
        elif tag == "input" and found.get("type") == "hidden" and found.get("name"):
            self.forms.setdefault(self.form, {})[cast(str, found["name"])] = found.get("value") or ""
        elif "turn" in classes:
            self.role, self.letter = classes[-1], ""
        elif tag == "article" and "side" in classes:
            self.role, self.letter = "", classes[-1]
        elif tag == "div" and (self.depth or "text" in classes):
            self.depth += 1

    def handle_endtag(self, tag: str) -> None:
        if tag != "div" or not self.depth:
            return
        self.depth -= 1
        if self.depth:
            return
        text, self.text = "".join(self.text), []
        if self.letter:
            self.page.completions[self.letter] = text
        elif self.role:
            self.page.messages.append(cast(Message, {"role": self.role, "content": text}))

    def handle_data(self, data: str) -> None:
        if self.depth:
            self.text.append(data)


def read_page(html: str) -> Page | None:
    """The comparison on a page or fragment; None when it shows none."""
    reader = PageReader()
    reader.feed(html)
    reader.close()
    if "judgement" not in reader.forms:
        return None
    if reader.kind != ComparisonKind.PAIRWISE:
        raise PageError(f"the page asks for a {reader.kind}; simulated annotators judge pairs only")
    reader.page.fields = reader.forms["judgement"]
    if set(reader.page.completions) != {"a", "b"}:
        raise PageError(f"the page shows the completions {sorted(reader.page.completions)}")
    return reader.page


class Browser:
    """One person's cookies, and how long each request took."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url.rstrip("/")
        self.opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        self.milliseconds: list[float] = []

    def open(self, path: str, fields: dict[str, str] | None = None, *, htmx: bool = False) -> str:
        """The HTML of a page, after redirects. Raises PageError for any status but 200."""
        body = urllib.parse.urlencode(fields).encode() if fields is not None else None
        url = self.base_url + path
        headers = {"Referer": url, **({"HX-Request": "true"} if htmx else {})}
        started = time.perf_counter()
        try:
            with self.opener.open(urllib.request.Request(url, body, headers), timeout=TIMEOUT) as response:
                html: str = response.read().decode()
        except urllib.error.HTTPError as error:
            raise PageError(f"{path} answered {error.code}") from error
        except OSError as error:
            raise PageError(f"{path} did not answer: {error}") from error
        self.milliseconds.append((time.perf_counter() - started) * 1000)
        return html

    def sign_in(self, path: str, username: str, password: str) -> None:
        reader = PageReader()
        reader.feed(self.open(path))
        hidden = {name: value for form in reader.forms.values() for name, value in form.items()}
        answer = self.open(path, hidden | {"username": username, "password": password})
        if re.search(r'name="password"', answer):
            raise PageError(f"the sign-in page did not let {username} in")


@dataclass
class Tally:
    """What one simulated annotator did."""

    judged: int = 0
    left: int = 0
    ties: int = 0
    milliseconds: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)


def judge_by_page(browser: Browser, path: str, annotator: SimulatedAnnotator, page: Page) -> tuple[int, str]:
    """Judge what is on the page; (strength as shown, HTML of the next comparison)."""
    judgement = annotator.judge(page.messages, page.completions["a"], page.completions["b"])
    answer = {"strength": str(judgement.strength), "acceptability": judgement.acceptability}
    return judgement.strength, browser.open(path, page.fields | answer, htmx=True)
