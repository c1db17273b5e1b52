"""The processes of one machine under supervisord: started together, restarted when killed, stopped together.

A tree of parent-death signals stands behind it (rlhf_app/child.py): launcher -> supervisord -> web, workers,
broker -> pool processes -> trainer. Whichever of them is killed, what hangs below it dies too.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from rlhf_app import broker, child
from rlhf_app.local import BASE_DIR, VAR_DIR, write_private

CONFIG = VAR_DIR / "supervisor.conf"
LOGS = VAR_DIR / "logs"
STOP_SECONDS = 4.0
"""All of it together, then the rest is killed; a worker's share is 3 s, in which it hands its run back."""


@dataclass(frozen=True)
class Program:
    """One supervised process. `last` ones are stopped after all the others have ended."""

    name: str
    command: list[str]
    last: bool = False
    stop_seconds: int = 3


def broker_program() -> Program:
    return Program("broker", [str(broker.server_program()), str(broker.CONFIG)], last=True, stop_seconds=1)


def web_program(host: str, port: int, *, behind_proxy: bool, trusted: str, count: int = 1) -> Program:
    command = [
        *(sys.executable, "-m", "uvicorn", "rlhf_app.asgi:application", "--host", host, "--port", str(port)),
        # Without a limit an open stream keeps the server from ending. Addresses of sign-in links are secrets,
        # so requests are not logged.
        *("--timeout-graceful-shutdown", "3", "--no-access-log", "--no-server-header", "--lifespan", "off"),
        # Whose word on the client's address is believed: else all clients of a proxy share one address.
        *(("--proxy-headers", "--forwarded-allow-ips", trusted) if behind_proxy else ("--no-proxy-headers",)),
        *(("--workers", str(count)) if count > 1 else ()),
    ]
    return Program("web", command)


def celery_program(name: str, *arguments: str) -> Program:
    # Behind the web server in the queue for the processor: pages stay quick while a model is trained.
    return Program(name, ["nice", "-n", "5", sys.executable, "-m", "celery", "-A", "rlhf_app", *arguments])


def worker_programs() -> list[Program]:
    quiet = ["--without-gossip", "--without-mingle", "--loglevel", "INFO"]
    slots = (("default", "-c", "2"), ("train", "-c", "1"), ("sweep", "-P", "solo"))
    return [
        celery_program(f"worker-{queue}", "worker", "-Q", queue, *slot, "-n", f"{queue}@%h", *quiet)
        for queue, *slot in slots
    ]


def beat_program() -> Program:
    return celery_program("beat", "beat", "-s", str(VAR_DIR / "beat-schedule"), "--pidfile", "")


def configuration(programs: list[Program]) -> str:
    """supervisord's file. Secrets are not in it: children inherit them, or read var/secrets.env."""

    def value(text: str) -> str:
        return text.replace("%", "%%")

    wrap = [sys.executable, "-I", "-S", str(Path(child.__file__))]
    lines = [
        "[supervisord]",
        "nodaemon=true",
        "silent=true",
        f"directory={value(str(BASE_DIR))}",
        f"logfile={value(str(LOGS / 'supervisor.log'))}",
        f"pidfile={value(str(VAR_DIR / 'supervisor.pid'))}",
        # One group, so that all of it is told to stop at once; the broker goes when its clients are gone.
        "[group:app]",
        "programs=" + ",".join(program.name for program in programs if not program.last),
        "priority=20",
    ]
    for program in programs:
        lines += [
            f"[program:{program.name}]",
            f"command={value(shlex.join([*wrap, *program.command]))}",
            f"priority={10 if program.last else 20}",
            "autorestart=true",
            "startretries=20",
            f"stopwaitsecs={program.stop_seconds}",
            "killasgroup=true",
            "redirect_stderr=true",
            f"stdout_logfile={value(str(LOGS / program.name))}.log",
            "stdout_logfile_maxbytes=10MB",
            "stdout_logfile_backups=2",
        ]
    return "\n".join(lines) + "\n"


class Stopped(Exception):
    """supervisord ended although nobody asked it to."""


class Supervisor:
    """supervisord over these programs, until `stop`."""

    def __init__(self, programs: list[Program], environment: dict[str, str]) -> None:
        # Whoever loses its parent becomes our child, wherever it put itself: so `stop` can find all of them.
        child.prctl(child.PR_SET_CHILD_SUBREAPER, 1)
        write_private(CONFIG, configuration(programs))
        with (LOGS / "supervisor.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-I", "-S", child.__file__),
                    *(sys.executable, "-m", "supervisor.supervisord", "-c", str(CONFIG)),
                ],
                cwd=BASE_DIR,
                env={**os.environ, **environment, "PYTHONUNBUFFERED": "1", child.PARENT: str(os.getpid())},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C in the terminal reaches us alone, and we stop in order
            )

    def check(self) -> None:
        if self.process.poll() is not None:
            raise Stopped(f"supervisord ended with status {self.process.returncode}")

    def watch(self) -> None:
        """From now on its unexpected end raises Stopped in the main thread, whatever that is doing."""
        signal.signal(signal.SIGCHLD, lambda _number, _frame: self.check())

    def wait(self) -> None:
        """Until it ends by itself, which it should not. Orphans that end meanwhile are buried."""
        while True:
            self.check()
            while pid := ended_child():
                if pid == self.process.pid:
                    break  # the next check tells
                os.waitpid(pid, 0)
            time.sleep(0.5)

    def stop(self) -> None:
        """Nothing of ours runs when this returns."""
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait(STOP_SECONDS)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            self.process.kill()  # and its children with it
            self.process.wait()
        finally:
            end_orphans()


def ended_child() -> int:
    """A child that has ended, still to be waited for, which is left to the caller; 0 without one."""
    if sys.platform != "linux":
        return 0  # nobody hands us orphans there
    found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return found.si_pid if found else 0


def end_orphans(seconds: float = 2.0) -> None:
    """Kill and bury every process that was handed to us, generation after generation."""
    deadline = time.monotonic() + seconds
    while (pids := children_of(os.getpid())) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.02)


def children_of(parent: int) -> list[int]:
    """From Linux's /proc; elsewhere nobody hands us children."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended while we looked
            # pid (name, which may hold anything) state parent ...
            if int(path.read_text(errors="replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(path.parent.name))
    return found
