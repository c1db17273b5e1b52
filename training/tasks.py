"""Celery's way in: an id comes, the database says what to do. Each may arrive twice, late or never."""

from __future__ import annotations

import mmap
import os
import signal
import threading

from celery import shared_task
from celery.signals import worker_shutting_down

from training import supervisor

# One byte shared with the pool processes that the worker forks: it hears of the shutdown, they do the work.
shutting_down = mmap.mmap(-1, 1)


@worker_shutting_down.connect
def _tell_pool(**_facts: object) -> None:
    shutting_down[0] = 1


@shared_task
def supervise_run(run_id: int) -> None:
    asked: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, _frame: asked.append(number))
    try:
        supervisor.supervise(run_id, should_stop=lambda: bool(asked or shutting_down[0]))
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
    if asked:  # the run is handed back; now end as whoever sent the signal wanted
        os.kill(os.getpid(), signal.SIGTERM)


@shared_task(ignore_result=True)
def sweep_runs() -> None:
    supervisor.sweep()
