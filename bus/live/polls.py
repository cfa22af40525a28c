"""Snapshots that are taken about once a second for all, only while somebody follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from .. import errors

log = logging.getLogger(__name__)

_EVERY_S: Final = 1.0
_SHARE: Final = 4  # a look that takes long is taken seldom: a fifth of the time at most


class Poll:
    """The newest value of `look`, which is called in a thread, once a second.

    `version` grows whenever the value differs from the one before.
    """

    def __init__(self, look: Callable[[], Any]) -> None:
        self.value: Any = None
        self.version = 0
        self._look = look
        self._listeners: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None

    def listen(self, event: asyncio.Event) -> None:
        """Set the event at every new value."""
        self._listeners.add(event)
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="mesh-poll")

    def leave(self, event: asyncio.Event) -> None:
        """Stop setting the event; with the last one the looks stop."""
        self._listeners.discard(event)
        if not self._listeners and self._task is not None:
            self._task.cancel()
            # What is old by the time somebody follows again must not be shown first.
            self._task, self.value, self.version = None, None, 0

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                value = await asyncio.to_thread(self._look)
            except errors.BusUnavailable:
                pass  # the reader of the feed says so already
            except Exception:
                log.exception("live feed: a snapshot failed")
            else:
                if value != self.value:
                    self.value = value
                    self.version += 1
                    for event in self._listeners:
                        event.set()
            await asyncio.sleep(max(_EVERY_S, _SHARE * (loop.time() - began)))
