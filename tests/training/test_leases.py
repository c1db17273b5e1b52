"""Who holds a run: leases, fencing, the lock, and the sweep that takes back what a dead worker held."""

from __future__ import annotations

import signal
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from tests.training.conftest import MakeRun, after, alive, chain, hold, once_started, starts
from training import registry, supervisor, trainer_process
from training.core import protocol
from training.models import ModelVersion, Run, RunLog

pytestmark = pytest.mark.django_db


def test_a_second_delivery_leaves_a_held_run_alone(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    hold(run, seconds=30)
    supervisor.supervise(run.pk)
    assert after(run).worker == "elsewhere:1" and starts(run) == []


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_a_late_delivery_leaves_an_ended_run_alone(make_fake_run: MakeRun, state: str) -> None:
    run = make_fake_run()
    Run.objects.filter(pk=run.pk).update(state=state)
    supervisor.supervise(run.pk)
    assert after(run).state == state and starts(run) == []


def test_a_message_about_no_run_at_all_is_harmless() -> None:
    supervisor.supervise(987_654)


def test_a_supervisor_without_lease_kills_its_trainer_and_writes_nothing(
    make_fake_run: MakeRun,
) -> None:
    run = make_fake_run(steps=2000, seconds=0.02)
    supervisor.supervise(run.pk, should_stop=once_started(run, lambda: hold(run, seconds=30)))
    assert not alive(starts(run)[0]["pid"])
    run = after(run)
    assert (run.state, run.fencing_token, run.worker) == ("running", 5, "elsewhere:1")


def test_a_lease_lost_while_the_trainer_finished_registers_nothing(
    make_fake_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_fake_run(steps=1)
    store = registry.store

    def slow_store(folder: Any) -> str:
        hold(run, seconds=30)
        return store(folder)

    monkeypatch.setattr(registry, "store", slow_store)
    supervisor.supervise(run.pk)
    assert after(run).state == "running" and not ModelVersion.objects.filter(run=run).exists()
    Run.objects.filter(pk=run.pk).update(lease_expires_at=timezone.now() - timedelta(seconds=1))
    monkeypatch.setattr(registry, "store", store)
    supervisor.sweep()
    supervisor.supervise(run.pk)
    assert after(run).state == "done" and ModelVersion.objects.filter(run=run).count() == 1
    assert len(starts(run)) == 1


def test_death_between_output_and_registration_registers_once(
    make_fake_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor dies at each point of the registration in turn; the next one finishes it, once."""
    for place, name in enumerate(("store", "register_output", "last_metrics")):
        run = make_fake_run(steps=1)
        kept = getattr(registry, name)

        def die(*_args: object, **_facts: object) -> None:
            raise SystemExit(137)

        monkeypatch.setattr(registry, name, die)
        with pytest.raises(SystemExit):
            supervisor.supervise(run.pk)
        monkeypatch.setattr(registry, name, kept)
        assert after(run).state == "queued"
        supervisor.supervise(run.pk)
        assert after(run).state == "done"
        assert len(starts(run)) == 1, "the finished trainer must not run again"
        assert ModelVersion.objects.filter(run__isnull=False).count() == place + 1


def test_words_that_nobody_heard_are_read_before_the_end(
    make_fake_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The supervisor dies while its trainer goes on to the end: the last metrics are not lost."""
    run = make_fake_run(steps=3)

    def deaf(run: Run) -> bool:
        raise SystemExit(137)

    monkeypatch.setattr(supervisor, "_tail", deaf)
    monkeypatch.setattr(trainer_process.Trainer, "kill", lambda trainer: trainer.wait(30))
    with pytest.raises(SystemExit):
        supervisor.supervise(run.pk)
    monkeypatch.undo()
    assert not run.metrics.exists()
    supervisor.supervise(run.pk)
    assert after(run).state == "done" and len(starts(run)) == 1
    assert run.metrics.order_by("step").last().step == 3


def test_a_stale_trainer_is_ended_before_the_next_one_starts(
    make_fake_run: MakeRun, artifact_root: Any
) -> None:
    """Its supervisor was stopped (SIGSTOP): it works on in the run directory without a right to it."""
    run = make_fake_run(steps=3)
    stale_dir = run.directory
    stale_dir.mkdir(parents=True)
    (stale_dir / "checkpoints").mkdir()
    endless = {"fake": {"steps": 9999, "seconds": 0.02}}
    protocol.write_spec(stale_dir, kind="ppo", config=endless, seed=7, inputs={})
    lock = trainer_process.take_lock(stale_dir)
    stale = trainer_process.Trainer(stale_dir, lock)
    trainer_process.os.close(lock)
    try:
        assert stale.exit_code() is None
        (stale_dir / "spec.json").unlink()
        supervisor.supervise(run.pk)
        assert stale.exit_code() == -signal.SIGKILL
    finally:
        stale.kill()
    assert after(run).state == "done"
    assert (ModelVersion.objects.get(run=run).path / "model.safetensors").read_text() == chain(7, 3)


def test_the_lock_of_a_dead_trainer_falls(tmp_path: Any, fake_trainer: None) -> None:
    lock = trainer_process.take_lock(tmp_path)
    with pytest.raises(trainer_process.Occupied):
        trainer_process.take_lock(tmp_path, seconds=0.1)
    trainer_process.os.close(lock)
    trainer_process.os.close(trainer_process.take_lock(tmp_path, seconds=0.1))


def test_lease_times_are_the_databases(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    claimed = supervisor._claim(run.pk)
    assert claimed is not None and claimed.lease_expires_at is not None
    with connection.cursor() as cursor:
        now = "strftime('%s', 'now')" if connection.vendor == "sqlite" else "extract(epoch from now())"
        cursor.execute(f"SELECT {now}")
        seconds = float(cursor.fetchone()[0])
    assert abs(claimed.lease_expires_at.timestamp() - seconds - 30) < 2
    assert supervisor._claim(run.pk) is None


# --- the sweep --------------------------------------------------------------------------------------


def test_the_sweep_takes_back_a_run_whose_lease_ran_out(make_fake_run: MakeRun, doorbell: list[Any]) -> None:
    run, held = make_fake_run(), make_fake_run()
    hold(run, seconds=-1)
    hold(held, seconds=30)
    supervisor.sweep()
    run = after(run)
    assert (run.state, run.fencing_token, run.lease_expires_at) == ("queued", 6, None)
    assert after(held).state == "running"
    assert doorbell == [("training.tasks.supervise_run", (run.pk,))]
    assert "elsewhere:1" in RunLog.objects.get(run=run).message


def test_the_sweep_finds_a_run_that_never_had_a_heartbeat(make_fake_run: MakeRun) -> None:
    run = make_fake_run()
    Run.objects.filter(pk=run.pk).update(state="running", lease_expires_at=None)
    supervisor.sweep()
    assert after(run).state == "queued"


def test_the_sweep_rings_a_lost_message_again_but_not_at_once(
    make_fake_run: MakeRun, doorbell: list[Any]
) -> None:
    run = make_fake_run()
    supervisor.sweep()
    supervisor.sweep()
    assert doorbell == [("training.tasks.supervise_run", (run.pk,))]
    Run.objects.filter(pk=run.pk).update(rung_at=timezone.now() - timedelta(seconds=11))
    supervisor.sweep()
    assert len(doorbell) == 2


def test_while_a_run_is_running_others_are_rung_less_often(
    make_fake_run: MakeRun, doorbell: list[Any]
) -> None:
    hold(make_fake_run(), seconds=30)
    waiting = make_fake_run()
    for seconds, rings in ((11, 0), (61, 1)):
        Run.objects.filter(pk=waiting.pk).update(rung_at=timezone.now() - timedelta(seconds=seconds))
        supervisor.sweep()
        assert len(doorbell) == rings
