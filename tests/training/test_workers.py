"""Workers as processes of their own: killed, stopped, doubled, shut down. Whatever happens, one result."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.db import connection
from django.utils import timezone

from rlhf_app.broker import answers, server_program
from rlhf_app.celery import app
from rlhf_app.local import free_port
from tests.training.conftest import Worker, alive, starts, wait_until, worker_environment
from training import supervisor
from training.models import ModelVersion, Run, RunMetric

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes, pytest.mark.slow]


def now(run: Run) -> Run:
    run.refresh_from_db()
    return run


def working(run: Run) -> bool:
    return RunMetric.objects.filter(run=run, step__gte=4).exists()


def weights(run: Run) -> str:
    return (ModelVersion.objects.get(run=run).path / "model.safetensors").read_text()


def stop_between_writes(worker: Worker) -> None:
    """SIGSTOP, but not with SQLite's write lock in its hand: that would hold everybody up."""
    while True:
        worker.send_signal(signal.SIGSTOP)
        if connection.vendor != "sqlite":
            return
        with closing(sqlite3.connect(connection.settings_dict["NAME"], timeout=0.2)) as other:
            try:
                other.execute("BEGIN IMMEDIATE")
                other.rollback()
                return
            except sqlite3.OperationalError:
                worker.send_signal(signal.SIGCONT)
                time.sleep(0.03)


@pytest.fixture
def undisturbed(make_fake_run: Callable[..., Run]) -> str:
    run = make_fake_run(steps=40)
    supervisor.supervise(run.pk)
    return weights(run)


def test_a_killed_worker_takes_its_trainer_along_and_the_run_resumes(
    make_fake_run: Callable[..., Run], start: Callable[..., Worker], undisturbed: str
) -> None:
    run = make_fake_run(steps=40, seconds=0.05)
    worker = start(run)
    wait_until(lambda: working(run))
    worker.kill()
    worker.wait()
    wait_until(lambda: not alive(starts(run)[0]["pid"]), seconds=5)
    assert now(run).state == "running", "nobody was there to say otherwise"
    wait_until(lambda: (supervisor.sweep(), now(run).state == "queued")[1], seconds=5)
    assert start(run).wait(30) == 0
    assert (now(run).state, len(starts(run)), weights(run)) == ("done", 2, undisturbed)
    assert RunMetric.objects.filter(run=run).count() == 40


