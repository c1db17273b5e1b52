"""Bodies that are too large are refused while they arrive, before anybody stores them."""

from __future__ import annotations

import asyncio
import http.client
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn
from django.test import Client
from django.urls import reverse

from rlhf_app import asgi
from rlhf_app.asgi import BodyLimit
from tests.factories import make_user

MIB = 1024 * 1024


def ask(
    path: str,
    chunks: list[int],
    *,
    declared: int | None = None,
    cookie: bytes = b"",
    stalls: bool = False,
) -> tuple[int, int]:
    """(status, bytes that the application behind the limit has read)."""
    read = 0
    sent: list[Any] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        nonlocal read
        while True:
            message = await receive()
            read += len(message["body"])
            if not message["more_body"]:
                break
        await send({"type": "http.response.start", "status": 200, "headers": []})

    waiting = list(chunks)

    async def receive() -> Any:
        if not waiting:
            await asyncio.sleep(60)  # it promised more than it sends
        return {"type": "http.request", "body": b"x" * waiting.pop(0), "more_body": bool(waiting) or stalls}

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"cookie", cookie)] if cookie else []
    if declared is not None:
        headers.append((b"content-length", str(declared).encode()))
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(BodyLimit(application)(scope, receive, send))
    return sent[0]["status"], read


@pytest.fixture(autouse=True)
def limits(settings: Any) -> None:
    settings.DATA_UPLOAD_MAX_MEMORY_SIZE = MIB
    settings.IMPORT_MAX_BYTES = 3 * MIB


def test_what_is_small_enough_passes() -> None:
    assert ask("/account/sign-in/", [MIB // 2, MIB // 2]) == (200, MIB)


def test_a_declared_length_is_refused_before_a_byte_is_read() -> None:
    assert ask("/account/sign-in/", [1], declared=MIB + 1) == (413, 0)
    assert ask("/account/sign-in/", [1], declared=10**40) == (413, 0)


def test_an_undeclared_stream_is_cut_at_the_limit() -> None:
    assert ask("/account/sign-in/", [MIB // 2] * 100) == (413, MIB)


@pytest.mark.django_db(transaction=True)
def test_only_an_import_by_somebody_signed_in_may_be_large(settings: Any, client: Client) -> None:
    name = settings.SESSION_COOKIE_NAME
    client.force_login(make_user())
    cookie = f"theme=dark; {name}={client.cookies[name].value}".encode()
    upload = reverse("import_upload", args=["x"])
    assert ask(upload, [MIB] * 4, cookie=cookie) == (200, 4 * MIB)
    assert ask(upload, [MIB] * 5, cookie=cookie)[0] == 413
    assert ask(upload, [MIB] * 2)[0] == 413
    assert ask("/p/x/judge/", [MIB] * 2, cookie=cookie)[0] == 413
    invented = [f"{name}=abc", f"{name}=", f"x{name}=1", f'{name}="; \xff']
    assert {ask(upload, [MIB] * 2, cookie=one.encode("latin-1"))[0] for one in invented} == {413}
    client.logout()
    assert ask(upload, [MIB] * 2, cookie=cookie)[0] == 413


def test_who_sent_too_much_and_no_more_is_answered_at_once() -> None:
    begin = time.monotonic()
    assert ask("/account/sign-in/", [MIB, MIB]) == (413, MIB)
    assert time.monotonic() - begin < 5


def test_who_is_refused_and_stalls_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asgi, "LINGER_SECONDS", 0.05)
    begin = time.monotonic()
    assert ask("/account/sign-in/", [MIB, MIB], stalls=True) == (413, MIB)
    assert time.monotonic() - begin < 5


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """The product itself under its real server."""
    server = uvicorn.Server(uvicorn.Config(asgi.application, port=0, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("declared", [True, False])
def test_who_sends_too_much_reads_why(port: int, declared: bool) -> None:
    """Not a broken connection: 40 MiB are more than the buffers between the two of us hold."""
    chunks = [b"x" * MIB] * 40
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    body = b"".join(chunks) if declared else iter(chunks)  # http.client sends an iterator without a length
    client.request("POST", reverse("sign_in"), body)
    answer = client.getresponse()
    assert answer.status == 413
    assert answer.read() == b"This is too large: at most 1 MiB may be sent here.\n"
