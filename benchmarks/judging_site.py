"""A site to judge on: a database with many comparisons, the production web process, and annotators.

Annotators speak HTTP with it, and write down what they were told.
"""

from __future__ import annotations

import html
import http.client
import os
import random
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
FIELD = re.compile(r'name="(assignment|fencing_token|csrfmiddlewaretoken)" value="([^"]*)"')
TEXT = (
    "model answer reward policy sample prompt token value human label compare better worse clear short " * 12
)[:800]


# --- the database -------------------------------------------------------------------------------------


def open_database(folder: Path, url: str) -> None:
    """Point Django at an empty database of this run and make its tables."""
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "rlhf_app.settings",
        "RLHF_ENV": "development",
        "DATABASE_URL": url,
        "ARTIFACT_ROOT": str(folder / "artifacts"),
        "SECRET_KEY": "a key of a measurement that nobody else can reach " + uuid.uuid4().hex,
        "REDIS_URL": "redis://127.0.0.1:1/0",  # judging needs no broker
    }
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0)


def make_project(slug: str, comparisons: int, *, overlap: int, judged: int = 0) -> Any:
    """A project with so many open comparisons, each of them judged by `judged` others already."""
    from feedback.models import (
        Candidate,
        Comparison,
        Completion,
        Project,
        Prompt,
        canonical_json,
        sha256_text,
    )

    project = Project.objects.create(name=slug, slug=slug, overlap=overlap)
    for start in range(0, comparisons, 5000):
        numbers = range(start, min(start + 5000, comparisons))
        asked = [[{"role": "user", "content": f"{number}: {TEXT[:190]}"}] for number in numbers]
        prompts = Prompt.objects.bulk_create(
            Prompt(project=project, messages=messages, content_hash=sha256_text(canonical_json(messages)))
            for messages in asked
        )
        completions = Completion.objects.bulk_create(
            Completion(prompt=prompt, text=text, text_hash=sha256_text(text), source="imported")
            for prompt in prompts
            for text in (TEXT, TEXT[::-1])
        )
        rows = Comparison.objects.bulk_create(
            Comparison(
                project=project, prompt=prompt, overlap=overlap, missing=max(0, overlap - judged),
                shuffle=(7919 * number) % 1_000_003,
            )
            for number, prompt in zip(numbers, prompts, strict=True)
        )  # fmt: skip
        Candidate.objects.bulk_create(
            Candidate(comparison=row, completion=completions[2 * place + position], position=position)
            for place, row in enumerate(rows)
            for position in (0, 1)
        )
        if judged:
            judge_before(project, rows, judged)
    return project


def judge_before(project: Any, comparisons: list[Any], times: int) -> None:
    """Judgements of people who are not there any more."""
    from django.utils import timezone

    from feedback.models import Assignment, Preference, User

    draw, now = random.Random(2), timezone.now()
    people = [
        User.objects.get_or_create(username=f"{project.slug}-before-{number}")[0] for number in range(times)
    ]
    assignments = Assignment.objects.bulk_create(
        Assignment(
            comparison=row, annotator=person, shown_order=[0, 1], state="judged", lease_expires_at=now,
            closed_at=now,
        )
        for row in comparisons
        for person in people
    )  # fmt: skip
    Preference.objects.bulk_create(
        Preference(
            assignment=row, comparison_id=row.comparison_id, annotator_id=row.annotator_id,
            strength=draw.randrange(-3, 4), shown_order=[0, 1], idempotency_key=f"before-{row.pk}",
            body_hash="0" * 64, active_ms=draw.randrange(2000, 60_000),
        )
        for row in assignments
    )  # fmt: skip


def members(project: Any, count: int, role: str = "annotator") -> list[str]:
    """Session cookies of so many new members."""
    from django.test import Client

    from feedback.models import Membership, User

    cookies = []
    for number in range(count):
        user = User.objects.create(username=f"{project.slug}-{uuid.uuid4().hex[:8]}-{number}")
        Membership.objects.create(project=project, user=user, role=role)
        client = Client()
        client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
        cookies.append("; ".join(f"{name}={morsel.value}" for name, morsel in client.cookies.items()))
    return cookies


# --- the web process ------------------------------------------------------------------------------------


class Web:
    """The production web program on a port of its own; it can be killed and comes back on the same port."""

    def __init__(self, log: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        from django.conf import settings

        from rlhf_app.processes import web_program

        several = {"behind_proxy": False, "trusted": "", "count": settings.WEB_PROCESSES}
        command = web_program("127.0.0.1", self.port, **several).command
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1):
                    return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the web process does not answer: {self.log.read_text(errors='replace')[-2000:]}")

    def kill(self) -> None:
        import psutil

        assert self.process
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        self.process.kill()
        self.process.wait()

    def family(self) -> list[Any]:
        import psutil

        assert self.process
        top = psutil.Process(self.process.pid)
        return [top, *top.children(recursive=True)]

    def memory_mib(self) -> float:
        return round(sum(one.memory_info().rss for one in self.family()) / 2**20, 1)

    def cpu_seconds(self) -> float:
        """Of all web processes so far."""
        return sum(sum(one.cpu_times()[:2]) for one in self.family())


