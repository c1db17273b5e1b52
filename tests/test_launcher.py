"""`./run serve` with real processes: it starts, stays alone, survives kills and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlhf_app import launcher
from rlhf_app.processes import Program, configuration

ROOT = Path(__file__).resolve().parent.parent
OWN_SETTINGS = (
    "DATABASE_URL",
    "REDIS_URL",
    "ARTIFACT_ROOT",
    "SECRET_KEY",
    "RLHF_ENV",
    "DJANGO_SETTINGS_MODULE",
)
WEB_MEGABYTES = 150


class Installation:
    """A checkout in a folder with a space in its name, and the `./run` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "a checkout"
        for name in subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0"):
            if name and (ROOT / name).is_file() and not name.startswith("tests/"):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        self.process: subprocess.Popen[str] | None = None
        self.url = ""

    def run(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """The launcher as `./run` execs it; the virtual environment is the one that runs the tests."""
        clean = {name: value for name, value in os.environ.items() if name not in OWN_SETTINGS}
        return subprocess.Popen(
            [sys.executable, "rlhf_app/start.py", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **{"env": clean, **options},
        )

    def start(self) -> float:
        """Start and wait until ready; returns the seconds it took."""
        begin = time.monotonic()
        self.process = self.run("serve", "--headless", "--port", "8400", start_new_session=True)
        assert self.process.stdout
        said = []
        for line in self.process.stdout:
            said.append(line)
            if line.startswith("READY "):
                self.url = json.loads(line.removeprefix("READY "))["url"]
                return time.monotonic() - begin
        raise AssertionError("it ended before it was ready:\n" + "".join(said))

    def family(self) -> dict[str, psutil.Process]:
        """Every process below the launcher, by what it is."""
        assert self.process
        found = {}
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[what(process.cmdline())] = process
        return found

    def alive(self) -> list[psutil.Process]:
        """Whatever runs out of this folder, wherever it hangs in the tree of processes."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.status() != psutil.STATUS_ZOMBIE and process.cwd().startswith(str(self.folder)):
                    found.append(process)
        return found

    def stop(self) -> float:
        assert self.process
        begin = time.monotonic()
        self.process.send_signal(signal.SIGINT)
        self.process.wait(timeout=30)
        return time.monotonic() - begin


def what(command: list[str]) -> str:
    line = " ".join(command)
    for name, mark in {
        "supervisord": "supervisord",
        "web": "uvicorn",
        "broker": "valkey-server",
        "beat": " beat ",
        "worker-default": "default@",
        "worker-train": "train@",
        "worker-sweep": "sweep@",
    }.items():
        if mark in line:
            return name
    return line


def wait_until(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url + "health/", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    installed = Installation(tmp_path_factory.mktemp("launcher"))
    yield installed
    for process in installed.alive():
        process.kill()


@pytest.fixture
def started(installation: Installation) -> Iterator[Installation]:
    seconds = installation.start()
    print(f"ready after {seconds:.1f} s")
    yield installation
    if installation.process and installation.process.poll() is None:
        installation.stop()
    assert not installation.alive()


@pytest.mark.processes
@pytest.mark.parametrize("seconds", [0.3, 0.6, 1.2])
def test_an_early_ctrl_c_ends_in_a_word(installation: Installation, seconds: float) -> None:
    """While it imports, and while it looks at the database: no traceback, and nothing is left."""
    process = installation.run("demo", "--port", "8400", start_new_session=True)
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    said, _none = process.communicate(timeout=10)
    assert "Traceback" not in said and said.rstrip().endswith(("Stopped.", "Everything has stopped."))
    assert process.returncode in (0, 130) and not installation.alive()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_a_class_is_made_is_one_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: signal.Signals
) -> None:
    """Python 3.11 wraps it; other errors of the same kind stay errors."""

    class Interrupted:
        def __set_name__(self, owner: object, name: str) -> None:
            signal.raise_signal(number)

    before = {stop: signal.getsignal(stop) for stop in (signal.SIGINT, signal.SIGTERM)}
    mask = os.umask(0o077)
    try:
        monkeypatch.setattr(launcher, "check", lambda options: type("Made", (), {"it": Interrupted()}))
        assert launcher.main(["check"]) == 130 and capsys.readouterr().err == "\nStopped.\n"
        monkeypatch.setattr(launcher, "check", lambda options: next(broken()))
        with pytest.raises(RuntimeError, match="generator raised StopIteration"):
            launcher.main(["check"])
    finally:
        os.umask(mask)
        for stop, handler in before.items():
            signal.signal(stop, handler)


def broken() -> Iterator[None]:
    yield next(iter(()))


@pytest.mark.processes
def test_it_starts_alone_and_stops_within_five_seconds(started: Installation) -> None:
    assert answers(started.url)
    var = started.folder / "var"
    assert stat.S_IMODE(var.stat().st_mode) == 0o700
    assert stat.S_IMODE((var / "secrets.env").stat().st_mode) == 0o600
    assert stat.S_IMODE((var / "redis" / "valkey.conf").stat().st_mode) == 0o600
    secret = (var / "secrets.env").read_text().split("REDIS_URL=redis://:")[1].split("@")[0]
    for process in started.alive():
        assert secret not in " ".join(process.cmdline()), "a password in a command line is read by everybody"

    second = started.run("serve", "--headless")
    said = second.communicate(timeout=30)[0]
    assert second.returncode == 1
    assert started.url in said
    assert answers(started.url), "the second start must not disturb the first"

    workers = {"worker-default", "worker-train", "worker-sweep"}
    assert {"supervisord", "web", "broker", "beat"} | workers <= set(started.family())
    web = started.family()["web"]
    megabytes = web.memory_info().rss / 2**20
    print(f"web process: {megabytes:.0f} MiB")
    assert megabytes < WEB_MEGABYTES

    seconds = started.stop()
    print(f"stopped after {seconds:.1f} s")
    assert seconds < 5
    assert not started.alive()
    assert started.process is not None and started.process.returncode == 0


@pytest.mark.processes
def test_a_second_start_is_quick_and_keeps_accounts_and_secrets(started: Installation) -> None:
    secrets_before = (started.folder / "var" / "secrets.env").read_text()
    times = []
    while not times or (min(times) >= 8 and len(times) < 3):  # a neighbour's work is not ours to measure
        started.stop()
        times.append(started.start())
    print("later starts: " + ", ".join(f"{seconds:.1f} s" for seconds in times))
    assert min(times) < 8
    assert (started.folder / "var" / "secrets.env").read_text() == secrets_before
    done = started.run(
        "manage", "shell", "-v", "0", "-c", "from feedback.models import User; print(User.objects.count())"
    )
    assert done.communicate(timeout=60)[0].strip() == "1"


@pytest.mark.processes
@pytest.mark.parametrize("name", ["web", "worker-train", "broker", "beat"])
def test_a_killed_process_comes_back(started: Installation, name: str) -> None:
    before = started.family()[name]
    if name.startswith("worker"):
        assert wait_until(lambda: bool(before.children()), 40), "the worker has no pool process"
    below = before.children(recursive=True)
    before.kill()
    assert wait_until(lambda: not any(child.is_running() for child in below), 5), "a pool process stayed"
    assert wait_until(lambda: name in (now := started.family()) and now[name].pid != before.pid, 40)
    assert wait_until(lambda: answers(started.url), 40)


@pytest.mark.processes
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the parent-death signal")
@pytest.mark.parametrize("victim", ["launcher", "supervisord"])
def test_nothing_outlives_a_killed_parent(started: Installation, victim: str) -> None:
    assert started.process
    if victim == "launcher":
        started.process.kill()
    else:
        started.family()["supervisord"].kill()
    assert wait_until(lambda: not started.alive(), 5), [process.cmdline() for process in started.alive()]
    if victim == "supervisord":
        assert started.process.wait(timeout=10) == 1, "an end that nobody asked for is a failure"


@pytest.mark.processes
def test_a_broker_that_is_alive_is_used_and_stopped_with_the_rest(started: Installation) -> None:
    started.stop()
    config = started.folder / "var" / "redis" / "valkey.conf"
    from rlhf_app.broker import server_program

    left_behind = subprocess.Popen(
        [server_program(), str(config)], cwd=started.folder, stdout=subprocess.DEVNULL
    )
    try:
        assert wait_until(lambda: len(started.alive()) == 1, 5)
        started.start()
        brokers = [process for process in started.alive() if what(process.cmdline()) == "broker"]
        assert [process.pid for process in brokers] == [left_behind.pid]
        assert started.stop() < 5
        assert left_behind.wait(timeout=5) == 0
    finally:
        left_behind.kill()
        left_behind.wait()


def test_production_without_its_secrets_is_refused_by_name(installation: Installation) -> None:
    process = installation.run("check", env={"PATH": os.environ["PATH"], "RLHF_ENV": "production"})
    said = process.communicate(timeout=60)[0]
    assert process.returncode == os.EX_CONFIG
    assert "ALLOWED_HOSTS: found nothing" in said


def test_the_supervisor_file_quotes_what_paths_may_hold() -> None:
    import configparser
    import shlex

    program = Program("odd", ["/a path/100%/python", "-n", "x@%h"])
    parser = configparser.RawConfigParser()
    parser.read_string(configuration([program, Program("broker", ["b"], last=True)]))
    command = parser["program:odd"]["command"].replace("%%", "%")  # what supervisord's own expansion does
    assert shlex.split(command)[-3:] == program.command
    assert parser["group:app"]["programs"] == "odd"
    assert int(parser["program:odd"]["priority"]) > int(parser["program:broker"]["priority"])
