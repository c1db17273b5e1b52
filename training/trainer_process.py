"""The trainer as a process: its run directory, start, death and lock. No database.

One trainer at a time works in a run directory: it inherits an exclusive lock on `trainer.lock`, which falls
when it is gone, however it died. Who finds the lock held by a trainer whose supervisor lost the run ends that
trainer's process group first.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from django.conf import settings

from rlhf_app import child
from training.core import protocol

log = logging.getLogger(__name__)

PASSED_ON = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "CUDA_VISIBLE_DEVICES", "CUDA_HOME", "NCCL_SOCKET_IFNAME", "HSA_OVERRIDE_GFX_VERSION",
)  # fmt: skip
"""All that a trainer learns of its worker's environment: no secret key, no database, no broker."""
LOG_TAIL = 2000


class Occupied(Exception):
    """Another trainer still works in the run directory, and it could not be ended from here."""


def environment() -> dict[str, str]:
    threads = str(settings.TRAINER_THREADS)
    return {
        **{name: os.environ[name] for name in PASSED_ON if name in os.environ},
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        # Threads that wait for each other sleep instead of spinning: beside a web server and workers on two
        # cores, spinning made PPO of a tiny model three times slower.
        "OMP_WAIT_POLICY": "PASSIVE",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
        "PYTHONHASHSEED": "0",
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "RLHF_SUPERVISOR_PID": str(os.getpid()),
        child.PARENT: str(os.getpid()),
    }


def command(run_dir: Path) -> list[str]:
    """One trainer, or a launcher of several that all work on this run.

    The launcher puts each process in a session of its own, out of reach of a signal to the group: they die
    with it instead (`die_with_supervisor` in training/core/__main__.py), and it dies with the supervisor.
    """
    alone = [*settings.TRAINER_COMMAND, str(run_dir)]
    if settings.TRAINER_PROCESSES == 1:
        return alone
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python"]
    count = ["--nproc-per-node", str(settings.TRAINER_PROCESSES)]
    return [sys.executable, child.__file__, *launcher, *count, *alone]


class Trainer:
    """A started trainer process; `kill` leaves nothing of its process group alive."""

    def __init__(self, run_dir: Path, lock: int) -> None:
        """Start the trainer in a prepared `run_dir`, handing it the lock from `take_lock`.

        The caller is the parent that the trainer must not outlive, so call this in a process's main thread:
        Linux ties the parent-death signal to the thread that forked.
        """
        os.ftruncate(lock, 0)
        with (run_dir / "trainer.log").open("ab") as output:
            self.process = subprocess.Popen(
                command(run_dir),
                cwd=settings.BASE_DIR,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=(lock,),
            )
        self.killed = False
        holder = {"pid": self.process.pid, "host": socket.gethostname()}
        os.pwrite(lock, json.dumps(holder).encode(), 0)

    @property
    def pid(self) -> int:
        return self.process.pid

    def exit_code(self) -> int | None:
        """None while it runs; negative for the signal that ended it."""
        return self.process.poll()

    def ask_to_stop(self) -> None:
        """SIGTERM to the leader: stop at the next safe point and write a checkpoint."""
        if self.process.poll() is None:
            self.process.terminate()

    def wait(self, seconds: float) -> bool:
        """Whether it ended by itself within that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL to the whole group, ranks and loaders included, whether or not the leader still lives.

        Once only: with the group gone, its number may come to belong to somebody else.
        """
        if not self.killed:
            kill_group(self.process.pid)
            self.process.wait()
            self.killed = True


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of them were gone already


def take_lock(run_dir: Path, *, seconds: float = 10.0) -> int:
    """The descriptor of the locked `trainer.lock`; ends a trainer that holds it without a right to the run.

    Raises Occupied when the lock does not fall: its trainer runs on another machine, or cannot be ended.
    """
    descriptor = os.open(run_dir / "trainer.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + seconds
    killed = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                os.close(descriptor)
                raise
        if not killed:
            killed = _kill_holder(descriptor)
        if time.monotonic() > deadline:
            os.close(descriptor)
            raise Occupied(f"{run_dir}: another trainer holds trainer.lock")
        time.sleep(0.05)


def _kill_holder(descriptor: int) -> bool:
    """The lock is held, so a process of the named group lives and its number cannot have been reused."""
    text = os.pread(descriptor, 1000, 0)
    if not text:
        return False  # it was started a moment ago and its number is not written yet
    holder = json.loads(text)
    if holder["host"] != socket.gethostname():
        return False
    log.warning("ending trainer %s, whose supervisor lost the run", holder["pid"])
    kill_group(holder["pid"])
    return True


# --- the run directory ------------------------------------------------------------------------------


def prepare(
    run_dir: Path, *, kind: str, config: dict[str, Any], seed: int, inputs: dict[str, tuple[Path, str]]
) -> dict[str, Any]:
    """Write inputs/ and spec.json, and mend what a dead trainer left half done. Safe to repeat.

    Returns the spec. `inputs` maps a name to a verified file or folder and its sha256. A spec that is there
    already and says something else raises ProtocolError: a run never changes what decides its result. Its
    threads are those of the worker that started it first: another worker goes on with as many.
    """
    (run_dir / "inputs").mkdir(parents=True, exist_ok=True)
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    described: dict[str, dict[str, str]] = {}
    for name, (source, sha256) in inputs.items():
        path = f"inputs/{name}" + ("" if source.is_dir() else source.suffix)
        _link(source, run_dir / path)
        described[name] = {"path": path, "sha256": sha256}
    if (run_dir / "spec.json").exists():
        spec = protocol.read_spec(run_dir)
        if [spec["kind"], spec["config"], spec["seed"], spec["inputs"]] != [kind, config, seed, described]:
            raise protocol.ProtocolError("spec.json differs from the run's row")
    else:
        threads = settings.TRAINER_THREADS
        protocol.write_spec(run_dir, kind=kind, config=config, seed=seed, inputs=described, threads=threads)
    protocol.cut_half_line(run_dir)
    (run_dir / "outcome.json").unlink(missing_ok=True)
    return protocol.read_spec(run_dir)


def _link(source: Path, target: Path) -> None:
    """A relative link, so that the artefact folder can move as a whole."""
    if target.is_symlink() or target.exists():
        return
    target.symlink_to(os.path.relpath(source, target.parent), target_is_directory=source.is_dir())


def newest_checkpoint(run_dir: Path) -> int:
    """The step of the newest complete checkpoint; -1 without one."""
    found = protocol.checkpoints(run_dir)
    return int(found[0].name.removeprefix("step-")) if found else -1


def log_tail(run_dir: Path) -> str:
    """The last lines that the trainer printed."""
    path = run_dir / "trainer.log"
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - LOG_TAIL))
        return file.read().decode(errors="replace").replace("\0", "\ufffd").strip()


def bytes_of(path: Path) -> int:
    """Of a file, or of all files below a folder; 0 for what is not there."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file())


def remove_checkpoints(run_dir: Path) -> None:
    """A finished run is never resumed: its checkpoints would only fill the disk."""
    shutil.rmtree(run_dir / "checkpoints", ignore_errors=True)