def test_of_many_deliveries_at_once_one_trains(
    make_fake_run: Callable[..., Run], start: Callable[..., Worker], undisturbed: str
) -> None:
    run = make_fake_run(steps=40, seconds=0.02)
    workers = [start(run) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert (now(run).state, run.attempt, len(starts(run)), weights(run)) == ("done", 1, 1, undisturbed)


def test_a_worker_stopped_past_its_lease_changes_nothing_when_it_wakes(
    make_fake_run: Callable[..., Run], start: Callable[..., Worker], undisturbed: str
) -> None:
    run = make_fake_run(steps=40, seconds=0.1)
    stale = start(run)
    wait_until(lambda: working(run))
    stop_between_writes(stale)
    wait_until(lambda: (supervisor.sweep(), now(run).state == "queued")[1], seconds=20)
    successor = start(run)
    wait_until(lambda: len(starts(run)) == 2, seconds=60)
    assert not alive(starts(run)[0]["pid"]), "the stale trainer was ended first"
    stale.send_signal(signal.SIGCONT)
    assert stale.wait(10) == 0, "it finds its token refused and leaves"
    assert successor.wait(30) == 0
    assert (now(run).state, len(starts(run)), weights(run)) == ("done", 2, undisturbed)
    assert ModelVersion.objects.filter(run=run).count() == 1


def test_a_worker_asked_to_end_hands_back_and_ends(
    make_fake_run: Callable[..., Run], start: Callable[..., Worker], undisturbed: str
) -> None:
    run = make_fake_run(steps=40, seconds=0.1)
    worker = start(run)
    wait_until(lambda: working(run))
    asked = timezone.now()
    worker.terminate()
    assert worker.wait(5) == -signal.SIGTERM
    assert (timezone.now() - asked).total_seconds() < 4
    assert (now(run).state, run.lease_expires_at, run.fruitless_starts) == ("queued", None, 0)
    assert not alive(starts(run)[0]["pid"])
    assert start(run).wait(30) == 0
    assert (now(run).state, weights(run)) == ("done", undisturbed)


# --- Celery itself ----------------------------------------------------------------------------------


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[str]:
    """A real server of the Redis protocol for one test."""
    url = f"redis://:only-here@127.0.0.1:{free_port()}/0"
    port = str(urlsplit(url).port)
    command = [server_program(), "--port", port, "--bind", "127.0.0.1", "--requirepass", "only-here"]
    server = subprocess.Popen([*command, "--save", "", "--dir", tmp_path], stdout=subprocess.DEVNULL)
    wait_until(lambda: answers(url))
    yield url
    server.kill()
    server.wait()


@pytest.fixture
def start_celery(artifact_root: Path, broker: str) -> Iterator[Callable[[], Worker]]:
    workers: list[Worker] = []

    def start_worker() -> Worker:
        quiet = ("--without-gossip", "--without-mingle", "--loglevel", "WARNING")
        worker = subprocess.Popen(
            [sys.executable, "-m", "celery", "-A", "rlhf_app", "worker", "-Q", "train", "-c", "1", *quiet],
            env=worker_environment(CELERY_BROKER_URL=broker),
            cwd=django_settings.BASE_DIR,
        )
        workers.append(worker)
        return worker

    yield start_worker
    for worker in workers:
        worker.kill()
        worker.wait()


def ring(broker: str, run: Run) -> None:
    with app.connection_for_write(broker) as line:
        app.send_task("training.tasks.supervise_run", [run.pk], connection=line)


def test_a_shutdown_of_celery_hands_back_and_the_next_worker_goes_on(
    make_fake_run: Callable[..., Run],
    start_celery: Callable[[], Worker],
    broker: str,
    undisturbed: str,
) -> None:
    run = make_fake_run(steps=40, seconds=0.1)
    worker = start_celery()
    ring(broker, run)
    ring(broker, run)
    wait_until(lambda: working(run))
    asked = time.monotonic()
    worker.terminate()
    assert worker.wait(10) == 0
    assert time.monotonic() - asked < 5
    assert (now(run).state, run.fruitless_starts) == ("queued", 0)
    assert not alive(starts(run)[0]["pid"])
    start_celery()  # nobody rings: the message of the hand-back is waiting
    wait_until(lambda: now(run).state == "done", seconds=30)
    assert (len(starts(run)), weights(run)) == (2, undisturbed)


def test_a_killed_pool_process_takes_its_trainer_along(
    make_fake_run: Callable[..., Run],
    start_celery: Callable[[], Worker],
    broker: str,
    undisturbed: str,
) -> None:
    run = make_fake_run(steps=40, seconds=0.1)
    start_celery()
    ring(broker, run)
    wait_until(lambda: working(run))
    os.kill(int(now(run).worker.rsplit(":", 1)[1]), signal.SIGKILL)
    wait_until(lambda: not alive(starts(run)[0]["pid"]), seconds=5)
    wait_until(lambda: (supervisor.sweep(), now(run).state == "queued")[1], seconds=5)
    ring(broker, run)
    wait_until(lambda: now(run).state == "done", seconds=30)
    assert (len(starts(run)), weights(run)) == (2, undisturbed)


def test_a_cancel_reaches_a_worker_elsewhere(
    make_fake_run: Callable[..., Run], start: Callable[..., Worker]
) -> None:
    run = make_fake_run(steps=4000, seconds=0.05)
    worker = start(run)
    wait_until(lambda: working(run))
    supervisor.request_cancel(run, actor=None)
    assert worker.wait(5) == 0
    assert now(run).state == "cancelled" and not alive(starts(run)[0]["pid"])
