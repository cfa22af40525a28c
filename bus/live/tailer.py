"""Keeps one reading connection on the streams of every watched topic.

It starts with the first topic, ends a while after the last, and comes back by itself
from whatever Redis does meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import Callable, Iterable
from typing import Any, Final

import redis

from .. import errors
from ..conf import conf
from .nudged import Nudged
from .reading import Reading, Stream
from .window import Item

log = logging.getLogger(__name__)

_BALANCE_S: Final = 1.0
_LINGER_S = 5.0  # how long a topic nobody watches any more stays open
_OPEN_S = 5.0
_NAME: Final = "mesh-feed"


class Tailer:
    """Reads what is attached, as long as something is, from its own two connections."""

    def __init__(self, deliver: Callable[[list[Item]], bool]) -> None:
        self._pair = Nudged(_NAME)
        self._reading = Reading(self._pair, deliver)
        self._refs: dict[str, int] = {}
        self._idle_since: dict[str, float] = {}
        self._opening: dict[str, str | None] = {}
        self._waiters: list[asyncio.Future[None]] = []
        self._task: asyncio.Task[None] | None = None
        self._woken = asyncio.Event()
        self._has_read = False  # since the last trouble
        self._trouble: Exception | None = None

    @property
    def streams(self) -> dict[str, Stream]:
        """How far each stream of the open topics has been read, by key."""
        return self._reading.streams

    @property
    def up(self) -> bool:
        """Whether Redis answered when it was last asked."""
        return self._trouble is None

    async def ask(self, *command: Any) -> Any:
        """One command that does not block, on a connection beside the reading one."""
        return await self._pair.ask(*command)

    def asking(self) -> Any:
        """The connection of `ask`, as a client for scripts."""
        return self._pair.asking()

    async def attach(
        self,
        topics: Iterable[str],
        since: str | None = None,
        within_s: float = math.inf,
    ) -> None:
        """Watch topics; on return their streams are read from a known place on.

        That is their end as of now, or entry id `since` for topics that were not known
        at that time. BusUnavailable if Redis does not answer for 5 s, or `within_s`;
        it has the time that each command has all the same.
        """
        loop, names = asyncio.get_running_loop(), set(topics)
        for topic in names:
            self._refs[topic] = self._refs.get(topic, 0) + 1
            self._idle_since.pop(topic, None)
            if topic not in self._reading.topics:
                self._opening.setdefault(topic, since)
        if self._task is None:
            self._task = loop.create_task(self._run(), name=_NAME)
        within_s = max(within_s, conf.SOCKET_TIMEOUT_S)
        until = loop.time() + min(within_s, _OPEN_S)
        try:
            while not names <= self._reading.topics:
                await self._turn(until)
        except BaseException:
            self.detach(names)
            raise

    def detach(self, topics: Iterable[str]) -> None:
        """Watch topics no longer, once for each `attach`."""
        now = asyncio.get_running_loop().time()
        for topic in set(topics):
            self._refs[topic] -= 1
            if not self._refs[topic]:
                del self._refs[topic]
                self._opening.pop(topic, None)
                self._idle_since[topic] = now

    async def _turn(self, until: float) -> None:
        """Wait until the reader has taken up new topics once more."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        self._waiters.append(waiter)
        self._woken.set()
        while not waiter.done():
            if loop.time() >= until:
                waiter.cancel()
                why = self._trouble or "no answer"
                raise errors.BusUnavailable(f"the live feed cannot reach Redis: {why}")
            # The reader may be about to block just now: one nudge can be too early.
            await self._pair.nudge()
            await asyncio.wait([waiter], timeout=0.02)

    async def _run(self) -> None:
        pause_s = 0.05
        try:
            while True:
                try:
                    await self._session()
                    return
                except (redis.RedisError, errors.BusError, OSError) as exc:
                    self._say(exc)
                except Exception as exc:
                    log.exception("live feed: a mistake of ours; starting over")
                    self._trouble = exc
                if self._has_read:
                    pause_s = 0.05  # first a quick try
                self._has_read = False
                await self._pair.hang_up()
                await asyncio.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(pause_s * 2, 1.0)
        finally:
            # Before the first await: whoever attaches now starts another reader. And
            # nothing may go on holding the loop, by which feeds are known weakly.
            self._task, self._trouble, self._woken = None, None, asyncio.Event()
            self._has_read = False
            await self._pair.close()

    def _say(self, exc: Exception) -> None:
        if self._trouble is None:
            log.warning("live feed: %s; trying again", exc)
        self._trouble = exc

    async def _session(self) -> None:
        """Read until nobody has watched anything for a while; Redis errors end it."""
        loop, reading = asyncio.get_running_loop(), self._reading
        await self._pair.open()
        await reading.balance(everything=True)
        self._has_read = True
        if self._trouble is not None:
            log.warning("live feed: Redis answers again")
            self._trouble = None
        balanced_at = loop.time()
        while True:
            self._forget_idle(loop.time())
            await self._take_up()
            if reading.streams:
                await reading.read()
            elif not await self._sleep() and not self._opening and not self._refs:
                return
            if loop.time() - balanced_at >= _BALANCE_S:
                await reading.balance()
                balanced_at = loop.time()

    async def _sleep(self) -> bool:
        """Whether somebody attached within a while."""
        self._woken.clear()
        try:
            await asyncio.wait_for(self._woken.wait(), _LINGER_S)
        except TimeoutError:
            return False
        return True

    def _forget_idle(self, now: float) -> None:
        for topic, since in list(self._idle_since.items()):
            if now - since >= _LINGER_S:
                del self._idle_since[topic]
                self._reading.close(topic)

    async def _take_up(self) -> None:
        """Open the topics that are waited for, and wake who waits."""
        waiters, self._waiters = self._waiters, []
        new = dict(self._opening)
        try:
            await self._reading.open(new)
        finally:
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
        for topic in new:
            self._opening.pop(topic, None)
            if topic not in self._refs:  # who wanted it has left meanwhile
                self._idle_since.setdefault(topic, asyncio.get_running_loop().time())
