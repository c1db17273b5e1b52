"""RUN_DIR -> events.jsonl, checkpoints/, output/, outcome.json, of the run that its spec.json describes.

On several GPUs: `python -m torch.distributed.run --standalone --nproc-per-node N -m training.core RUN_DIR`.
All processes do the same steps on shares of the rows; the first alone writes.

Exit code 0: done or cancelled; 1: failed, and outcome.json says why; 2: no run directory, or another trainer
works in it, or it holds a finished run of another spec.json.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.core import failures, protocol
from training.core.run import StopRequest, follow, run

PR_SET_PDEATHSIG = 1


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
    outcome = protocol.read_outcome(run_dir)
    if outcome and outcome["status"] == "done":  # several processes all see it
        return done_already(run_dir, outcome)
    if os.environ.get("RANK", "0") != "0":
        code = follow_or_tell(run_dir, stop)
    else:
        with locked(run_dir) as free:
            if not free:
                print(f"another trainer works in {run_dir}", file=sys.stderr)
                return 2
            code = lead(run_dir, stop)
    if code == 0 and stop.processes:  # after a failure the others may not be there to part from
        stop.processes.part()
    return code


def follow_or_tell(run_dir: Path, stop: StopRequest) -> int:
    """What every process but the first does; the exit code. Raises what kept it from being done."""
    try:
        return follow(run_dir, stop)
    except Exception as error:
        # The first process only sees that this one is gone: what happened must be told from here.
        if protocol.read_outcome(run_dir) is None:
            protocol.write_outcome(run_dir, "failed", **failures.facts(run_dir, error))
        raise


def done_already(run_dir: Path, outcome: dict[str, Any]) -> int:
    """What is done is not done again, and another spec is not what was done; the exit code."""
    try:
        asked = protocol.spec_hash(protocol.read_spec(run_dir))
    except protocol.ProtocolError as error:
        print(error, file=sys.stderr)
        return 2
    if outcome.get("spec", asked) == asked:  # older outcomes do not say
        return 0
    told = f"{run_dir} holds a finished run of another spec.json: start this one in a folder of its own"
    print(told, file=sys.stderr)
    return 2


def lead(run_dir: Path, stop: StopRequest) -> int:
    """What the first process does, and how it ended; the exit code."""
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    (run_dir / "outcome.json").unlink(missing_ok=True)
    events = protocol.Events(run_dir)
    try:
        spec = run(run_dir, events, stop)
    except Exception as error:
        protocol.remove_half_written(run_dir)  # on a full disk this makes room to say what happened
        if type(error).__name__ == "Stopped":
            protocol.write_outcome(run_dir, "cancelled")
            return 0
        other = protocol.read_outcome(run_dir)  # of another process, which failed first
        facts = other or failures.facts(run_dir, error)
        if failures.says_all(error):
            print(f"{facts['message']}\n{facts['hint']}", file=sys.stderr)
        else:
            traceback.print_exc()
        if not other:
            protocol.write_outcome(run_dir, "failed", **facts)
        events.write("error", message=facts["message"])
        return 1
    protocol.write_outcome(run_dir, "done", spec=spec)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
