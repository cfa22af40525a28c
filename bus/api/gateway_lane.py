"""The gateway's door in front of Django, for tokens that were let in before.

Django's middleware keeps a thread for each request and costs milliseconds before the
first byte. Whoever is not known yet, or looks unusual, goes on to Django; what a call
means is the same code for both doors (`gateway.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from bus import whence
from bus.conf import conf

from . import express, gateway, head, waiting
from .asgi import App, Receive, Send
from .gateway import Asked, Relay, Told
from .schema import GATEWAY, is_gateway


def generating(app: App) -> App:
    """The ASGI app, to which only those calls of the gateway come that are not for the
    lane."""

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        asked = await _asked(scope, receive)
        if asked is None:
            await app(scope, receive, send)
            return
        async with _unless_gone(receive):
            told = await _told(asked)
            try:
                await _sent(told, scope, send)
            finally:
                if isinstance(told.body, Relay):
                    told.body.close()

    return outer


async def _asked(scope: Any, receive: Receive) -> Asked | None:
    """The call, with its body; None for what is Django's, whose body is untouched."""
    if scope["type"] != "http" or not conf.EXPRESS_LANE or scope["query_string"]:
        return None
    path: str = scope["path"]
    if not is_gateway(path):
        return None
    read = head.read(scope)
    who = None if read is None else await express.known(read.token)
    if read is None or who is None:
        return None
    # In front of us the body was read whole; a client that went meanwhile sends none.
    body = (await receive()).get("body", b"") if read.length else b""
    return Asked(
        who=who,
        method=scope["method"],
        path=path.removeprefix(GATEWAY),
        body=lambda: body,
        content_encoding=read.content_encoding,
        cache_control=_header(scope, b"cache-control"),
    )


def _header(scope: Any, wanted: bytes) -> str:
    values = [value for name, value in scope["headers"] if name == wanted]
    return b",".join(values).decode("latin-1")


@contextlib.asynccontextmanager
async def _unless_gone(receive: Receive) -> AsyncIterator[None]:
    """What is done inside ends where the client leaves, in silence.

    A deadline that is never and then at once: the work needs no task of its own, which
    would be the dearest part of a first byte.
    """
    leaving = asyncio.ensure_future(waiting.gone(receive))
    try:
        async with asyncio.timeout(None) as deadline:
            leaving.add_done_callback(lambda _: _now(deadline))
            yield
    except TimeoutError:
        if not deadline.expired():
            raise
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


def _now(deadline: asyncio.Timeout) -> None:
    # Behind the end of the block it is none any more.
    with contextlib.suppress(RuntimeError):
        deadline.reschedule(0)


async def _told(asked: Asked) -> Told:
    try:
        return await gateway.answer(asked)
    except Exception as exc:
        return gateway.refusal(exc)


async def _sent(told: Told, scope: Any, send: Send) -> None:
    headers = [
        (head.REQUEST_ID, whence.request_id(_header(scope, head.REQUEST_ID)).encode()),
        *head.of_site(scope),
    ]
    for name, text in told.headers.items():
        headers.append((name.lower().encode(), text.encode("latin-1")))
    body = told.body
    if not isinstance(body, Relay):
        headers.append((b"content-length", b"%d" % len(body)))
    start = {"type": "http.response.start", "status": told.status, "headers": headers}
    await send(start)
    if isinstance(body, Relay):
        async for line in body:
            part = {"type": "http.response.body", "body": line, "more_body": True}
            await send(part)
        body = b""
    await send({"type": "http.response.body", "body": body})
