"""Which topics there are, for those who follow all of them, also the ones to come."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

import redis

from .. import errors, keys, refusals, replies
from .tailer import Tailer

log = logging.getLogger(__name__)

_EVERY_S: Final = 0.5  # a new topic is picked up within a second


class Roster:
    """Keeps every topic attached, as long as somebody follows all."""

    def __init__(self, tailer: Tailer) -> None:
        self._tailer = tailer
        self._followers = 0
        self._names: set[str] = set()
        self._listed_at: str | None = None
        self._first: asyncio.Task[None] | None = None
        self._task: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Follow all topics; on return those there are now are attached."""
        self._followers += 1
        loop = asyncio.get_running_loop()
        try:
            if self._task is None:
                if self._first is None:
                    self._first = loop.create_task(self._list())
                await asyncio.shield(self._first)
                if self._task is None:
                    self._first = None
                    self._task = loop.create_task(self._keep(), name="mesh-roster")
        except BaseException:
            if self._first is not None and self._first.done():
                self._first = None  # it failed; whoever comes next tries again
            self.part()
            raise

    def part(self) -> None:
        """The end of `join`; with the last one all topics are let go."""
        self._followers -= 1
        if self._followers == 0:
            if self._task is not None:
                self._task.cancel()
            if self._first is not None:
                self._first.cancel()  # nobody waits for it, and it grows old
            self._tailer.detach(self._names)
            self._names, self._listed_at = set(), None
            self._first = self._task = None

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_EVERY_S)
            try:
                await self._list()
            except errors.BusUnavailable:
                pass  # the reader says so already
            except Exception:
                log.exception("live feed: cannot list topics")

    async def _list(self) -> None:
        """Attach the topics that came since the last list, let go of those that went.

        The time is taken before the list, so what a topic got before it was listed for
        the first time lies behind the time of the list in which it was missing.
        """
        try:
            now = await self._tailer.ask("TIME")
            found = await self._tailer.ask("SMEMBERS", keys.TOPICS)
        except (redis.RedisError, OSError) as exc:
            raise refusals.mapped(exc) from exc
        names = set(found)
        new, gone = names - self._names, self._names - names
        await self._tailer.attach(new, self._listed_at)
        if not self._followers:
            self._tailer.detach(new)  # the last one left while we attached
            return
        self._names |= new
        self._tailer.detach(gone)
        self._names -= gone
        self._listed_at = f"{replies.clock_ms(now)}-0"
