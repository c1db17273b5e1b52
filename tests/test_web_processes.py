"""The web program as it is started, with several processes and with PostgreSQL's pool."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil
import psycopg
import pytest

from rlhf_app.handler import THREADS
from rlhf_app.processes import web_program
from rlhf_app.settings import POOL
from tests.postgres import NoPostgres, server

pytestmark = [pytest.mark.processes, pytest.mark.slow]
ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def until(condition: Callable[[], object], seconds: float = 30) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


class Web:
    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process, self.port = process, port

    def health(self) -> int:
        """The status that the page answers with; 0 when nobody answers."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health/", timeout=30) as answer:
                return int(answer.status)
        except HTTPError as error:
            return error.code
        except OSError:
            return 0

    def workers(self) -> list[psutil.Process]:
        """Those of its children that serve: uvicorn's, not the one that watches shared memory."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return [child for child in alive if "spawn_main" in " ".join(child.cmdline())]


@contextmanager
def web(folder: Path, database: str, *, count: int) -> Iterator[Web]:
    environment = os.environ | {
        "RLHF_ENV": "development", "DATABASE_URL": database, "SECRET_KEY": secrets.token_urlsafe(64),
        "REDIS_URL": "redis://127.0.0.1:1/0", "ARTIFACT_ROOT": str(folder), "WEB_PROCESSES": str(count),
        "DJANGO_SETTINGS_MODULE": "rlhf_app.settings",
    }  # fmt: skip
    port = free_port()
    command = web_program("127.0.0.1", port, behind_proxy=False, trusted="", count=count).command
    with (folder / "web.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    family: list[psutil.Process] = []
    try:
        site = Web(process, port)
        assert until(lambda: site.health() == 200), (folder / "web.log").read_text()[-2000:]
        assert count == 1 or until(lambda: len(site.workers()) == count)
        family = psutil.Process(process.pid).children(recursive=True)
        yield site
    finally:
        process.kill()
        process.wait()
        for child in family:
            if child.is_running():
                child.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends them")
def test_workers_die_with_a_killed_parent_and_leave_the_port(tmp_path: Path) -> None:
    with web(tmp_path, f"sqlite:///{tmp_path}/db.sqlite3", count=2) as site:
        workers = site.workers()
        site.process.kill()
        site.process.wait()
        assert until(lambda: not any(worker.is_running() for worker in workers), 10)
        assert site.health() == 0
        with closing(socket.socket()) as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", site.port))


@pytest.mark.skipif(sys.platform != "linux", reason="as above")
def test_a_killed_worker_is_replaced(tmp_path: Path) -> None:
    with web(tmp_path, f"sqlite:///{tmp_path}/db.sqlite3", count=2) as site:
        first = site.workers()[0]
        first.kill()
        assert until(lambda: first not in site.workers() and len(site.workers()) == 2)
        assert until(lambda: site.health() == 200)


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    try:
        with server() as url:
            yield url
    except NoPostgres as error:
        pytest.skip(str(error))


def connected(watcher: psycopg.Connection[Any]) -> list[int]:
    """The server's processes that serve somebody else than us."""
    found = watcher.execute(
        "SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
    )
    return sorted(pid for (pid,) in found.fetchall())


def test_a_pool_keeps_a_few_connections_and_outlives_them(tmp_path: Path, postgres: str) -> None:
    with psycopg.connect(postgres, autocommit=True) as watcher, web(tmp_path, postgres, count=1) as site:
        with ThreadPoolExecutor(40) as visitors:
            assert set(visitors.map(lambda _n: site.health(), range(400))) == {200}
        kept = connected(watcher)
        assert POOL["min_size"] <= len(kept) <= THREADS <= POOL["max_size"]
        for _number in range(20):
            assert site.health() == 200
        assert connected(watcher) == kept, "none was opened for a request, and none was lost"
        watcher.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        )
        assert until(lambda: not set(connected(watcher)) & set(kept))
        with ThreadPoolExecutor(8) as visitors:
            assert set(visitors.map(lambda _n: site.health(), range(80))) == {200}, "cut ones are not used"
