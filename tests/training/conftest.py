"""Runs whose trainer is the fake one of this folder."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from feedback.models import Project
from tests import factories
from training import supervisor
from training.models import ModelVersion, Run, Snapshot

SUPERVISE = Path(__file__).with_name("supervise.py")
FAKE_TRAINER = Path(__file__).with_name("fake_trainer.py")
BOOT = "import runpy, sys; sys.path.insert(0, ''); runpy.run_path(sys.argv.pop(1), run_name='__main__')"


@pytest.fixture
def fake_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "TRAINER_COMMAND", [sys.executable, "-c", BOOT, str(FAKE_TRAINER)])
    monkeypatch.setattr(settings, "RUN_CANCEL_GRACE_SECONDS", 5)
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.02)


@pytest.fixture
def make_fake_run(fake_trainer: None, project: Project) -> Callable[..., Run]:
    """A queued run with real input files; keywords go to the fake trainer."""

    def make(*, kind: str = "ppo", purpose: dict[str, Any] | None = None, **fake: Any) -> Run:
        policy = factories.make_model_version(project=project, kind=ModelVersion.Kind.BASE)
        inputs: dict[str, Any] = {"policy": policy, "reference": policy}
        inputs["prompts"] = factories.make_snapshot(project=project, kind=Snapshot.Kind.PROMPTS)
        run = factories.make_run(
            project=project, kind=kind, config={"fake": fake}, seed=7, inputs=inputs, purpose=purpose or {}
        )
        return run

    return make


def starts(run: Run) -> list[dict[str, Any]]:
    """What the fake trainers of a run wrote when they started."""
    path = run.directory / "starts.log"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and waits to be reaped does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


MakeRun = Callable[..., Run]


def chain(seed: int, steps: int) -> str:
    """The fake trainer's model, computed here."""
    state = str(seed)
    for step in range(1, steps + 1):
        state = hashlib.sha256(f"{state}:{step}".encode()).hexdigest()
    return state


def once_started(run: Run, action: Callable[[], Any]) -> Callable[[], bool]:
    """A `should_stop` that acts once, when the trainer works, and never stops the supervisor."""
    calls: list[int] = []

    def should_stop() -> bool:
        if not calls and starts(run):
            calls.append(1)
            action()
        return False

    return should_stop


def after(run: Run) -> Run:
    run.refresh_from_db()
    return run


def hold(run: Run, *, seconds: float) -> None:
    """As if another worker held the run, for this long from now."""
    Run.objects.filter(pk=run.pk).update(
        state="running",
        fencing_token=5,
        fruitless_starts=1,
        worker="elsewhere:1",
        lease_expires_at=timezone.now() + timedelta(seconds=seconds),
    )


# --- workers as processes of their own --------------------------------------------------------------

Worker = subprocess.Popen[bytes]


def database_url() -> str:
    """The test database, for another process."""
    facts = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{facts['NAME']}"
    account = f"{quote(facts['USER'])}:{quote(facts['PASSWORD'])}"
    return f"postgresql://{account}@{facts['HOST']}:{facts['PORT']}/{facts['NAME']}"


def worker_environment(**changed: Any) -> dict[str, str]:
    """Database, artefacts and trainer of this test, and short leases, for a worker process."""
    facts = {
        "ARTIFACT_ROOT": str(settings.ARTIFACT_ROOT),
        "TRAINER_COMMAND": settings.TRAINER_COMMAND,
        "TRAINER_THREADS": 1,
        "RUN_LEASE_SECONDS": 2,
        "RUN_HEARTBEAT_SECONDS": 0.5,
        "RUN_CANCEL_GRACE_SECONDS": 3,
    }
    return {
        **os.environ,
        "PYTHONPATH": str(settings.BASE_DIR),
        "DJANGO_SETTINGS_MODULE": "tests.training.worker_settings",
        "DATABASE_URL": database_url(),
        "WORKER_SETTINGS": json.dumps({**facts, **changed}),
    }


@pytest.fixture
def start() -> Iterator[Callable[..., Worker]]:
    """Start a worker process on runs; none is left behind."""
    workers: list[Worker] = []

    def start_worker(*runs: Run) -> Worker:
        command = [sys.executable, str(SUPERVISE), *(str(run.pk) for run in runs)]
        worker = subprocess.Popen(command, env=worker_environment(), cwd=settings.BASE_DIR)
        workers.append(worker)
        return worker

    yield start_worker
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait()
