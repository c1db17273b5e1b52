"""One run row <-> one trainer process: claim, start, tail, beat, cancel, hand back, finish; and the sweep.

The row is the truth. Whoever moves it from queued to running draws a fencing token and holds a lease; every
later write is a compare-and-set on that token, so a supervisor that lost its lease (stopped, cut off,
presumed dead) finds out at its next write, ends its trainer and leaves. Lease times are the database's.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.db import InterfaceError, OperationalError, connection, transaction
from django.db.models import Case, DateTimeField, ExpressionWrapper, F, JSONField, Q, QuerySet, Value, When
from django.db.models.functions import Coalesce, Now
from django.utils import timezone
from django.utils.translation import gettext as _

from feedback.models import AuditEntry, User
from training import events, registry, review, trainer_process
from training.core import protocol
from training.launch import ring
from training.models import Run, RunLog
from training.trainer_process import Occupied, Trainer

log = logging.getLogger(__name__)

TICK_SECONDS = 0.5
HAND_BACK_SECONDS = 2.0
"""A worker that shuts down gives its trainer this long to write a checkpoint."""
BYTES_PER_SECOND = 50_000_000
"""Hashing is at least this fast: a lease is longer by the time that large files take."""
RING_AGAIN = timedelta(seconds=10)
RING_AGAIN_BUSY = timedelta(seconds=60)
"""While a run is running the worker is busy, and more messages would only pile up."""

ENDED, CANCELLED, STOPPED = "ended", "cancelled", "stopped"


class LeaseLost(Exception):
    """Another supervisor may own the run by now: write nothing more."""


def never() -> bool:
    return False


def supervise(run_id: int, *, should_stop: Callable[[], bool] = never) -> None:
    """Run the trainer of a queued run until it ends; a run that somebody else holds is left alone.

    Call it in the main thread. `should_stop` is asked every half second: True hands the run back.
    A trainer that died is started again here, from its newest checkpoint, until it is done or hopeless.
    """
    while (run := _claim(run_id)) is not None:
        try:
            again = _attempt(run, should_stop)
        except LeaseLost as lost:
            log.warning("run %s is not ours any more: %s", run_id, lost)
            return
        if not again:
            if run.purpose.get("review"):
                review.advance_all()
            return


# --- the lease --------------------------------------------------------------------------------------


def _from_now(seconds: float) -> ExpressionWrapper[Any]:
    return ExpressionWrapper(Now() + timedelta(seconds=seconds), output_field=DateTimeField())


def _claim(run_id: int) -> Run | None:
    """Queued to running under a new token; a start counts as fruitless until a new checkpoint is there."""
    with transaction.atomic():
        claimed = Run.objects.filter(pk=run_id, state=Run.State.QUEUED).update(
            state=Run.State.RUNNING,
            phase="starting",
            attempt=F("attempt") + 1,
            fruitless_starts=F("fruitless_starts") + 1,
            fencing_token=F("fencing_token") + 1,
            lease_expires_at=_from_now(settings.RUN_LEASE_SECONDS),
            heartbeat_at=Now(),
            started_at=Coalesce(F("started_at"), Now()),
            worker=f"{socket.gethostname()}:{os.getpid()}",
            pid=None,
        )
        return Run.objects.select_related("project").get(pk=run_id) if claimed else None


def _mine(run: Run) -> QuerySet[Run]:
    return Run.objects.filter(pk=run.pk, state=Run.State.RUNNING, fencing_token=run.fencing_token)


def _write(run: Run, **fields: Any) -> None:
    """Change the row if it is still ours; raises LeaseLost otherwise."""
    if not _mine(run).update(**fields):
        raise LeaseLost(f"token {run.fencing_token} is not the run's token")


def _beat(run: Run, *, extra_seconds: float = 0.0, **fields: Any) -> None:
    seconds = settings.RUN_LEASE_SECONDS + extra_seconds
    _write(run, heartbeat_at=Now(), lease_expires_at=_from_now(seconds), **fields)


def _note(run: Run, level: str, message: str) -> None:
    RunLog.objects.create(run=run, at=timezone.now(), level=level, message=message)


# --- one attempt ------------------------------------------------------------------------------------


def _attempt(run: Run, should_stop: Callable[[], bool]) -> bool:
    """Start the trainer and see it to an end; True when the run is queued again and may start at once."""
    try:
        if run.cancel_requested_at:
            return _finish(run, Run.State.CANCELLED, {"status": "cancelled"})
        if run.fruitless_starts > settings.RUN_MAX_ATTEMPTS:
            return _poisoned(run, _("its worker died with it"))
        end, exit_code = _see_through(run, should_stop)
        return _conclude(run, end, exit_code)
    except (LeaseLost, OperationalError, InterfaceError):
        raise  # without lease or database there is no writing: the sweep takes the run back
    except Occupied as occupied:
        _note(run, "warning", str(occupied))
        return _hand_back(run)
    except (protocol.ProtocolError, registry.Refused) as error:
        return _fail(run, "damaged", str(error), _("Look at the inputs and files that the run's page names."))
    except Exception as error:
        log.exception("run %s", run.pk)
        return _died(run, f"{type(error).__name__}: {error}")
    except BaseException:  # this process is told to end: SystemExit, KeyboardInterrupt
        _hand_back(run)
        raise


def _see_through(run: Run, should_stop: Callable[[], bool]) -> tuple[str, int | None]:
    """How the trainer ended, and its exit code. No process of it is left, whatever happens in here."""
    trainer = _start(run)
    if trainer is None:
        while _tail(run):  # its last words came when nobody listened
            pass
        return ENDED, None
    try:
        end = _watch(run, trainer, should_stop)
        _stop(run, trainer, end)
        return end, trainer.exit_code()
    finally:
        trainer.kill()


def _start(run: Run) -> Trainer | None:
    """Prepare the run directory and start the trainer; None when an earlier one finished the work already."""
    run.directory.mkdir(parents=True, exist_ok=True)
    lock = trainer_process.take_lock(run.directory)
    try:
        outcome = protocol.read_outcome(run.directory)
        if outcome is not None and outcome["status"] != "cancelled":
            return None
        inputs = {}
        for read in run.inputs.select_related("model_version", "snapshot"):
            source = read.model_version or read.snapshot
            assert source is not None  # a check constraint holds it
            _beat(run, extra_seconds=_seconds_to_hash(source.path))
            if read.model_version is not None:
                registry.verify(read.model_version)
            elif not source.path.is_file() or protocol.sha256_file(source.path) != read.sha256:
                words = _("%(name)s: the file of %(source)s is missing or changed")
                raise protocol.ProtocolError(words % {"name": read.name, "source": source})
            inputs[read.name] = (source.path, read.sha256)
        spec = trainer_process.prepare(
            run.directory, kind=run.kind, config=run.config, seed=run.seed, inputs=inputs
        )
        _beat(run, threads=spec.get("threads"))
        trainer = Trainer(run.directory, lock)
    finally:
        os.close(lock)
    try:
        _write(run, pid=trainer.pid)
    except BaseException:
        trainer.kill()
        raise
    return trainer


def _seconds_to_hash(path: Any) -> float:
    return trainer_process.bytes_of(path) / BYTES_PER_SECOND


def _watch(run: Run, trainer: Trainer, should_stop: Callable[[], bool]) -> str:
    """Tail and beat until the trainer ends, somebody cancels, or this worker must stop.

    A database that is away for a moment is waited for, but never past the lease.
    """
    first_checkpoint = trainer_process.newest_checkpoint(run.directory)
    lease_ends = beat_due = time.monotonic()
    lease_ends += settings.RUN_LEASE_SECONDS
    while True:
        running = trainer.exit_code() is None  # asked before the tail, so that its last words are read
        try:
            while _tail(run):
                pass
            now = time.monotonic()
            if now >= beat_due or not running:
                fruitful = trainer_process.newest_checkpoint(run.directory) > first_checkpoint
                _beat(run, **({"fruitless_starts": 0} if fruitful else {}))
                run.fruitless_starts = 0 if fruitful else run.fruitless_starts
                lease_ends, beat_due = now + settings.RUN_LEASE_SECONDS, now + settings.RUN_HEARTBEAT_SECONDS
            if not running:
                return ENDED
            if _mine(run).filter(cancel_requested_at__isnull=False).exists():
                return CANCELLED
        except (OperationalError, InterfaceError) as error:
            if time.monotonic() > lease_ends:
                raise LeaseLost(f"no heartbeat for a whole lease: {error}") from error
            log.warning("run %s: the database cannot be reached, trying again: %s", run.pk, error)
            connection.close()
        if should_stop():
            return STOPPED
        time.sleep(TICK_SECONDS)


def _tail(run: Run) -> bool:
    """Bring new events into the database, with the place they were read up to; False when there were none."""
    found, offset = protocol.read_events(run.directory, run.event_offset)
    if offset == run.event_offset:
        return False
    with transaction.atomic():
        _write(run, event_offset=offset, **events.changes(found))
        events.save(run, found)
    run.event_offset = offset
    return True


def _stop(run: Run, trainer: Trainer, end: str) -> None:
    """End the process, gently where there is time, and read its last events."""
    if end != ENDED:
        grace = settings.RUN_CANCEL_GRACE_SECONDS if end == CANCELLED else HAND_BACK_SECONDS
        _beat(run, extra_seconds=grace)
        trainer.ask_to_stop()
        trainer.wait(grace)
    trainer.kill()
    while _tail(run):
        pass


# --- how it ended -----------------------------------------------------------------------------------


def _conclude(run: Run, end: str, exit_code: int | None) -> bool:
    """Write down what the trainer left; True when it should start again at once."""
    outcome = protocol.read_outcome(run.directory) or {"status": "none"}
    if outcome["status"] == "done":
        return _register(run)
    if outcome["status"] == "failed":
        return _finish(run, Run.State.FAILED, outcome)
    if end == CANCELLED:
        return _finish(run, Run.State.CANCELLED, {"status": "cancelled"})
    if end == STOPPED or outcome["status"] == "cancelled":  # somebody sent it SIGTERM: the machine stops
        return _hand_back(run)
    return _died(run, _describe_exit(exit_code))


def _register(run: Run) -> bool:
    """Put the output away; then version, rows and state in one transaction: once, whatever dies."""
    output = run.directory / "output"
    _beat(run, extra_seconds=3 * _seconds_to_hash(output))
    content_hash = protocol.verify(output) if run.kind == "sample" else registry.store(output)
    with transaction.atomic():
        _beat(run)
        registry.register_output(run, content_hash=content_hash)
        _finish(run, Run.State.DONE, {"status": "done", "content_hash": content_hash})
    trainer_process.remove_checkpoints(run.directory)
    return False


def _finish(run: Run, state: str, outcome: dict[str, Any]) -> bool:
    _write(
        run,
        state=state,
        outcome=outcome,
        phase="",
        seconds_left=None,
        finished_at=Now(),
        lease_expires_at=None,
        pid=None,
    )
    return False


def _fail(run: Run, code: str, message: str, hint: str, **facts: str) -> bool:
    outcome = {"status": "failed", "code": code, "message": message, "hint": hint, **facts}
    return _finish(run, Run.State.FAILED, outcome)


def _died(run: Run, how: str) -> bool:
    """Back to the queue for a new start from the newest checkpoint, unless that has failed too often."""
    if run.fruitless_starts >= settings.RUN_MAX_ATTEMPTS:
        return _poisoned(run, how)
    with transaction.atomic():
        if not _requeue(_mine(run)):
            raise LeaseLost("it was taken back")
        words = _("The trainer ended without an outcome (%(how)s). It starts again.")
        _note(run, "warning", words % {"how": how})
    return True


def _poisoned(run: Run, how: str) -> bool:
    message = _("The trainer died %(times)d times without getting further; the last time: %(how)s.") % {
        "times": min(run.fruitless_starts, settings.RUN_MAX_ATTEMPTS),
        "how": how,
    }
    hint = _(
        "Read the last lines it printed. A kill by signal 9 is mostly a lack of memory: use smaller batches."
    )
    return _fail(run, "trainer_died", message, hint, log=trainer_process.log_tail(run.directory))


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        name = signal.Signals(-exit_code).name
        return _("signal %(number)d, %(name)s") % {"number": -exit_code, "name": name}
    return _("exit code %(code)s") % {"code": exit_code}


def _hand_back(run: Run) -> bool:
    """Back to the queue because this worker stops: no fault of the run, so the start does not count."""
    _requeue(
        _mine(run),
        fruitless_starts=Case(When(fruitless_starts__gt=0, then=F("fruitless_starts") - 1), default=0),
    )
    ring(run.pk)
    return False


def _requeue(runs: QuerySet[Run], **fields: Any) -> int:
    """Running to queued, or to cancelled when that was asked for. The token rises: the old holder is out."""
    asked = Q(cancel_requested_at__isnull=False)
    return runs.update(
        state=Case(When(asked, then=Value(Run.State.CANCELLED)), default=Value(Run.State.QUEUED)),
        outcome=Case(
            When(asked, then=Value({"status": "cancelled"}, JSONField())), default=Value({}, JSONField())
        ),
        finished_at=Case(When(asked, then=Now()), default=None, output_field=DateTimeField()),
        fencing_token=F("fencing_token") + 1,
        lease_expires_at=None,
        rung_at=None,
        pid=None,
        phase="",
        seconds_left=None,
        **fields,
    )


# --- from outside -----------------------------------------------------------------------------------


def request_cancel(run: Run, *, actor: User | None) -> bool:
    """Cancel a queued run at once and ask a running one to stop; False when it had ended already."""
    with transaction.atomic():
        row = Run.objects.select_for_update().get(pk=run.pk)
        if row.ended or row.cancel_requested_at:
            return not row.ended
        changed: dict[str, Any] = {"cancel_requested_at": Now()}
        if row.state == Run.State.QUEUED:
            changed |= {
                "state": Run.State.CANCELLED,
                "outcome": {"status": "cancelled"},
                "finished_at": Now(),
            }
        Run.objects.filter(pk=row.pk, state=row.state).update(**changed)
        AuditEntry.record(actor, "run.cancel", row)
    run.refresh_from_db()
    return True


def sweep() -> None:
    """Take back runs whose lease ran out, ring again what waits, move reviews on. Safe at any time."""
    running = Run.objects.filter(state=Run.State.RUNNING)
    expired = Q(lease_expires_at__lt=Now()) | Q(lease_expires_at__isnull=True)
    for run in running.filter(expired):
        with transaction.atomic():
            if _requeue(_mine(run).filter(expired)):
                message = _("Worker %(worker)s stopped answering. The run goes back to the queue.")
                _note(run, "warning", message % {"worker": run.worker})
    pause = RING_AGAIN_BUSY if running.exists() else RING_AGAIN
    last = ExpressionWrapper(Now() - pause, output_field=DateTimeField())
    waiting = Run.objects.filter(state=Run.State.QUEUED)
    for run_id in waiting.filter(Q(rung_at__isnull=True) | Q(rung_at__lt=last)).values_list("pk", flat=True):
        ring(run_id)
    review.advance_all()
