"""One run row <-> one trainer process, with a trainer that has no model (workers: test_workers.py)."""

from __future__ import annotations

import json
import signal
from typing import Any

import pytest

from feedback.models import AuditEntry, User
from tests.training.conftest import MakeRun, after, alive, chain, hold, once_started, starts
from training import supervisor, trainer_process
from training.core import protocol
from training.models import ModelVersion, Run, RunLog, RunMetric, RunSample

pytestmark = pytest.mark.django_db


def test_a_normal_run_is_recorded_and_registered(make_fake_run: MakeRun) -> None:
    run = make_fake_run(steps=5)
    supervisor.supervise(run.pk)
    run = after(run)
    assert (run.state, run.attempt, run.step, run.total_steps) == ("done", 1, 5, 5)
    assert run.lease_expires_at is None and run.pid is None and run.finished_at is not None
    assert [metric.step for metric in RunMetric.objects.filter(run=run)] == [1, 2, 3, 4, 5]
    assert RunMetric.objects.get(run=run, step=3).values["reward/mean"] == 3.0
    assert RunSample.objects.filter(run=run).count() == 5
    assert RunSample.objects.get(run=run, step=1).messages[0]["content"] == "Hello\ufffd?"
    assert list(RunLog.objects.filter(run=run).order_by("pk").values_list("message", flat=True)) == [
        f"step {step}" for step in range(1, 6)
    ]
    version = ModelVersion.objects.get(run=run)
    assert (version.path / "model.safetensors").read_text() == chain(7, 5)
    assert version.parent == run.inputs.get(name="policy").model_version
    assert version.metrics["reward/mean"] == 5.0
    assert protocol.verify(version.path) == version.content_hash == run.outcome["content_hash"]
    assert not (run.directory / "checkpoints").exists()


def test_the_spec_says_all_that_decides_the_result(make_fake_run: MakeRun) -> None:
    run = make_fake_run(steps=1)
    supervisor.supervise(run.pk)
    spec = protocol.read_spec(run.directory)
    assert (spec["kind"], spec["seed"], spec["config"]) == ("ppo", 7, run.config)
    for read in run.inputs.all():
        path = run.directory / spec["inputs"][read.name]["path"]
        assert spec["inputs"][read.name]["sha256"] == read.sha256
        found = protocol.folder_hash(path) if path.is_dir() else protocol.sha256_file(path)
        assert found == read.sha256


def test_the_first_start_decides_the_threads(make_fake_run: MakeRun, settings: Any) -> None:
    settings.TRAINER_THREADS = 3
    run = make_fake_run(steps=300, seconds=0.02)
    supervisor.supervise(run.pk, should_stop=lambda: RunMetric.objects.filter(run=run).exists())
    assert after(run).state == "queued" and run.threads == 3
    settings.TRAINER_THREADS = 1  # another worker goes on with it
    supervisor.supervise(run.pk, should_stop=lambda: len(starts(run)) == 2)
    assert protocol.read_spec(run.directory)["threads"] == after(run).threads == 3


def test_a_spec_from_before_threads_were_recorded_goes_on(make_fake_run: MakeRun) -> None:
    run = make_fake_run(steps=300, seconds=0.02)
    supervisor.supervise(run.pk, should_stop=lambda: RunMetric.objects.filter(run=run).exists())
    spec = protocol.read_spec(run.directory)
    del spec["threads"]
    protocol.write_json(run.directory / "spec.json", spec)
    supervisor.supervise(run.pk, should_stop=lambda: len(starts(run)) == 2)
    assert after(run).state == "queued" and run.threads is None
    assert protocol.read_spec(run.directory) == spec


