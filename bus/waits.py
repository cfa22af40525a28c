"""Waiting for the end of a task on an event loop: no thread, no connection each.

All who wait on one loop share its feed, however many they are.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

from . import errors, feed, keys, lookup, results
from .messages import Task

_RETRY_S: Final = 0.1


async def await_result(
    task_id: str, topic: str | None = None, timeout_s: float = 10.0
) -> Task:
    """`wait_result` for asyncio; any number of calls may wait at once."""
    until = time.monotonic() + results.check_wait(timeout_s)
    task_id = keys.check_task_id(task_id)
    while True:
        try:
            if topic is None:
                topic = await asyncio.to_thread(lookup.topic_of, task_id, None)
            return await _waited(task_id, topic, until)
        except errors.BusUnavailable:
            # A connection that went stale, a server that restarts: there is time left.
            stops = feed.shared().closing.is_set()
            if stops or time.monotonic() + _RETRY_S >= until:
                raise
            await asyncio.sleep(_RETRY_S)


async def _waited(task_id: str, topic: str, until: float) -> Task:
    """The task once it has ended, or as it stands at `until` (monotonic s), or when the
    process stops: from then on the feed tells of no end."""
    shared = feed.shared()
    left_s = until - time.monotonic()
    async with shared.watching(topic, task_id, left_s) as ended:
        while True:
            left_s = until - time.monotonic()
            # All looks on one connection, which carries any number of them at once.
            task = await lookup.afound(topic, task_id, shared.tailer.asking())
            if task is None:
                raise lookup.unknown(task_id)
            if task.ended or left_s <= 0 or shared.closing.is_set():
                return task
            # Of a result that was trimmed unread the feed may not tell.
            await ended(min(left_s, results.LOOK_S))
