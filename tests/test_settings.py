"""Settings refuse what cannot work, all of it at once, and the safe values are really in force."""

from __future__ import annotations

import ast
import os
import re
import secrets
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.db import ConnectionHandler

from rlhf_app.environment import Environment, database_problem, read_env_file
from rlhf_app.settings import database

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "rlhf_app" / "settings.py"


def start(tmp_path: Path, command: str = "check", **environment: str) -> subprocess.CompletedProcess[str]:
    """`manage.py COMMAND` in a process that knows these settings, and none of whoever runs the tests."""
    given = {
        "PATH": os.environ["PATH"],
        "SECRET_KEY": secrets.token_urlsafe(64),
        "REDIS_URL": "redis://:secret-word@127.0.0.1:1/0",
        "DATABASE_URL": f"sqlite:///{tmp_path}/db.sqlite3",
        "ARTIFACT_ROOT": str(tmp_path / "artifacts"),
        **environment,
    }
    return subprocess.run(
        [sys.executable, "manage.py", *command.split()],
        cwd=ROOT,
        env=given,
        capture_output=True,
        text=True,
        timeout=60,
    )


def problems(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """name -> "found ..., wanted ..." of every line that the refused start printed."""
    lines = re.findall(r"^  ([A-Z_]+): (found .+, wanted .+)$", done.stderr, re.MULTILINE)
    return dict(lines)


def test_every_problem_is_named_at_once(tmp_path: Path) -> None:
    blocked = tmp_path / "a-file"
    blocked.write_text("not a folder")
    done = start(
        tmp_path,
        RLHF_ENV="production",
        SECRET_KEY="",
        ALLOWED_HOSTS="",
        DEBUG="perhaps",
        DATABASE_URL="postgresql://rlhf:hush-hush@127.0.0.1:1/rlhf",
        REDIS_URL="amqp://somewhere",
        ARTIFACT_ROOT=str(blocked / "artifacts"),
        LEASE_SECONDS="5",
        RUN_LEASE_SECONDS="9" * 5000,
        TRUSTED_PROXIES="10.0.0.0/8, *",
    )
    assert done.returncode == os.EX_CONFIG
    names = {
        "SECRET_KEY",
        "ALLOWED_HOSTS",
        "DEBUG",
        "DATABASE_URL",
        "REDIS_URL",
        "ARTIFACT_ROOT",
        "LEASE_SECONDS",
        "RUN_LEASE_SECONDS",
        "TRUSTED_PROXIES",
    }
    assert set(problems(done)) == names
    assert "hush-hush" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "key", ["", "short", "change-me-" * 6, "django-insecure-" + "a1b2c3d4e5" * 5, "ab" * 30], ids=repr
)
def test_a_key_that_others_could_know_is_refused_and_not_shown(tmp_path: Path, key: str) -> None:
    done = start(tmp_path, SECRET_KEY=key, RLHF_ENV="production", ALLOWED_HOSTS="rlhf.example.org")
    assert done.returncode == os.EX_CONFIG
    assert "SECRET_KEY" in problems(done)
    assert not key or key not in done.stderr


def test_the_sample_of_the_example_file_is_refused(tmp_path: Path) -> None:
    sample = read_env_file(ROOT / ".env.example")
    done = start(tmp_path, **{**sample, "ARTIFACT_ROOT": str(tmp_path / "artifacts")})
    assert done.returncode == os.EX_CONFIG
    assert {"SECRET_KEY", "DATABASE_URL", "REDIS_URL"} <= set(problems(done))


def test_an_unreachable_broker_is_named_without_its_password(tmp_path: Path) -> None:
    done = start(
        tmp_path, RLHF_ENV="production", ALLOWED_HOSTS=""
    )  # ALLOWED_HOSTS makes it look at everything
    assert "127.0.0.1:1" in problems(done)["REDIS_URL"]
    assert "secret-word" not in done.stderr


def test_the_deployment_check_is_clean_with_production_settings(tmp_path: Path) -> None:
    done = start(
        tmp_path,
        "check --deploy --fail-level WARNING",
        RLHF_ENV="production",
        ALLOWED_HOSTS="rlhf.example.org",
    )
    assert done.returncode == 0, done.stderr
    assert "no issues (0 silenced)" in done.stdout


