"""The ASGI entry point: `uvicorn rlhf_app.asgi:application`."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
from collections.abc import Awaitable, Callable, MutableMapping
from importlib import import_module
from typing import Any

import django

from rlhf_app import child
from rlhf_app.handler import Handler

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "rlhf_app.settings")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

SLACK = 1024 * 1024
"""What a form adds to the file in it."""
LINGER_SECONDS = 20.0
"""Who still sends reads no answer, only that the connection broke: so the rest is thrown away first."""


class TooLarge(Exception):
    """More was sent than anybody may send there."""


class BodyLimit:
    """Refuse large bodies with 413 while they arrive: Django stores a whole body, whoever sent it."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def limit(self, scope: Message) -> int:
        from django.conf import settings

        cookies = dict(scope["headers"]).get(b"cookie", b"").decode("latin-1")
        uploads = scope["path"].startswith("/p/") and scope["path"].endswith("/data/import/")
        if uploads and await asyncio.to_thread(signed_in, cookies):
            return int(settings.IMPORT_MAX_BYTES) + SLACK
        return int(settings.DATA_UPLOAD_MAX_MEMORY_SIZE)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.application(scope, receive, send)
        limit, seen, more = await self.limit(scope), 0, True
        declared = dict(scope["headers"]).get(b"content-length", b"0")

        async def counted() -> Message:
            nonlocal seen, more
            message = await receive()
            seen, more = seen + len(message.get("body", b"")), message.get("more_body", False)
            if seen > limit:
                raise TooLarge
            return message

        try:
            if declared.isdigit() and int(declared[:20]) > limit:
                raise TooLarge
            await self.application(scope, counted, send)
        except TooLarge:
            if more:
                await throw_away(receive)
            await refuse(send, limit)


def signed_in(cookies: str) -> bool:
    """Whether these cookies open somebody's session: the name of one is anybody's to send."""
    from django.conf import settings
    from django.contrib.auth import SESSION_KEY
    from django.db import connections
    from django.http import parse_cookie

    key = parse_cookie(cookies).get(settings.SESSION_COOKIE_NAME)
    if not key:
        return False
    try:
        return SESSION_KEY in import_module(settings.SESSION_ENGINE).SessionStore(key)
    finally:
        connections.close_all()  # the thread may never be back


async def throw_away(receive: Receive) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while (await receive()).get("more_body"):
                pass


async def refuse(send: Send, limit: int) -> None:
    from django.utils.translation import gettext as _

    text = _("This is too large: at most %d MiB may be sent here.") % (limit // 1024**2)
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})


def started_by() -> int | None:
    """The process id of the uvicorn that started this process as one of its workers, if one did."""
    from django.conf import settings

    parent = multiprocessing.parent_process()
    return parent.pid if parent and int(settings.WEB_PROCESSES) > 1 else None


django.setup(set_prefix=False)
application = BodyLimit(Handler())
if (uvicorn := started_by()) is not None:
    child.die_with_parent(uvicorn)  # a killed uvicorn would leave it holding the port
