"""The run's metrics and sample texts once more, as event files for TensorBoard: RUN_DIR/tensorboard."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from training.core.types import Metrics, Sample


class EventFiles:
    """Appends one file at each start of the trainer; steps that are done again hide those done before.

    Records are written where they arise. The library's own writer leaves them to a thread through a queue of
    ten: on a full disk the thread dies, and the trainer would wait for room in the queue for ever.
    """

    def __init__(self, run_dir: Path, *, first_step: int) -> None:
        """`first_step`: the next one of a run that goes on, else 0. Raises OSError as all its methods."""
        from tensorboardX import summary  # a second to import: after a bad spec has failed
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        folder = run_dir / "tensorboard"
        folder.mkdir(exist_ok=True)
        self.summary, self.event = summary, Event
        self.file = EventsWriter(str(folder / "events"), f".{os.getpid()}")  # two starts in one second
        if first_step:
            now, started = time.time(), SessionLog(status=SessionLog.START)
            self.file.write_event(Event(step=first_step, file_version="brain.Event:2", wall_time=now))
            self.file.write_event(Event(step=first_step, session_log=started, wall_time=now))

    def _write(self, summary: Any, step: int) -> None:
        self.file.write_event(self.event(summary=summary, step=step, wall_time=time.time()))

    def metrics(self, event: Metrics) -> None:
        for name, value in event.values.items():
            self._write(self.summary.scalar(name, value), event.step)
        self.file.flush()

    def sample(self, event: Sample) -> None:
        asked = "\n\n".join(f"**{turn['role']}**: {turn['content']}" for turn in event.messages)
        text = f"{asked}\n\n---\n\n{event.completion}"
        self._write(self.summary.text(f"sample/{event.index}", text), event.step)

    def close(self) -> None:
        self.file.close()