def database_cpu_seconds() -> float:
    """Of a PostgreSQL on this machine so far; 0 where none is to be seen. SQLite runs in the web process."""
    import psutil
    from django.db import connection

    if connection.vendor != "postgresql":
        return 0.0
    port = str(connection.settings_dict["PORT"])
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if words and words[0].endswith("postgres") and port in words:
            family = [process, *process.children(recursive=True)]
            return sum(sum(one.cpu_times()[:2]) for one in family)
    return 0.0


@contextmanager
def web(log: Path) -> Iterator[Web]:
    site = Web(log)
    site.start()
    try:
        yield site
    finally:
        site.kill()


# --- an annotator -----------------------------------------------------------------------------------------


def seconds_of_page(port: int, path: str, cookies: str) -> float:
    """A whole page, as somebody waits for it. Raises HTTPError where it is refused."""
    asked = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Cookie": cookies})
    begin = time.perf_counter()
    with urllib.request.urlopen(asked, timeout=60) as answer:
        answer.read()
    return time.perf_counter() - begin


class Shown(NamedTuple):
    assignment: str
    fencing_token: str
    csrf: str


class Annotator:
    """One person's browser, as far as judging goes: one connection, and a ledger of what was sent."""

    def __init__(self, port: int, slug: str, cookies: str) -> None:
        self.port, self.path, self.cookies = port, f"/p/{slug}/judge/", cookies
        self.connection: http.client.HTTPConnection | None = None
        self.acknowledged: dict[str, str] = {}
        """Idempotency key -> assignment, of each judgement that was answered."""
        self.unanswered: dict[str, str] = {}
        self.resent = self.server_errors = self.refused = 0

    def request(self, method: str, body: dict[str, str] | None = None) -> tuple[int, str]:
        if self.connection is None:
            self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Cookie": self.cookies, "HX-Request": "true", "Host": f"127.0.0.1:{self.port}"}
        if body:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
            headers["X-CSRFToken"] = body["csrfmiddlewaretoken"]
        try:
            self.connection.request(
                method, self.path, urllib.parse.urlencode(body) if body else None, headers
            )
            answer = self.connection.getresponse()
            text = answer.read().decode()
        except OSError:
            self.connection.close()
            self.connection = None
            raise
        except http.client.HTTPException as error:
            self.connection.close()
            self.connection = None
            raise ConnectionError(str(error)) from error
        if answer.will_close:
            self.connection.close()
            self.connection = None
        for cookie in answer.headers.get_all("Set-Cookie") or []:
            if cookie.startswith("csrf"):
                self.cookies += "; " + cookie.split(";")[0]
        self.server_errors += answer.status >= 500
        return answer.status, text

    def until_answered(self, method: str, body: dict[str, str] | None = None) -> tuple[int, str]:
        """Send again what was lost or failed, as the page does: the same key, a little later."""
        deadline = time.monotonic() + 60
        while True:
            try:
                status, text = self.request(method, body)
                if status < 500:
                    return status, text
            except OSError:
                pass
            if time.monotonic() > deadline:
                raise RuntimeError("no answer for a minute")
            self.resent += 1
            time.sleep(0.2)

    def open(self) -> Shown | None:
        status, text = self.until_answered("GET")
        if status != 200:
            raise RuntimeError(f"the judging page answered {status}: {text[:300]}")
        return shown_in(text)

    def judge(self, shown: Shown) -> tuple[Shown | None, float]:
        """The next comparison, and the seconds from the click to it."""
        key = str(uuid.uuid4())
        body = {
            "assignment": shown.assignment, "fencing_token": shown.fencing_token, "key": key,
            "csrfmiddlewaretoken": shown.csrf, "active_ms": "1500", "strength": "1", "acceptability": "both",
        }  # fmt: skip
        self.unanswered[key] = shown.assignment
        begin = time.perf_counter()
        status, text = self.until_answered("POST", body)
        seconds = time.perf_counter() - begin
        if status == 200:
            self.acknowledged[key] = self.unanswered.pop(key)
        else:
            self.refused += 1
        return shown_in(text), seconds


def shown_in(page: str) -> Shown | None:
    found = {name: html.unescape(value) for name, value in FIELD.findall(page)}
    if "assignment" not in found:
        return None
    return Shown(found["assignment"], found["fencing_token"], found["csrfmiddlewaretoken"])
