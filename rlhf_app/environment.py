"""Typed readers of environment variables that collect every problem before anything starts.

A reader never raises on a bad value: it notes `NAME: found ..., wanted ...` and returns the default,
so that one start shows all problems at once (`Environment.refuse_if_broken`).
"""

from __future__ import annotations

import ipaddress
import os
import sqlite3
import sys
import tempfile
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TRUE = {"1", "true", "yes", "on"}
FALSE = {"0", "false", "no", "off"}
LONGEST_NUMBER = 18
"""Digits of a number that anybody means; Python itself refuses to read some thousands."""
PUBLISHED = ("change-me", "changeme", "django-insecure", "replace-me", "example", "secret-key")
"""What samples in documentation contain, ours included: such a secret is none."""


def read_env_file(path: Path) -> dict[str, str]:
    """`NAME=value` lines of a file; blank lines and `#` comments are skipped; quotes are stripped."""
    if not path.is_file():
        return {}
    values: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.strip().partition("=")
        if separator and not name.startswith("#"):
            values[name.strip()] = value.strip().strip("\"'")
    return values


class Environment:
    """One mapping of names to strings, read with a type each."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self.values = values
        self.problems: list[str] = []

    def problem(self, name: str, found: str, wanted: str) -> None:
        self.problems.append(f"{name}: found {found}, wanted {wanted}")

    def text(self, name: str, default: str = "") -> str:
        return self.values.get(name) or default

    def named(self) -> set[str]:
        """The names that a problem is known of."""
        return {problem.split(":")[0] for problem in self.problems}

    def secret(self, name: str, *, length: int, default: str) -> str:
        """Random text that nobody else knows; its value never gets into a message."""
        value = self.text(name)
        found = ""
        if not value:
            found = "nothing"
        elif any(sample in value.lower() for sample in PUBLISHED):
            found = "a published sample"
        elif len(value) < length:
            found = f"{len(value)} characters"
        elif len(set(value)) < 10:
            found = f"only {len(set(value))} different characters"
        if found:
            self.problem(name, found, f"{length} random characters or more (`./run secrets` can make them)")
        return value or default

    def flag(self, name: str, default: bool) -> bool:
        value = self.text(name).lower()
        if not value:
            return default
        if value not in TRUE | FALSE:
            self.problem(name, repr(self.values[name]), "one of 1, true, yes, on, 0, false, no, off")
        return value in TRUE

    def integer(self, name: str, default: int, *, low: int, high: int) -> int:
        value = self.text(name)
        if not value:
            return default
        digits = value.removeprefix("-")
        readable = digits.isdecimal() and len(digits) <= LONGEST_NUMBER
        if not readable or not low <= int(value) <= high:
            self.problem(name, repr(value), f"a whole number from {low} to {high}")
            return default
        return int(value)

    def choice(self, name: str, default: str, options: tuple[str, ...]) -> str:
        value = self.text(name, default)
        if value not in options:
            self.problem(name, repr(value), "one of " + ", ".join(options))
            return default
        return value

    def names(self, name: str, default: list[str]) -> list[str]:
        value = self.text(name)
        return [part.strip() for part in value.split(",") if part.strip()] if value else default

    def networks(self, name: str, default: str) -> str:
        """Addresses and networks, comma separated."""
        value = self.text(name, default)
        for part in value.split(","):
            try:
                ipaddress.ip_network(part.strip())
            except ValueError:
                self.problem(name, repr(part), "addresses or networks like 10.0.0.0/8, comma separated")
        return value

    def folder(self, name: str, default: Path) -> Path:
        """A folder that exists (or can be made) and takes a file."""
        path = Path(self.text(name, str(default))).expanduser().resolve()
        try:
            path.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=path).close()  # permissions do not tell of a read-only disk
        except OSError as error:
            self.problem(name, f"{path} ({error.strerror})", "a folder that can be written to")
        return path

    def refuse_if_broken(self) -> None:
        """Exit with status 78 (EX_CONFIG) and a line for each problem."""
        if self.problems:
            print("The environment cannot be used:", *self.problems, sep="\n  ", file=sys.stderr, flush=True)
            sys.exit(os.EX_CONFIG)


# --- what only shows when it is tried ---------------------------------------------------------------


def database_problem(database: Mapping[str, Any]) -> str | None:
    """What is wrong with an entry of Django's DATABASES: it is opened, and SQLite's write lock is taken."""
    try:
        if database["ENGINE"].endswith("postgresql"):
            import psycopg

            psycopg.connect(
                host=database["HOST"],
                port=database["PORT"] or 5432,
                dbname=database["NAME"],
                user=database["USER"],
                password=database["PASSWORD"],
                connect_timeout=3,
            ).close()
        else:
            with closing(sqlite3.connect(database["NAME"], timeout=3)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.rollback()
    except (
        Exception
    ) as error:  # each driver has its own family of errors, and any of them means the same here
        reason = " ".join(str(error).split())
        return f"DATABASE_URL: found {database['NAME']} ({reason}), wanted a database that can be opened"
    return None


def broker_problem(url: str) -> str | None:
    """Why the broker at `url` cannot be used; the password is never in the answer."""
    import redis

    client = redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3)
    try:
        client.ping()
    except redis.RedisError as error:
        parts = urlsplit(url)
        where = f"{parts.hostname}:{parts.port or 6379}"
        return f"REDIS_URL: found {where} ({error}), wanted a server that takes this password and answers"
    finally:
        client.close()
    return None
