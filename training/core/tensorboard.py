"""The run's metrics and sample texts once more, as event files for TensorBoard: RUN_DIR/tensorboard."""

from __future__ import annotations

from pathlib import Path

from training.core.types import Metrics, Sample


class EventFiles:
    """Appends one file at each start of the trainer; steps that are done again hide those done before."""

    def __init__(self, run_dir: Path, *, first_step: int) -> None:
        from tensorboardX import SummaryWriter  # a second to import: after a bad spec has failed

        self.writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step or None)

    def metrics(self, event: Metrics) -> None:
        for name, value in event.values.items():
            self.writer.add_scalar(name, value, event.step)

    def sample(self, event: Sample) -> None:
        asked = "\n\n".join(f"**{turn['role']}**: {turn['content']}" for turn in event.messages)
        self.writer.add_text(f"sample/{event.index}", f"{asked}\n\n---\n\n{event.completion}", event.step)

    def close(self) -> None:
        self.writer.close()
