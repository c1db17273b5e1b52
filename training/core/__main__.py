"""RUN_DIR -> the one generator for its kind -> events.jsonl, checkpoints/, output/, outcome.json.

On several GPUs: `python -m torch.distributed.run --standalone --nproc-per-node N -m training.core RUN_DIR`.
All processes do the same steps on shares of the rows; the first alone writes.

Exit code 0: done or cancelled; 1: failed, and outcome.json says why; 2: no run directory, or another trainer
works in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import errno
import fcntl
import functools
import gc
import importlib
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
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
PR_SET_PDEATHSIG = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


# --- life and death ---------------------------------------------------------------------------------


def die_with_supervisor() -> None:
    """Never outlive the process that started us: a killed worker must leave no trainer behind."""
    pid = os.environ.get("RLHF_SUPERVISOR_PID")
    if not pid:
        return
    if "LOCAL_RANK" in os.environ:  # our parent is the launcher of all ranks, which the supervisor started
        pid = str(os.getppid())
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(pid):  # it died before the line above
        os.kill(os.getpid(), signal.SIGKILL)
    threading.Thread(target=_watch_supervisor, args=(int(pid),), daemon=True).start()


def _watch_supervisor(pid: int) -> None:
    """Where the kernel sends no parent-death signal; on Linux a second pair of eyes."""
    while os.getppid() == pid:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


class StopRequest:
    """SIGTERM sets it; the work looks at it where stopping is safe."""

    def __init__(self) -> None:
        self.seen = False
        self.processes: Processes | None = None
        signal.signal(signal.SIGTERM, self._see)

    def _see(self, number: int, frame: object) -> None:
        self.seen = True

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


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[bool]:
    """Whether no other trainer works in `run_dir`, nor can begin to while this lasts.

    A trainer that a supervisor starts inherits the lock from it (training/trainer_process.py). The file names
    nobody, so that no worker ends a trainer that a person runs: it finds the run occupied.
    """
    if os.environ.get("RLHF_SUPERVISOR_PID"):
        yield True
        return
    with (run_dir / "trainer.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        yield True


# --- the run ----------------------------------------------------------------------------------------


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


def run(run_dir: Path, events: protocol.Events, stop: StopRequest) -> None:
    """Do what spec.json says; raises whatever keeps it from being done."""
    events.write("phase", phase="loading", step=0, total_steps=0)
    spec = protocol.read_spec(run_dir)
    config = configs.parse(spec["kind"], spec["config"])
    inputs = read_inputs(run_dir, spec, config.inputs)
    stop.safe_point()

    train = generator(spec["kind"])  # brings torch; late: a bad spec fails in a tenth of a second
    from training.core import checkpoint
    from training.core.processes import join_processes
    from training.core.tensorboard import EventFiles
    from training.core.types import Job

    repeat_to_the_bit(spec.get("threads"))
    stop.processes = processes = join_processes()
    stop.meeting_point()
    protocol.remove_half_written(run_dir)
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


def follow(run_dir: Path, stop: StopRequest) -> int:
    """What every process but the first does: the same steps on other rows, and nothing is written."""
    spec = protocol.read_spec(run_dir)
    train = generator(spec["kind"])
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


def generator(kind: str) -> Callable[[Job], Iterator[Any]]:
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


# --- how it ended -----------------------------------------------------------------------------------


def kind_of(run_dir: Path) -> str:
    """The kind that spec.json names; "" where it cannot be read."""
    try:
        return str(protocol.read_spec(run_dir).get("kind", ""))
    except protocol.ProtocolError:
        return ""


def memory_hint(kind: str) -> str:
    """Which settings of this kind need less memory when they are lower, the cheapest first."""
    known = {field.name for field in dataclasses.fields(configs.KINDS.get(kind, configs.PPOConfig))}
    without_loss = {"microbatch_tokens": "microbatch_tokens (the result stays the same)"}
    names = ["microbatch_tokens", "batch_size", "max_length", "max_new_tokens"]
    lower = " or ".join(without_loss.get(name, name) for name in names if name in known)
    hint = f"Lower {lower}, or set precision to bfloat16"
    return hint + (", or train adapters alone (lora_rank)." if "lora_rank" in known else ".")


def failure(error: Exception, kind: str = "") -> dict[str, str] | None:
    """code, message and hint of an error that a person can mend; None for one that is ours."""
    if hasattr(error, "code") and hasattr(error, "hint"):
        return {"code": error.code, "message": error.message, "hint": error.hint}  # type: ignore[attr-defined]
    text = str(error)
    if isinstance(error, configs.ConfigError):
        return {"code": "bad_config", "message": text, "hint": "Change the named settings and launch again."}
    if isinstance(error, protocol.ProtocolError):
        hint = "Mend what is named in the run directory, or launch the run again from whole inputs."
        return {"code": "bad_input", "message": text, "hint": hint}
    full = isinstance(error, OSError) and error.errno in FULL
    if full or any(os.strerror(number) in text for number in FULL):  # safetensors raises errors of its own
        hint = (
            "Free space under the artefact folder, or raise its quota or file size limit, and launch again."
        )
        return {"code": "disk_full", "message": text, "hint": hint}
    compiler = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
    if compiler or "torch.compile" in text:  # the latter where this Python or system has none
        hint = "Switch compile off, or install what it needs: a C++ compiler on a CPU, Triton on a GPU."
        return {"code": "cannot_compile", "message": text.splitlines()[0], "hint": hint}
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or "not enough memory" in text or "can't allocate memory" in text:
        return {"code": "out_of_memory", "message": text.splitlines()[0], "hint": memory_hint(kind)}
    return None


def tell(run_dir: Path, error: Exception) -> str:
    """Write the outcome of a run that cannot go on; returns its message."""
    hint = "This is a fault of the program: the run's log file has the details."
    ours = {"code": "unexpected", "message": f"{type(error).__name__}: {error}", "hint": hint}
    facts = failure(error, kind_of(run_dir)) or ours
    protocol.write_outcome(run_dir, "failed", **facts)
    return facts["message"]


def main(arguments: list[str]) -> int:
    if len(arguments) != 1 or not (run_dir := Path(arguments[0])).is_dir():
        print("usage: python -m training.core RUN_DIR, a folder with a spec.json", file=sys.stderr)
        return 2
    die_with_supervisor()
    # Threads that spin while they wait take the processor from those they wait for as soon as the machine
    # has other work: measured, three to ten times the CPU time. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # products on GPUs that repeat to the bit
    stop = StopRequest()
    if (protocol.read_outcome(run_dir) or {}).get("status") == "done":  # several processes all see it
        return 0
    if os.environ.get("RANK", "0") != "0":
        try:
            return follow(run_dir, stop)
        except Exception as error:
            # The first process only sees that this one is gone: what happened must be told from here.
            if protocol.read_outcome(run_dir) is None:
                tell(run_dir, error)
            raise
    with locked(run_dir) as free:
        if not free:
            print(f"another trainer works in {run_dir}", file=sys.stderr)
            return 2
        return lead(run_dir, stop)


def lead(run_dir: Path, stop: StopRequest) -> int:
    """What the first process does, and how it ended; the exit code."""
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    (run_dir / "outcome.json").unlink(missing_ok=True)
    events = protocol.Events(run_dir)
    try:
        run(run_dir, events, stop)
    except Exception as error:
        protocol.remove_half_written(run_dir)  # on a full disk this makes room to say what happened
        if type(error).__name__ == "Stopped":
            protocol.write_outcome(run_dir, "cancelled")
            return 0
        traceback.print_exc()
        told = protocol.read_outcome(run_dir)  # by another process, which failed first
        events.write("error", message=told["message"] if told else tell(run_dir, error))
        return 1
    protocol.write_outcome(run_dir, "done")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
