"""`./run test`: lint, types and every test, on SQLite and again on PostgreSQL; it ends with what was skipped.

`--only lint|types|tests` does a part of it. Other arguments go to pytest (`./run test tests/core -k kl`):
then only those tests run, on SQLite or on DATABASE_URL. With CI=true a skipped test is a failure.
"""

from __future__ import annotations

import argparse
import os
import secrets
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.postgres import NoPostgres, server

ROOT = Path(__file__).resolve().parent.parent
TYPED = ["rlhf_app", "feedback", "training"]
CI = os.environ.get("CI", "").lower() in ("1", "true")
WITH_PROCESSES = "processes or browser"
"""These start servers, workers and browsers: one at a time, or they measure each other."""


@dataclass
class Result:
    title: str
    passed: bool
    seconds: float
    said: str = ""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(test, reason)"""
    ran: set[str] = field(default_factory=set)


def step(title: str, command: list[str], environment: Mapping[str, str] | None = None) -> Result:
    print(f"\n== {title}", flush=True)
    begin = time.monotonic()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, env={**os.environ, **(environment or {})})
    return Result(title, done.returncode == 0, time.monotonic() - begin)


def pytest(title: str, arguments: list[str], environment: Mapping[str, str] | None = None) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        result = step(title, ["-m", "pytest", "-q", f"--junitxml={report}", *arguments], environment)
        if report.exists():
            read_report(result, report)
    return result


def read_report(result: Result, report: Path) -> None:
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    total, bad = 0, 0
    for suite in suites:
        total += int(suite.get("tests", 0))
        bad += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
        for case in suite.iter("testcase"):
            name = f"{case.get('classname')}::{case.get('name')}".lstrip(":")
            reasons = [skipped.get("message") or "no reason given" for skipped in case.iter("skipped")]
            result.skipped += [(name, reason) for reason in reasons]
            if not reasons:
                result.ran.add(name)
    result.said = f"{total - bad - len(result.skipped)} passed, {bad} failed, {len(result.skipped)} skipped"


def lint() -> list[Result]:
    return [
        step("lint: mistakes (ruff check)", ["-m", "ruff", "check", "--quiet"]),
        step("lint: layout (ruff format --check)", ["-m", "ruff", "format", "--check", "--quiet"]),
    ]


def types() -> list[Result]:
    # mypy's Django plugin imports the settings, which refuse to be read without these two.
    unused = {"SECRET_KEY": secrets.token_urlsafe(64), "REDIS_URL": "redis://127.0.0.1:1/0"}
    return [step("types (mypy)", ["-m", "mypy", *TYPED], unused)]


def tests() -> list[Result]:
    two = ["-n", "2", "--dist", "loadfile"] if (os.cpu_count() or 1) > 1 else []
    results = [
        pytest("tests", ["-m", f"not ({WITH_PROCESSES})", *two]),
        pytest("tests with real processes and browsers", ["-m", WITH_PROCESSES]),
    ]
    title = "tests of what uses the database, on PostgreSQL"
    again = ["-m", f"not ({WITH_PROCESSES})", "--ignore=tests/core", "--ignore=tests/browser", *two]
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        return results  # all of them ran there already
    try:
        with server() as url:
            results.append(pytest(title, again, {"DATABASE_URL": url}))
    except NoPostgres as reason:
        results.append(
            Result(title, not CI, 0.0, "not run", [("all of them", f"no PostgreSQL server: {reason}")])
        )
    return results


def summary(results: list[Result]) -> int:
    print("\n== summary")
    ran = set().union(*(result.ran for result in results))
    nowhere = False
    reasons: dict[tuple[str, str], list[str]] = defaultdict(list)
    for result in results:
        state = "ok    " if result.passed else "FAILED"
        print(
            f"  {state} {result.title}: {result.seconds:.0f} s" + (f", {result.said}" if result.said else "")
        )
        for name, reason in result.skipped:
            elsewhere = name in ran  # asks something of one database alone, say
            nowhere = nowhere or not elsewhere
            reasons[result.title, reason].append(name + (" (it ran above)" if elsewhere else ""))
    if reasons:
        print("\n  Skipped:")
    for (title, reason), names in reasons.items():
        print(f"    {title}: {reason}")
        for name in names:
            print(f"      {name}")
    failed = not all(result.passed for result in results)
    if nowhere and CI:
        print("\n  CI skips nothing: what ran nowhere counts as a failure.")
        failed = True
    print(
        "\n  " + ("FAILED" if failed else "all passed" if not reasons else "passed, with the skips above"),
        flush=True,
    )
    return 1 if failed else 0


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./run test", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", choices=("lint", "types", "tests"))
    options, for_pytest = parser.parse_known_args(arguments)
    if for_pytest:
        return summary([pytest("chosen tests", for_pytest)])
    parts = {"lint": lint, "types": types, "tests": tests}
    chosen = [options.only] if options.only else list(parts)
    results: list[Result] = []
    for name in chosen:
        results += parts[name]()
    return summary(results)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
