"""One run: what spec.json asks for, given to the one generator for its kind, and its events written down."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from training.core import configs, protocol

if TYPE_CHECKING:
    from training.core.processes import Processes
    from training.core.tensorboard import EventFiles
    from training.core.types import Job

MODULES = {
    "sft": "training.core.sft",
    "reward_model": "training.core.reward_model",
    "ppo": "training.core.ppo",
    "reinforce": "training.core.reinforce",
    "trpo": "training.core.trpo",
    "sample": "training.core.sample",
}
SECONDS_WINDOW = 20
"""Steps over which the remaining time is estimated."""


class StopRequest:
    """SIGTERM or Ctrl-C sets it; the work looks at it where stopping is safe. Ctrl-C after that kills."""

    def __init__(self) -> None:
        self.seen = False
        self.processes: Processes | None = None
        signal.signal(signal.SIGTERM, self._see)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a background job of a shell script
            signal.signal(signal.SIGINT, self._see)

    def _see(self, number: int, frame: object) -> None:
        self.seen = True
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def stopping(self) -> bool:
        """At a step boundary; several processes answer alike, whichever got the signal."""
        return self.processes.any(self.seen) if self.processes else self.seen

    def safe_point(self) -> None:
        """Several processes stop where they meet only: elsewhere one would wait for another for ever.

        So it is before they have met, too: one that leaves while it loads is waited for.
        """
        from training.core.types import Stopped

        if self.seen and os.environ.get("WORLD_SIZE", "1") == "1":
            raise Stopped

    def meeting_point(self) -> None:
        """Where all processes are: once they know one another, and after each checkpoint."""
        from training.core.types import Stopped

        if self.stopping():
            raise Stopped


def read_inputs(run_dir: Path, spec: dict[str, Any], wanted: Collection[str]) -> dict[str, Path]:
    """Paths of the inputs, hashes checked; raises ProtocolError naming the first that is amiss."""
    names = [name.rstrip("?") for name in wanted]
    if unknown := spec["inputs"].keys() - set(names):
        raise protocol.ProtocolError(f"{min(unknown)} is no input of {spec['kind']}: {', '.join(names)}")
    found: dict[str, Path] = {}
    hashes: dict[Path, str] = {}  # policy and reference are often the same folder
    for name, stated in zip(names, wanted, strict=True):
        if name not in spec["inputs"]:
            if stated.endswith("?"):
                continue
            raise protocol.ProtocolError(f"input {name} is missing in spec.json")
        described = spec["inputs"][name]
        path = run_dir / described["path"]
        if not path.exists():
            raise protocol.ProtocolError(f"input {described['path']} does not exist")
        real = path.resolve()
        if real not in hashes:
            hashes[real] = protocol.folder_hash(real) if real.is_dir() else protocol.sha256_file(real)
        if hashes[real] != described["sha256"]:
            told = f"is not the file that the run was launched with: its sha256 is {hashes[real]}"
            raise protocol.ProtocolError(f"input {described['path']} {told}")
        found[name] = path
    return found


def run(run_dir: Path, events: protocol.Events, stop: StopRequest) -> str:
    """Do what spec.json says, and return its hash; raises whatever keeps it from being done."""
    events.write("phase", phase="loading", step=0, total_steps=0)
    spec = protocol.read_spec(run_dir)
    config = configs.parse(spec["kind"], spec["config"])
    inputs = read_inputs(run_dir, spec, config.inputs)
    stop.safe_point()

    train = algorithm(spec["kind"])  # brings torch; late: a bad spec fails in a tenth of a second
    from training.core import checkpoint
    from training.core.processes import join_processes
    from training.core.tensorboard import EventFiles
    from training.core.types import Job

    repeat_to_the_bit(spec.get("threads"))
    stop.processes = processes = join_processes()
    stop.meeting_point()
    protocol.remove_half_written(run_dir)
    events.write("log", message=computes_on(processes))
    saved, notes = checkpoint.read_newest(run_dir, spec)
    for note in notes:
        events.write(note.level, message=note.message)
    if saved is not None:
        events.write("log", message=f"Resumed from the checkpoint of step {saved.step}.")
    aside = run_dir / ".output.part"
    aside.mkdir()
    processes.gather([True])  # now the others may read the checkpoint, too
    job = Job(config, spec["seed"], inputs, aside, saved, stop.safe_point, stop.stopping, processes)
    board = EventFiles(run_dir, first_step=saved.step + 1 if saved else 0)
    keep = functools.partial(checkpoint.write, run_dir, spec=spec)
    try:
        write_events(events, board, train(job), stop, keep)
    except BaseException:
        with contextlib.suppress(OSError):  # what ended the run is what is told of it
            board.close()
        raise
    board.close()
    protocol.seal(aside, run_dir / "output")
    return protocol.spec_hash(spec)


def follow(run_dir: Path, stop: StopRequest) -> int:
    """What every process but the first does: the same steps on other rows, and nothing is written."""
    spec = protocol.read_spec(run_dir)
    train = algorithm(spec["kind"])
    from training.core import checkpoint
    from training.core.processes import join_processes
    from training.core.types import Job

    config = configs.parse(spec["kind"], spec["config"])
    inputs = read_inputs(run_dir, spec, config.inputs)
    repeat_to_the_bit(spec.get("threads"))
    stop.processes = processes = join_processes()
    if stop.stopping():
        return 0
    processes.gather([True])
    saved, _notes = checkpoint.read_newest(run_dir, spec)
    with tempfile.TemporaryDirectory() as aside:
        job = Job(config, spec["seed"], inputs, Path(aside), saved, stop.safe_point, stop.stopping, processes)
        for event in train(job):
            if type(event).__name__ == "Checkpoint" and stop.stopping():
                return 0
            if type(event).__name__ == "Phase" and event.phase == "saving":
                return 0  # the first process alone writes the output, and meets nobody while it does
    return 0


def algorithm(kind: str) -> Callable[[Job], Iterator[Any]]:
    """`train` of the kind's module, which brings torch and transformers.

    Importing makes objects by the hundred thousand and next to no garbage: looking for it meanwhile, again
    and again, took 0.6 s of 3.6. What is imported is there for good, and is not looked through later, either.
    """
    gc.disable()
    train = importlib.import_module(MODULES[kind]).train
    gc.freeze()
    gc.enable()
    return cast("Callable[[Job], Iterator[Any]]", train)


def repeat_to_the_bit(threads: int | None = None) -> None:
    """Operations that give the same result each time, or an error where there is none.

    `threads`: as many as the spec records, whatever this machine's default: sums are split among them.

    Torch would also fill all memory it makes with NaN, so that a read before the first write shows: some
    thousand passes over memory a step, 5 % of an SFT step. It is a debugging aid, and changes no result of
    operations that write what they make; `new_empty` stands in decoding.py alone, which reads what it wrote.
    """
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # a property of the module


def computes_on(processes: Processes) -> str:
    """On what, and by which libraries: what a figure depends on beside the spec."""
    import torch
    import transformers

    from training.core.batches import device

    threads = torch.get_num_threads()
    cpu = f"{threads} thread{'s' * (threads > 1)} of the CPU"
    where = cpu if device().type == "cpu" else torch.cuda.get_device_name()
    many = f"{processes.count} processes, each on " if processes.count > 1 else ""
    libraries = f"torch {torch.__version__} and transformers {transformers.__version__}"
    return f"Computes on {many}{where}, with {libraries}."


def write_events(
    events: protocol.Events,
    board: EventFiles,
    happening: Iterator[Any],
    stop: StopRequest,
    keep: Callable[[Any], None],
) -> None:
    """`keep` writes a checkpoint."""
    times: list[tuple[int, float]] = []
    for event in happening:
        match type(event).__name__:
            case "Checkpoint":
                keep(event.saved)
                stop.meeting_point()
            case "Metrics":
                times = [*times, (event.step, time.monotonic())][-SECONDS_WINDOW:]
                events.write(
                    "metrics", **event._asdict(), seconds_left=seconds_left(times, event.total_steps)
                )
                board.metrics(event)
            case "Phase":
                events.write("phase", **event._asdict())
            case "Sample":
                events.write("sample", **event._asdict())
                board.sample(event)
            case "Note":
                events.write(event.level, message=event.message)


def seconds_left(times: list[tuple[int, float]], total_steps: int) -> float | None:
    (first, start), (last, now) = times[0], times[-1]
    return None if last == first else round((total_steps - last) * (now - start) / (last - first), 1)
