"""Requests are answered on a few threads that stay; downloads on threads of their own that end with them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.decorators import login_not_required
from django.core.signals import request_finished, request_started
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.urls import path

from feedback.views.streams import streamed
from rlhf_app import handler
from rlhf_app.handler import Handler

SEEN: list[str] = []
"""Threads, in order: of views and of the parts of downloads."""
LET_GO = threading.Event()


@login_not_required
def where(request: HttpRequest) -> HttpResponse:
    SEEN.append(threading.current_thread().name)
    return HttpResponse(request.body + request.GET.get("q", "").encode())


@login_not_required
def wait(request: HttpRequest) -> HttpResponse:
    LET_GO.wait(20)
    return HttpResponse("waited")


@login_not_required
def download(request: Any) -> HttpResponseBase:
    def parts() -> Iterator[bytes]:
        for number in range(1000):
            SEEN.append(threading.current_thread().name)
            yield b"%d\n" % number
            time.sleep(0.01)

    return StreamingHttpResponse(streamed(request, parts()))


@login_not_required
def broken(request: Any) -> HttpResponseBase:
    def parts() -> Iterator[bytes]:
        yield b"first"
        raise ZeroDivisionError

    return StreamingHttpResponse(streamed(request, parts()))


urlpatterns = [path(view.__name__, view) for view in (where, wait, download, broken)]


@pytest.fixture(autouse=True)
def pages(settings: Any) -> Iterator[None]:
    settings.ROOT_URLCONF = __name__
    SEEN.clear()
    LET_GO.clear()
    yield
    LET_GO.set()


class Visit:
    """One request; it leaves when `leaves_after` parts of the body have come."""

    def __init__(self, address: str, body: bytes = b"", *, leaves_after: int | None = None) -> None:
        name, _mark, query = address.partition("?")
        self.scope = {
            "type": "http", "method": "GET", "path": f"/{name}", "query_string": query.encode(),
            "headers": [(b"host", b"localhost")], "scheme": "http", "http_version": "1.1",
        }  # fmt: skip
        self.body, self.leaves_after = body, leaves_after
        self.status = 0
        self.parts: list[bytes] = []
        self.asked = False
        self.gone = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        if not self.asked:
            self.asked = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif message.get("body"):
            self.parts.append(message["body"])
            if len(self.parts) == self.leaves_after:
                self.gone.set()

    async def to(self, application: Handler) -> Visit:
        await application(self.scope, self.receive, self.send)
        return self


def test_a_request_stays_on_one_of_a_few_threads_that_stay() -> None:
    on: list[str] = []

    def signalled(**_facts: Any) -> None:
        on.append(threading.current_thread().name)

    async def visits() -> list[Visit]:
        application = Handler()
        return [await Visit("where", b"sent").to(application) for _n in range(20)]

    request_started.connect(signalled)
    request_finished.connect(signalled)
    try:
        found = asyncio.run(visits())
    finally:
        request_started.disconnect(signalled)
        request_finished.disconnect(signalled)
    assert {(visit.status, *visit.parts) for visit in found} == {(200, b"sent")}
    assert on[::2] == SEEN and len(on) == 40 and on[::2] == on[1::2], "began, seen and ended on one thread"
    assert len(set(on)) <= handler.THREADS and all(name.startswith("request") for name in on)


def test_each_visitor_gets_an_answer_of_their_own() -> None:
    async def visits() -> list[Visit]:
        application = Handler()
        return await asyncio.gather(*(Visit(f"where?q={n}").to(application) for n in range(100)))

    found = asyncio.run(visits())
    assert [visit.parts for visit in found] == [[b"%d" % n] for n in range(100)]
    assert {visit.status for visit in found} == {200}
    assert len(SEEN) == 100 and len(set(SEEN)) <= handler.THREADS


def test_more_visitors_than_threads_wait_for_their_turn() -> None:
    async def visits() -> tuple[bool, list[Visit]]:
        application = Handler()
        tasks = [asyncio.create_task(Visit("wait").to(application)) for _n in range(handler.THREADS)]
        late = asyncio.create_task(Visit("where?q=late").to(application))
        await asyncio.sleep(0.3)
        waited = not late.done()
        LET_GO.set()
        return waited, await asyncio.gather(*tasks, late)

    waited, found = asyncio.run(visits())
    assert waited and found[-1].parts == [b"late"] and found[0].parts == [b"waited"]


def test_a_download_is_sent_while_it_is_made_and_stops_when_nobody_listens() -> None:
    async def visit() -> Visit:
        return await Visit("download", leaves_after=5).to(Handler())

    begin = time.monotonic()
    found = asyncio.run(visit())
    assert found.status == 200 and found.parts[:5] == [b"%d\n" % n for n in range(5)]
    assert len(SEEN) < 50 and time.monotonic() - begin < 5
    assert len(set(SEEN)) == 1 and not SEEN[0].startswith("request"), "it keeps nobody else waiting"
    assert SEEN[0] not in {thread.name for thread in threading.enumerate()}


def test_a_download_that_breaks_says_so_to_the_server() -> None:
    """Which then cuts the connection: the browser must not take half a file for a whole one."""
    with pytest.raises(ZeroDivisionError):
        asyncio.run(Visit("broken").to(Handler()))


def test_who_leaves_before_the_request_is_complete_is_forgotten() -> None:
    visit = Visit("where")
    visit.asked = True
    visit.gone.set()
    assert asyncio.run(visit.to(Handler())).status == 0
    assert SEEN == []
