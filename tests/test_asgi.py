"""Bodies that are too large are refused while they arrive, before anybody stores them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rlhf_app.asgi import BodyLimit

MIB = 1024 * 1024


def ask(path: str, chunks: list[int], *, declared: int | None = None, cookie: bytes = b"") -> tuple[int, int]:
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
        return {"type": "http.request", "body": b"x" * waiting.pop(0), "more_body": bool(waiting)}

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


def test_only_an_import_by_somebody_with_a_session_may_be_large(settings: Any) -> None:
    cookie = settings.SESSION_COOKIE_NAME.encode() + b"=abc"
    assert ask("/p/x/data/import/", [MIB] * 4, cookie=cookie) == (200, 4 * MIB)
    assert ask("/p/x/data/import/", [MIB] * 5, cookie=cookie)[0] == 413
    assert ask("/p/x/data/import/", [MIB] * 2)[0] == 413
    assert ask("/p/x/judge/", [MIB] * 2, cookie=cookie)[0] == 413
