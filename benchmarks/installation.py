"""A clean checkout of this tree with a real `./run demo` in it, and the means to look at it and hurt it."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
# What the surrounding shell may have set must not leak into the measured installation.
OWN_SETTINGS = (
    "DATABASE_URL",
    "REDIS_URL",
    "ARTIFACT_ROOT",
    "SECRET_KEY",
    "RLHF_ENV",
    "DJANGO_SETTINGS_MODULE",
)


def copy_checkout(folder: Path) -> Path:
    """The files that git tracks, as they are now, and a link to the virtual environment that is made."""
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    return folder


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}


class Installation:
    """`./run demo --headless` (or serve) in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None
        self.url = self.sign_in = ""

    def start(self, command: str = "demo", *, timeout: float = 600) -> float:
        """Start and wait for the READY line; returns the seconds it took."""
        begin = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "run", command, "--headless"],
            cwd=self.folder, env=clean_environment(), stdout=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        while True:
            line = lines.get(timeout=max(1.0, timeout - (time.monotonic() - begin)))
            if line is None:
                raise RuntimeError(f"./run {command} ended before it was ready")
            if line.startswith("READY "):
                ready = json.loads(line.removeprefix("READY "))
                self.url, self.sign_in = ready["url"].rstrip("/"), ready["sign_in"]
                return time.monotonic() - begin

    def _read(self, lines: queue.Queue[str | None]) -> None:
        assert self.process and self.process.stdout
        for line in self.process.stdout:
            print("  demo:", line.rstrip(), file=sys.stderr, flush=True)
            lines.put(line)
        lines.put(None)

    def stop(self) -> tuple[float, int]:
        """Ctrl-C; returns the seconds until it ended and the number of processes it left behind."""
        assert self.process
        family = [*psutil.Process(self.process.pid).children(recursive=True)]
        begin = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)
        seconds = time.monotonic() - begin
        left = [child for child in family if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
        self.process = None
        return seconds, len(left)

    def manage(self, *arguments: str, timeout: float = 600) -> str:
        """Standard output of `manage.py ARGUMENTS`; raises with its errors when it fails."""
        done = subprocess.run(
            [ROOT / ".venv/bin/python", "manage.py", *arguments],
            cwd=self.folder, env=clean_environment(), capture_output=True, text=True, timeout=timeout,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"manage.py {' '.join(arguments)}: {done.stderr[-3000:]}")
        return done.stdout

    def simulate(
        self,
        slug: str,
        judgements: int,
        *,
        noise: float,
        seed: int,
        annotators: int = 4,
        name: str = "simulated",
        shuffled: bool = False,
    ) -> dict[str, Any]:
        """Simulated annotators judge over HTTP; their summary."""
        options = {
            "judgements": judgements,
            "noise": noise,
            "seed": seed,
            "annotators": annotators,
            "name": name,
        }
        arguments = [part for option, value in options.items() for part in (f"--{option}", str(value))]
        arguments += ["--shuffled"] if shuffled else []
        said = self.manage("simulate_annotators", slug, "--base-url", self.url, *arguments)
        summary: dict[str, Any] = json.loads(said.strip().splitlines()[-1])
        return summary

    def use_models(self) -> None:
        """Point this process's Django models at the installation's database, to see what is really there."""
        for name in OWN_SETTINGS:
            os.environ.pop(name, None)
        os.environ["DJANGO_SETTINGS_MODULE"] = "rlhf_app.settings"
        os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"  # Playwright's sync API runs inside an event loop
        sys.path.insert(0, str(self.folder))
        import django

        django.setup()


@contextmanager
def installation() -> Iterator[Installation]:
    """A fresh installation that is stopped and removed at the end, whatever happened."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-app-"))
    installed = Installation(copy_checkout(folder))
    try:
        yield installed
    finally:
        if installed.process:
            installed.stop()
        shutil.rmtree(folder, ignore_errors=True)


def measured(name: str, measure: Callable[[dict[str, Any]], bool]) -> int:
    """Run `measure`, which fills in figures and says whether they pass; one JSON line comes last, always."""
    figures: dict[str, Any] = {}
    try:
        passed = measure(figures)
    except Exception as error:
        traceback.print_exc()
        figures["error"] = f"{type(error).__name__}: {error}"[:2000]
        passed = False
    return report(name, figures, passed)


def report(name: str, figures: dict[str, Any], passed: bool) -> int:
    """Print the one JSON line that every measuring command ends with; returns the exit status."""
    print(json.dumps({"name": name, "figures": figures, "pass": passed}), flush=True)
    return 0 if passed else 1
