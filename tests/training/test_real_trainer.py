"""The real trainer under the supervisor: a tiny model, kills in the middle of PPO, the same bytes."""

from __future__ import annotations

import html
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings

from feedback.models import Comparison, Completion, Project, User
from tests import factories
from tests.core import tiny
from tests.training.conftest import Worker, alive, wait_until
from training import registry, supervisor
from training.launch import default_inputs, launch
from training.models import ModelVersion, Run, RunMetric

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.processes, pytest.mark.slow]

SETTINGS: dict[str, dict[str, Any]] = {
    "reward_model": {"batch_pairs": 8, "max_length": 64},
    "ppo": {
        "steps": 24,
        "rollout_prompts": 8,
        "max_new_tokens": 8,
        "epochs": 2,
        "checkpoint_every": 2,
        "kl_limit": 1000.0,
    },
    "sample": {"max_new_tokens": 8},
}


def queue(project: Project, kind: str, *, purpose: dict[str, Any] | None = None) -> Run:
    inputs = default_inputs(project, kind, actor=None)
    return launch(project, kind, SETTINGS[kind], actor=None, seed=11, inputs=inputs, purpose=purpose)


def finish(run: Run, *, should_stop: Callable[[], bool] = supervisor.never) -> Run:
    supervisor.supervise(run.pk, should_stop=should_stop)
    run.refresh_from_db()
    assert run.state == "done", run.outcome
    return run


@pytest.fixture
def loop(project: Project, engineer: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a tiny promoted model, judgements, and a reward model that the real trainer made."""
    monkeypatch.setattr(supervisor, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(settings, "TRAINER_THREADS", 1)  # two would spin against whatever else runs here
    base = registry.register_base(project, tiny.folder(tmp_path / "tiny"), actor=engineer, note="tiny")
    registry.promote(base, actor=engineer, reason="start", expected=None)
    for number in range(16):
        prompt = factories.make_prompt(project=project, text=f"what is {number}")
        factories.make_preference(
            comparison=factories.make_comparison(prompt=prompt, texts=("it is red and red", "it is blue"))
        )
    finish(queue(project, "reward_model"))
    return project


def test_kills_of_trainer_and_worker_in_ppo_change_no_byte(
    loop: Project, start: Callable[..., Worker]
) -> None:
    undisturbed = finish(queue(loop, "ppo"))
    disturbed = queue(loop, "ppo")
    killed: list[int] = []

    def kill_the_trainer() -> bool:
        run = Run.objects.get(pk=disturbed.pk)
        if not killed and run.step >= 5 and run.pid:
            killed.append(run.pid)
            os.kill(run.pid, signal.SIGKILL)
        return run.step >= 10  # and hand the run back later on

    supervisor.supervise(disturbed.pk, should_stop=kill_the_trainer)
    disturbed.refresh_from_db()
    assert killed and disturbed.attempt == 2 and disturbed.state == "queued"

    worker = start(disturbed)
    wait_until(lambda: RunMetric.objects.filter(run=disturbed, step__gte=14).exists(), seconds=60)
    trainer = Run.objects.get(pk=disturbed.pk).pid
    worker.kill()
    worker.wait()
    assert trainer is not None
    wait_until(lambda: not alive(trainer), seconds=5)
    queued = Run.objects.filter(pk=disturbed.pk, state="queued")
    wait_until(lambda: (supervisor.sweep(), queued.exists())[1], seconds=10)
    finish(disturbed)

    hashes = [ModelVersion.objects.get(run=run).content_hash for run in (undisturbed, disturbed)]
    assert hashes[0] == hashes[1]
    assert metrics(undisturbed) == metrics(disturbed)
    assert disturbed.attempt == 4


def metrics(run: Run) -> list[dict[str, float]]:
    """All that does not measure time."""
    timed = ("time/", "speed/")
    rows = RunMetric.objects.filter(run=run).order_by("step").values_list("values", flat=True)
    return [{path: value for path, value in row.items() if not path.startswith(timed)} for row in rows]


def test_the_real_trainer_writes_completions_that_go_up_for_judgement(loop: Project) -> None:
    finish(queue(loop, "sample", purpose={"compare": True}))
    written = Completion.objects.filter(model_version=registry.promoted(loop))
    assert 16 <= written.count() <= 32 and all(row.logprob is not None for row in written)
    assert Comparison.objects.filter(project=loop, state="open").count() > 0


def test_a_cancel_stops_the_real_trainer_at_a_safe_point(loop: Project, engineer: User) -> None:
    run = queue(loop, "ppo")

    def cancel() -> bool:
        if RunMetric.objects.filter(run=run).exists():
            supervisor.request_cancel(run, actor=engineer)
        return False

    supervisor.supervise(run.pk, should_stop=cancel)
    run.refresh_from_db()
    assert run.state == "cancelled" and not ModelVersion.objects.filter(run=run).exists()


def test_the_shown_commands_repeat_a_run_to_the_byte(loop: Project, engineer: User, sign_in: Any) -> None:
    """As a reader would: copied from the page into a shell, of a run that ended long ago."""
    for kind in ("ppo", "sample"):
        run = finish(queue(loop, kind))
        page = sign_in(engineer).get(f"/p/{loop.slug}/runs/{run.pk}/").content.decode()
        shown = html.unescape(re.findall(r"<pre tabindex=.0.><code>(.*?)</code></pre>", page, re.DOTALL)[0])
        done = subprocess.run(["bash", "-e", "-c", shown], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert run.outcome["content_hash"] in page
        assert f'"content_hash": "{run.outcome["content_hash"]}"' in done.stdout
        again = run.directory.with_name(f"{run.pk}-again")
        assert '"phase": "loading"' in (again / "events.jsonl").read_text(), "it was done again"


def children(pid: int) -> list[int]:
    return [int(found) for found in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_processes_share_a_run_and_leave_nobody_behind(
    loop: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher is killed once: its ranks go with it, the run goes on and ends as it would have."""
    alone = finish(queue(loop, "ppo"))
    monkeypatch.setattr(settings, "TRAINER_PROCESSES", 2)
    run = queue(loop, "ppo")
    ranks: list[int] = []

    def kill_the_launcher() -> bool:
        now = Run.objects.get(pk=run.pk)
        if not ranks and now.step >= 5 and now.pid:
            ranks.extend(children(now.pid))
            os.kill(now.pid, signal.SIGKILL)
        return False

    finish(run, should_stop=kill_the_launcher)
    assert len(ranks) == 2 and run.attempt == 2
    wait_until(lambda: not any(alive(rank) for rank in ranks), seconds=5)
    one, two = (metrics(each)[-1]["reward/mean"] for each in (alone, run))
    assert one == pytest.approx(two, abs=1e-3)


def test_a_cancel_reaches_every_process(
    loop: Project, engineer: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settings, "TRAINER_PROCESSES", 2)
    run = queue(loop, "ppo")
    ranks: list[int] = []

    def cancel() -> bool:
        now = Run.objects.get(pk=run.pk)
        if not ranks and now.step >= 2 and now.pid:
            ranks.extend(children(now.pid))
            supervisor.request_cancel(run, actor=engineer)
        return False

    supervisor.supervise(run.pk, should_stop=cancel)
    run.refresh_from_db()
    assert run.state == "cancelled" and len(ranks) == 2
    wait_until(lambda: not any(alive(rank) for rank in ranks), seconds=5)
