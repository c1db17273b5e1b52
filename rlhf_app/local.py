"""The folder var/, what this machine alone knows: secrets, ports, logs, which `./run` holds it. No Django."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_app.environment import read_env_file

BASE_DIR = Path(__file__).resolve().parent.parent
VAR_DIR = BASE_DIR / "var"
SECRETS = VAR_DIR / "secrets.env"
RUNNING = VAR_DIR / "running.json"


def make_folders() -> None:
    for folder in (VAR_DIR, VAR_DIR / "logs", VAR_DIR / "redis"):
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def write_private(path: Path, text: str) -> None:
    """Whole or absent, and readable by its owner alone from the first byte on."""
    aside = path.with_name(path.name + ".part")
    aside.unlink(missing_ok=True)
    with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    aside.replace(path)


def make_secrets(*, redis_url: str = "") -> Mapping[str, str]:
    """Fill in what var/secrets.env lacks, and the broker's address if one is given; returns its content."""
    make_folders()
    values = read_env_file(SECRETS)
    wanted = dict(values)
    wanted.setdefault("SECRET_KEY", secrets.token_urlsafe(64))
    wanted.setdefault("REDIS_URL", f"redis://:{secrets.token_urlsafe(32)}@127.0.0.1:{free_port()}/0")
    if redis_url:
        wanted["REDIS_URL"] = redis_url
    if wanted != values:
        write_private(SECRETS, "".join(f"{name}={value}\n" for name, value in wanted.items()))
    return wanted


def is_free(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(first: int = 0, host: str = "127.0.0.1") -> int:
    """The first free port from `first` on; with 0 any that the system gives."""
    if first == 0:
        with socket.socket() as probe:
            probe.bind((host, 0))
            return int(probe.getsockname()[1])
    for port in range(first, min(first + 100, 65536)):
        if is_free(port, host):
            return port
    raise OSError(f"no free port from {first} to {first + 99}")


# --- one start at a time ----------------------------------------------------------------------------


def take_hold() -> int | None:
    """A descriptor that marks var/ as in use while this process lives; None when another one does."""
    descriptor = os.open(VAR_DIR / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def note_running(**facts: object) -> None:
    write_private(RUNNING, json.dumps({"pid": os.getpid(), **facts}) + "\n")


def who_runs() -> dict[str, Any]:
    """What the process that holds var/ noted of itself; {} when it had no time yet."""
    try:
        return dict(json.loads(RUNNING.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
