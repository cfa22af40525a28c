"""Waiting for the end of a task without holding a thread or a connection to Redis.

`GET tasks/{id}?wait=` answers once the task has ended. Django keeps a thread for every
request it has begun, so the wait is in front of it: it is asked, and asked again when
the feed, which all waiters of this process share, tells of the end.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl

import orjson

import bus
from bus import errors, feed, messages

from . import asked
from .problems import Problem
from .schema import PREFIX

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Receive, Send], Awaitable[None]]

AGAIN: Final = "mesh.again"  # in the scope of a second look, which costs no rate limit
_TASKS: Final = f"{PREFIX}/tasks/"


def patient(app: App) -> App:
    """The ASGI app, asked for a task again once it has ended."""

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        wait_s = _wait_s(scope)
        if not wait_s:
            await app(scope, receive, send)
            return
        answer = await answer_of(app, scope)
        task = _unended(answer)
        if task is not None:
            if await _left(receive, _ended(*task, wait_s)):
                return
            answer = await answer_of(app, {**scope, AGAIN: True})
        for message in answer:
            await send(message)

    return outer


def _wait_s(scope: Any) -> float:
    """For how long to wait; 0 for other calls, and for what the view is to refuse."""
    if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
        return 0.0
    name = scope["path"].removeprefix(_TASKS)
    if not name or "/" in name:
        return 0.0
    query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
    try:
        return asked.wait_of(query)
    except Problem:
        return 0.0


async def answer_of(app: App, scope: Any) -> list[Message]:
    """What the app answers now."""
    answer: list[Message] = []
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:  # whether the client is still there is watched by us
            await asyncio.get_running_loop().create_future()
        given = True
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        answer.append(message)

    await app(scope, receive, send)
    return answer


def _unended(answer: list[Message]) -> tuple[str, str] | None:
    """Topic and id of the task in an answer; None if nothing is to be waited for."""
    if not answer or answer[0].get("status") != 200:
        return None
    body = b"".join(part.get("body", b"") for part in answer[1:])
    row = orjson.loads(body)
    if row["state"] in messages.ENDED:
        return None
    return row["topic"], row["id"]


async def _ended(topic: str, task_id: str, wait_s: float) -> None:
    """Return when the task has ended, or after so many seconds."""
    until = time.monotonic() + wait_s
    # If Redis goes away meanwhile, the second look says so.
    with contextlib.suppress(errors.BusError):
        async with feed.shared().watching(topic, task_id) as ended:
            # Registered: an end from here on is told. One before it shows in the look.
            while not (await bus.aget_task(task_id, topic)).ended:
                if not await ended(until - time.monotonic()):
                    return


async def _left(receive: Receive, work: Awaitable[None]) -> bool:
    """Whether the client went away while the work was done; it is then given up."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(gone(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return True
        working.result()
        return False
    finally:
        for each in (working, leaving):
            each.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
