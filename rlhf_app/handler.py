"""How the web process answers: each request on one thread from its first middleware to its last.

Django's own handler gives every request a thread of its own, with a connection to the database that ends with
it, and changes threads several times on the way. Views here are plain functions, so that bought nothing and
cost a fifth of a judgement. Here a few threads stay, keep what they have opened, and take requests in turn.
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.core import signals
from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.core.handlers.base import BaseHandler
from django.db import close_old_connections, connections
from django.http import HttpResponseBase
from django.urls import set_script_prefix

THREADS = 8
"""Requests answered at a time; more of them wait in the order in which they came."""

Receive = Callable[[], Coroutine[Any, Any, Any]]
Send = Callable[[Any], Awaitable[None]]


class Handler(ASGIHandler):
    """Django's ASGI handler whose requests stay on one of a few lasting threads."""

    def __init__(self) -> None:
        BaseHandler.__init__(self)
        self.load_middleware(is_async=False)
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="request")

    async def __call__(self, scope: Any, receive: Any, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"only HTTP is served here, not {scope['type']}")
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        try:
            run = contextvars.copy_context().run
            loop = asyncio.get_running_loop()
            response = await loop.run_in_executor(self.threads, run, self.answer, scope, body)
            if response.streaming:
                await self.stream(response, receive, send)
            else:
                await self.send_response(response, send)
        finally:
            body.close()

    def answer(self, scope: Any, body: Any) -> HttpResponseBase:
        """The response; all of its work is done unless it streams."""
        set_script_prefix(get_script_prefix(scope))
        signals.request_started.send(sender=self.__class__, scope=scope)
        request, refusal = self.create_request(scope, body)
        response: Any = refusal if request is None else self.get_response(request)
        response._handler_class = self.__class__  # named in request_finished
        if response.streaming:
            close_old_connections()
        else:
            response.close()
        return cast(HttpResponseBase, response)

    async def stream(self, response: Any, receive: Receive, send: Send) -> None:
        """Send while it is made, on a thread of its own, and stop when nobody listens any more."""
        response.block_size = self.chunk_size
        async with ThreadSensitiveContext():
            sending = asyncio.create_task(self.send_response(response, send))
            gone: asyncio.Task[Any] = asyncio.create_task(receive())
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
            for task in (sending, gone):
                task.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await sync_to_async(finish)(response)
        if not sending.cancelled():
            sending.result()


def finish(response: HttpResponseBase) -> None:
    response.close()
    connections.close_all()  # the thread ends here