def test_the_trainer_learns_no_secret(make_fake_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECRET_KEY", "DATABASE_URL", "REDIS_URL", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "canary")
    run = make_fake_run(steps=1)
    supervisor.supervise(run.pk)
    known = set(starts(run)[0]["environment"])
    assert not known & {"SECRET_KEY", "DATABASE_URL", "REDIS_URL", "AWS_SECRET_ACCESS_KEY"}
    assert {"OMP_NUM_THREADS", "RLHF_SUPERVISOR_PID", "PATH"} <= known


def test_a_failure_keeps_its_message_and_hint(make_fake_run: MakeRun) -> None:
    fail = {"code": "out_of_memory", "message": "12 GiB wanted", "hint": "halve rollout_prompts"}
    run = make_fake_run(fail=fail)
    supervisor.supervise(run.pk)
    assert after(run).state == "failed"
    assert run.outcome == {"status": "failed", **fail}
    assert len(starts(run)) == 1 and not ModelVersion.objects.filter(run=run).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_trainer_resumes_to_the_same_bytes(make_fake_run: MakeRun, number: int) -> None:
    run = make_fake_run(steps=7, kill={"step": 6, "signal": number, "times": 1})
    supervisor.supervise(run.pk)
    run = after(run)
    assert (run.state, run.attempt) == ("done", 2)
    assert (ModelVersion.objects.get(run=run).path / "model.safetensors").read_text() == chain(7, 7)
    assert [metric.step for metric in RunMetric.objects.filter(run=run)] == [1, 2, 3, 4, 5, 6, 7]
    assert RunSample.objects.filter(run=run).count() == 7
    warning = RunLog.objects.get(run=run, level="warning").message
    assert signal.Signals(number).name in warning


def test_progress_forgives_earlier_deaths(make_fake_run: MakeRun, settings: Any) -> None:
    """Each start gets two steps further than the one before: no number of deaths makes that hopeless."""
    settings.RUN_MAX_ATTEMPTS = 1
    run = make_fake_run(steps=3, kill={"step": 3, "signal": 9, "times": 1})
    supervisor.supervise(run.pk)
    assert after(run).state == "done"  # the checkpoint at step 2 came in the first start


def test_a_poison_run_ends_with_the_last_lines(make_fake_run: MakeRun) -> None:
    run = make_fake_run(kill={"step": 2, "signal": signal.SIGSEGV, "times": 99})
    supervisor.supervise(run.pk)
    run = after(run)
    assert (run.state, run.attempt, len(starts(run))) == ("failed", 3, 3)
    assert run.outcome["code"] == "trainer_died"
    assert "3 times" in run.outcome["message"] and "SIGSEGV" in run.outcome["message"]
    assert run.outcome["log"].splitlines()[-1] == "about to die at step 2"
    assert run.outcome["hint"]


def test_a_run_that_kills_its_workers_is_poison_too(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    Run.objects.filter(pk=run.pk).update(fruitless_starts=3)
    supervisor.supervise(run.pk)
    assert after(run).state == "failed"
    assert starts(run) == []


def test_a_trainer_that_cannot_be_started(make_fake_run: MakeRun, settings: Any) -> None:
    run = make_fake_run()
    settings.TRAINER_COMMAND = ["/nowhere/python"]
    supervisor.supervise(run.pk)
    assert after(run).state == "failed"
    assert "FileNotFoundError" in run.outcome["message"]


# --- inputs -----------------------------------------------------------------------------------------


def test_a_damaged_model_is_refused_and_marked(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    policy = run.inputs.get(name="policy").model_version
    (policy.path / "config.json").write_text("{}")
    supervisor.supervise(run.pk)
    assert after(run).state == "failed" and starts(run) == []
    assert str(policy) in run.outcome["message"] and "config.json" in run.outcome["message"]
    policy.refresh_from_db()
    assert policy.state == ModelVersion.State.DAMAGED


def test_a_changed_snapshot_is_refused(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    run.inputs.get(name="prompts").snapshot.path.write_text("other\n")
    supervisor.supervise(run.pk)
    assert after(run).state == "failed" and "prompts" in run.outcome["message"] and starts(run) == []


def test_a_spec_that_differs_from_the_row_is_refused(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    run.directory.mkdir(parents=True)
    protocol.write_spec(run.directory, kind="ppo", config={"other": 1}, seed=7, inputs={})
    supervisor.supervise(run.pk)
    assert after(run).state == "failed" and "spec.json" in run.outcome["message"] and starts(run) == []


# --- cancel -----------------------------------------------------------------------------------------


def test_cancel_while_queued(make_fake_run: MakeRun, engineer: User) -> None:
    run = make_fake_run()
    assert supervisor.request_cancel(run, actor=engineer)
    assert run.state == "cancelled" and run.finished_at is not None
    supervisor.supervise(run.pk)
    assert after(run).state == "cancelled" and starts(run) == []
    assert AuditEntry.objects.get(action="run.cancel").actor == engineer


def test_cancel_while_running_stops_at_a_safe_point(make_fake_run: MakeRun, engineer: User) -> None:
    run = make_fake_run(steps=2000, seconds=0.02, checkpoint_every=5000)
    cancel = once_started(run, lambda: supervisor.request_cancel(run, actor=engineer))
    supervisor.supervise(run.pk, should_stop=cancel)
    assert after(run).state == "cancelled"
    assert run.outcome == {"status": "cancelled"} and not alive(starts(run)[0]["pid"])
    assert len(protocol.checkpoints(run.directory)) == 1  # the fake saves when it is asked to stop


def test_cancel_before_the_trainer_listens(make_fake_run: MakeRun, engineer: User) -> None:
    run = make_fake_run(steps=2000, seconds=0.02)

    def cancel_at_once() -> bool:
        supervisor.request_cancel(run, actor=engineer)
        return False

    supervisor.supervise(run.pk, should_stop=cancel_at_once)
    assert after(run).state == "cancelled" and run.attempt == 1


def test_cancel_kills_a_trainer_that_does_not_listen(
    make_fake_run: MakeRun, engineer: User, settings: Any
) -> None:
    settings.RUN_CANCEL_GRACE_SECONDS = 0.3
    run = make_fake_run(steps=2000, seconds=0.02, ignore_sigterm=True, rank=True)

    def cancel() -> bool:
        if (run.directory / "rank.pid").exists():
            supervisor.request_cancel(run, actor=engineer)
        return False

    supervisor.supervise(run.pk, should_stop=cancel)
    assert after(run).state == "cancelled"
    assert not alive(starts(run)[0]["pid"])
    assert not alive(int((run.directory / "rank.pid").read_text()))


def test_cancel_twice_and_after_the_end(make_fake_run: MakeRun, engineer: User) -> None:
    run = make_fake_run(steps=1)
    supervisor.supervise(run.pk)
    assert not supervisor.request_cancel(run, actor=engineer)
    assert after(run).state == "done" and not AuditEntry.objects.filter(action="run.cancel").exists()


def test_a_cancel_survives_the_death_of_the_worker(make_fake_run: MakeRun, engineer: User) -> None:
    run = make_fake_run()
    hold(run, seconds=-1)
    supervisor.request_cancel(run, actor=engineer)
    assert run.state == "running"
    supervisor.sweep()
    assert after(run).state == "cancelled" and run.outcome == {"status": "cancelled"} and run.finished_at


# --- hand-back --------------------------------------------------------------------------------------


def test_a_worker_that_shuts_down_hands_the_run_back(make_fake_run: MakeRun, doorbell: list[Any]) -> None:
    run = make_fake_run(steps=300, seconds=0.02, checkpoint_every=1000)
    supervisor.supervise(run.pk, should_stop=lambda: RunMetric.objects.filter(run=run, step__gte=3).exists())
    run = after(run)
    assert (run.state, run.lease_expires_at, run.fruitless_starts) == ("queued", None, 0)
    assert not alive(starts(run)[0]["pid"])
    assert doorbell == [("training.tasks.supervise_run", (run.pk,))]
    assert trainer_process.newest_checkpoint(run.directory) >= 3
    steps_before = RunMetric.objects.filter(run=run).count()
    supervisor.supervise(run.pk, should_stop=lambda: Run.objects.get(pk=run.pk).step > steps_before)
    events = [json.loads(line) for line in (run.directory / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events if event["type"] == "phase"][1] >= 3, "resumed, not begun again"


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_interrupted_worker_hands_the_run_back(make_fake_run: MakeRun, error: type[BaseException]) -> None:
    run = make_fake_run(steps=2000, seconds=0.02)

    def interrupt() -> None:
        raise error

    with pytest.raises(error):
        supervisor.supervise(run.pk, should_stop=once_started(run, interrupt))
    assert after(run).state == "queued" and run.fruitless_starts == 0
    assert all(not alive(start["pid"]) for start in starts(run))


def test_a_trainer_stopped_by_hand_goes_on(make_fake_run: MakeRun, doorbell: list[Any]) -> None:
    run = make_fake_run(steps=2000, seconds=0.02)

    def stop_it() -> None:
        pid = Run.objects.get(pk=run.pk).pid
        assert pid
        trainer_process.os.kill(pid, signal.SIGTERM)

    supervisor.supervise(run.pk, should_stop=once_started(run, stop_it))
    assert after(run).state == "queued"


# --- events -----------------------------------------------------------------------------------------


def test_a_half_line_waits_for_its_end(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    hold(run, seconds=30)
    run = after(run)
    run.directory.mkdir(parents=True)
    line = json.dumps({"type": "log", "time": 1.0, "message": "whole"}) + "\n"
    (run.directory / "events.jsonl").write_text(line + line[:10])
    assert supervisor._tail(run) and not supervisor._tail(run)
    assert after(run).event_offset == len(line)
    (run.directory / "events.jsonl").write_text(line + line)
    assert supervisor._tail(run)
    assert RunLog.objects.filter(run=run).count() == 2


def test_two_reports_of_one_step_are_one_row(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    hold(run, seconds=30)
    run = after(run)
    run.directory.mkdir(parents=True)
    facts = {"type": "metrics", "time": 1.0, "step": 4, "total_steps": 9, "seconds_left": 2.5}
    for values in ({"loss": 3.0}, {"loss": 2.0, "held_out/loss": 1.0}, {"reward/mean": 0.5}):
        with (run.directory / "events.jsonl").open("a") as file:
            file.write(json.dumps({**facts, "values": values}) + "\n")
        supervisor._tail(run)
    assert RunMetric.objects.get(run=run).values == {"loss": 2.0, "held_out/loss": 1.0, "reward/mean": 0.5}
    assert (after(run).step, run.total_steps, run.seconds_left) == (4, 9, 2.5)
