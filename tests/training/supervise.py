"""A worker process for tests: `python supervise.py RUN_ID...` does what a Celery pool process does."""

from __future__ import annotations

import sys

import django


def main(run_ids: list[int]) -> None:
    django.setup()
    from training import supervisor, tasks

    supervisor.TICK_SECONDS = 0.05
    for run_id in run_ids:
        tasks.supervise_run(run_id)


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]])
