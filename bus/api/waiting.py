"""Waiting for the end of a task without holding a thread or a connection.

In front of a synchronous view that answers at once: it is asked, and asked again when
the feed, which all waiters of this process share, tells of the end.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from typing import Any

from asgiref.sync import sync_to_async
from django.http import HttpRequest

import bus
from bus import errors, feed, messages

from . import parsing
from .problems import Problem


def until_ended(view: Callable[..., Any]) -> Callable[..., Any]:
    """The view of one task, which waits for `?wait=` seconds for the task's end."""
    ask = sync_to_async(view)

    @functools.wraps(view)  # keeps what DRF and the schema look for on a view
    async def waiting(request: HttpRequest, **kwargs: Any) -> Any:
        response = await ask(request, **kwargs)
        wait_s = _wait_s(request)
        if not wait_s or response.status_code != 200:
            return response
        task_id, topic = response.data["id"], response.data["topic"]
        if response.data["state"] in messages.ENDED:
            return response
        with contextlib.suppress(errors.BusError):  # the view says what is wrong
            await _ended(topic, task_id, wait_s)
        request.mesh_again = True  # type: ignore[attr-defined]
        return await ask(request, **kwargs)

    return waiting


async def _ended(topic: str, task_id: str, wait_s: float) -> None:
    """Return when the task has ended, or after so many seconds."""
    until = time.monotonic() + wait_s
    async with feed.shared().watching(topic, task_id) as ended:
        # Registered: an end from here on is told. One before it is seen by a look.
        while not (await bus.aget_task(task_id, topic)).ended:
            if not await ended(until - time.monotonic()):
                return


def _wait_s(request: HttpRequest) -> float:
    """The wait; 0 for a method that does not, or a value the view itself refused."""
    if request.method not in ("GET", "HEAD"):
        return 0.0
    try:
        return parsing.wait_of(request.GET)
    except Problem:
        return 0.0
