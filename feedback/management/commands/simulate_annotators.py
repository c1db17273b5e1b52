"""`manage.py simulate_annotators PROJECT`: simulated annotators judge through the running application."""

from __future__ import annotations

import itertools
import json
import secrets
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections
from django.urls import reverse

from feedback import queue
from feedback.annotating import Browser, PageError, Tally, judge_by_page, read_page
from feedback.models import Membership, Project, Role, User
from feedback.simulation import TASTES, SimulatedAnnotator


class Command(BaseCommand):
    help = (
        "Let simulated annotators, marked as such, judge a project's comparisons over HTTP. "
        "Prints a JSON summary; exits with 1 when a request failed."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("project", help="the project's address, as in /p/ADDRESS/")
        parser.add_argument("--annotators", type=int, default=4)
        parser.add_argument("--judgements", type=int, default=200, help="in all, shared among the annotators")
        parser.add_argument("--noise", type=float, default=0.1, help="share of judgements turned round")
        parser.add_argument("--position-bias", type=float, default=0.0, help="share given to A unread")
        parser.add_argument("--taste", choices=sorted(TASTES), default="helpful")
        parser.add_argument("--shuffled", action="store_true", help="answer by a fair coin: the control")
        parser.add_argument("--name", default="simulated", help="start of the accounts' names")
        parser.add_argument("--base-url", default="http://127.0.0.1:8000")
        parser.add_argument("--seed", type=int, default=0)

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project at /p/{options['project']}/.")
        users = [simulated_user(project, options["name"], number) for number in range(options["annotators"])]
        # A ticket for each judgement wanted: whoever is quick judges more, nobody waits for the slow.
        tickets = itertools.count(1)
        started = time.perf_counter()
        try:
            with ThreadPoolExecutor(len(users)) as pool:
                work = [
                    pool.submit(annotate, project.slug, user, number, tickets, options)
                    for number, user in enumerate(users)
                ]
            tallies = [done.result() for done in work]
        finally:
            for user in users:
                leave(project, user)
        summary = summarise(project, tallies, options, time.perf_counter() - started)
        self.stdout.write(json.dumps(summary))
        if summary["errors"]:
            raise CommandError(f"{summary['errors']} requests failed: {summary['first_error']}")


def simulated_user(project: Project, name: str, number: int) -> User:
    """A member marked as simulated; an account of that name that is a person's is never taken over."""
    user, new = User.objects.get_or_create(
        username=f"{name}-{project.slug}-{number + 1}"[:150], defaults={"simulated": True}
    )
    if not user.simulated:
        raise CommandError(f"{user.username} is a person's account; choose another --name.")
    Membership.objects.get_or_create(project=project, user=user, defaults={"role": Role.ANNOTATOR})
    return user


def annotate(
    slug: str, user: User, number: int, tickets: itertools.count[int], options: dict[str, Any]
) -> Tally:
    """One annotator's session, in a thread of its own: sign in, judge until the work or the tickets end."""
    annotator = SimulatedAnnotator(
        TASTES[options["taste"]],
        noise=options["noise"],
        position_bias=options["position_bias"],
        shuffled=options["shuffled"],
        seed=1000 * options["seed"] + number,
    )
    tally, browser, path = Tally(), Browser(options["base_url"]), reverse("judge", args=[slug])
    password = secrets.token_urlsafe(24)
    user.set_password(password)
    user.save(update_fields=["password"])
    try:
        browser.sign_in(reverse("sign_in"), user.username, password)
        browser.milliseconds.clear()
        page = read_page(browser.open(path))
        while page is not None and next(tickets) <= options["judgements"]:
            strength, html = judge_by_page(browser, path, annotator, page)
            tally.judged += 1
            tally.left += strength < 0
            tally.ties += strength == 0
            page = read_page(html)
    except PageError as error:
        tally.errors.append(str(error))
    finally:
        connections.close_all()
    tally.milliseconds = browser.milliseconds
    return tally


def leave(project: Project, user: User) -> None:
    """Nobody can sign in as a simulated annotator afterwards, and what they held goes back to the queue."""
    user.set_unusable_password()
    user.save(update_fields=["password"])
    queue.release(project, user)


def summarise(
    project: Project, tallies: list[Tally], options: dict[str, Any], seconds: float
) -> dict[str, Any]:
    times = sorted(milliseconds for tally in tallies for milliseconds in tally.milliseconds)
    errors = [error for tally in tallies for error in tally.errors]
    judged = sum(tally.judged for tally in tallies)
    decided = judged - sum(tally.ties for tally in tallies)
    return {
        "project": project.slug,
        "answers": "shuffled" if options["shuffled"] else options["taste"],
        "noise": options["noise"],
        "position_bias": options["position_bias"],
        "annotators": len(tallies),
        "judged": judged,
        "ties": judged - decided,
        "left_share": round(sum(tally.left for tally in tallies) / decided, 3) if decided else None,
        "seconds": round(seconds, 2),
        "next_ms_p50": round(statistics.median(times), 1) if times else None,
        "next_ms_p95": round(times[int(0.95 * (len(times) - 1))], 1) if times else None,
        "errors": len(errors),
        "first_error": errors[0] if errors else None,
    }
