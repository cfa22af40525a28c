"""Waiting for the end of a task, or for a task, without a thread or a connection.

`GET tasks/{id}?wait=` answers once the task has ended. Django keeps a thread for every
request it has begun, so the wait is in front of it: it is asked, and asked again when
the feed, which all waiters of this process share, tells of the end. Likewise `POST
topics/{topic}/claim` with `wait_s`, which is asked again when tasks arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl

import orjson

import bus
from bus import errors, messages
from bus.live import arrivals

from . import asked, lending
from .asgi import App, Message, Receive, Send
from .problems import Problem
from .schema import PREFIX

AGAIN: Final = "mesh.again"  # in the scope of a second look, which costs no rate limit
_TASKS: Final = f"{PREFIX}/tasks/"
_TOPICS: Final = f"{PREFIX}/topics/"
_CLAIM: Final = "/claim"
T = TypeVar("T")


def patient(app: App) -> App:
    """The ASGI app, asked for a task again once it has ended, or once one came."""

    async def outer(scope: Any, receive: Receive, send: Send) -> None:
        topic = _claimed(scope)
        if topic:
            await _claim(app, scope, receive, send, topic)
            return
        wait_s = _wait_s(scope)
        if not wait_s:
            await app(scope, receive, send)
            return
        answer = await answer_of(app, scope)
        task = _unended(answer)
        if task is not None:
            if await _left(receive, _ended(*task, wait_s)):
                return
            answer = await answer_of(app, _pinned(scope, task[0]))
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


def _pinned(scope: Any, topic: str) -> Any:
    """The scope of the second look: at the task of this topic, which was waited for.

    Without a topic one where the id lives is picked. Once it has ended, another topic
    with a task of this id may come first.
    """
    query: bytes = scope["query_string"]
    if "topic" not in dict(parse_qsl(query.decode("latin-1"), keep_blank_values=True)):
        query += f"&topic={topic}".encode()
    return {**scope, AGAIN: True, "query_string": query}


def _claimed(scope: Any) -> str:
    """The topic that tasks are claimed of; empty for other calls."""
    if scope["type"] != "http" or scope["method"] != "POST":
        return ""
    path: str = scope["path"]
    if not path.startswith(_TOPICS) or not path.endswith(_CLAIM):
        return ""
    name = path[len(_TOPICS) : -len(_CLAIM)]
    return "" if "/" in name else name


async def _claim(
    app: App, scope: Any, receive: Receive, send: Send, topic: str
) -> None:
    message = await receive()  # whole, from `bounds.py` in front of us
    if message["type"] == "http.disconnect":
        return
    body = message.get("body", b"")
    again = False

    async def look() -> list[Message]:
        nonlocal again
        asked_again, again = again, True
        return await answer_of(app, {**scope, AGAIN: asked_again}, body)

    answer = await patiently(topic, _claim_wait_s(body), look, _came_empty, receive)
    for message in answer or ():
        await send(message)


def _claim_wait_s(body: bytes) -> float:
    """For how long to wait; 0 for what the view is to refuse."""
    try:
        return lending.wait_of(orjson.loads(body))
    except (ValueError, Problem):
        return 0.0


def _came_empty(answer: list[Message]) -> bool:
    if not answer or answer[0].get("status") != 200:
        return False
    body = b"".join(part.get("body", b"") for part in answer[1:])
    return lending.is_empty(orjson.loads(body))


async def patiently(
    topic: str,
    wait_s: float,
    look: Callable[[], Awaitable[T]],
    is_empty: Callable[[T], bool],
    receive: Receive,
) -> T | None:
    """What the first look finds that finds something, else after `wait_s` the last.

    None where the client has gone: what is found then would be held by nobody.
    """
    until = time.monotonic() + wait_s
    found = await look()
    if not wait_s or not is_empty(found):
        return found
    leaving = asyncio.ensure_future(gone(receive))
    try:
        async with arrivals.shared().waiting(topic) as turn:
            while True:
                # Registered: what comes from here on is told. This look has the rest.
                if leaving.done():
                    return None
                found = await look()
                if not is_empty(found):
                    return found
                coming = asyncio.ensure_future(turn.comes(until - time.monotonic()))
                try:
                    await asyncio.wait(
                        (coming, leaving), return_when=asyncio.FIRST_COMPLETED
                    )
                    if not coming.done():
                        return None
                finally:
                    # Before the next is woken as we leave: not in our place.
                    coming.cancel()
                    await asyncio.gather(coming, return_exceptions=True)
                if not coming.result():
                    return found
    finally:
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)


async def answer_of(app: App, scope: Any, body: bytes = b"") -> list[Message]:
    """What the app answers now."""
    answer: list[Message] = []
    given = False

    async def receive() -> Message:
        nonlocal given
        if given:  # whether the client is still there is watched by us
            await asyncio.get_running_loop().create_future()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

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
    """Return when the task has ended, after so many seconds, or when we stop."""
    # If Redis stays away, or the task is gone, the second look says so.
    with contextlib.suppress(errors.BusError):
        await bus.await_result(task_id, topic, wait_s)


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