def test_sqlite_syncs_fully_writes_ahead_and_queues_writers(tmp_path: Path, django_db_blocker: Any) -> None:
    """Asked of a connection of its own, so that it holds whichever database the other tests use."""
    connections = ConnectionHandler({"default": database(f"sqlite:///{tmp_path}/db.sqlite3")})
    with django_db_blocker.unblock(), closing(connections["default"]) as connection:

        def pragma(name: str) -> object:
            with connection.cursor() as cursor:
                return cursor.execute(f"PRAGMA {name}").fetchone()[0]

        assert pragma("journal_mode") == "wal"
        assert pragma("synchronous") == 2  # FULL
        assert pragma("busy_timeout") == 20_000
        assert pragma("foreign_keys") == 1
        with (
            transaction_of(connection),
            closing(sqlite3.connect(tmp_path / "db.sqlite3", timeout=0)) as other,
        ):
            # The transaction has written nothing yet and holds the write lock already.
            refused = pytest.raises(sqlite3.OperationalError, other.execute, "BEGIN IMMEDIATE")
            assert "locked" in str(refused.value)


@contextmanager
def transaction_of(connection: Any) -> Iterator[None]:
    connection.set_autocommit(False, force_begin_transaction_with_broken_autocommit=True)
    yield
    connection.rollback()
    connection.set_autocommit(True)


def names_read() -> set[str]:
    """The first argument of every call of a reader in settings.py."""
    tree = ast.parse(SETTINGS.read_text(encoding="utf-8"))
    return {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "env"
        and node.func.attr in ("text", "flag", "integer", "choice", "names", "networks", "folder", "secret")
        and isinstance(node.args[0], ast.Constant)
    }


def test_the_example_file_names_what_is_read_and_nothing_else() -> None:
    compose = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text(encoding="utf-8")))
    assert set(read_env_file(ROOT / ".env.example")) == names_read() | compose
    assert "os.environ[" not in SETTINGS.read_text(encoding="utf-8")


def test_every_name_of_the_example_file_is_explained() -> None:
    blocks = (ROOT / ".env.example").read_text(encoding="utf-8").strip().split("\n\n")
    for block in blocks[1:]:
        *comments, setting = block.splitlines()
        assert comments and all(line.startswith("# ") for line in comments), setting


def test_readers_note_problems_and_go_on() -> None:
    env = Environment({"N": "seven", "LOW": "1", "F": "maybe", "C": "red"})
    assert env.integer("N", 3, low=0, high=9) == 3
    assert env.integer("LOW", 5, low=2, high=9) == 5
    assert env.integer("ABSENT", 4, low=0, high=9) == 4
    assert env.flag("F", True) is False
    assert env.choice("C", "blue", ("blue", "green")) == "blue"
    assert [problem.split(":")[0] for problem in env.problems] == ["N", "LOW", "F", "C"]


def test_an_artefact_folder_must_take_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    env = Environment({"A": str(tmp_path / "file"), "B": str(tmp_path / "new" / "folder")})
    env.folder("A", tmp_path)
    assert env.folder("B", tmp_path).is_dir()
    assert [problem.split(":")[0] for problem in env.problems] == ["A"]


def test_a_database_that_does_not_answer_is_a_problem_and_one_that_does_is_none(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound, not listening: a connection is refused
        postgres = {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": "127.0.0.1",
            "PORT": str(nobody.getsockname()[1]),
            "NAME": "rlhf",
            "USER": "rlhf",
            "PASSWORD": "hush-hush",
        }
        problem = database_problem(postgres)
    assert problem is not None and problem.startswith("DATABASE_URL: found rlhf (")
    assert "hush-hush" not in problem
    sqlite = {"ENGINE": "django.db.backends.sqlite3", "NAME": tmp_path / "db.sqlite3"}
    assert database_problem(sqlite) is None
    assert database_problem({**sqlite, "NAME": tmp_path / "no" / "such" / "folder.sqlite3"}) is not None


def test_the_env_file_is_read_without_comments_and_quotes(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("# NOT=this\nA=1\n\nB = 'two words'\nURL=redis://:a=b@host/0\n")
    assert read_env_file(path) == {"A": "1", "B": "two words", "URL": "redis://:a=b@host/0"}
