"""Wakes who waits for tasks of a topic: one reading connection per event loop.

Of many who wait for the same topic one is woken, and wakes the next when it leaves with
what it found: a task that comes costs a look or two, however many wait. About once a
second somebody looks anyway: a task that is handed over is no new entry of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import redis

from .. import errors, keys, replies, scripts
from .nudged import Nudged

log = logging.getLogger(__name__)

_TICK_S: Final = 1.0
_LINGER_S: Final = 5.0  # agents come back: a topic nobody waits for stays open so long
_GATHER_S: Final = 0.002  # between wakes: others may take what comes
_OPEN_S: Final = 1.0  # until a topic is read; whoever waits looks by itself until then
_NAME: Final = "mesh-arrivals"


class _Topic:
    """Who waits for one topic, and from where its stream is read."""

    def __init__(self) -> None:
        self.guests = 0  # who waits, or looks just now
        self.asleep: deque[asyncio.Future[None]] = deque()
        self.version = 0  # grows with all that comes
        self.cursor: str | None = None  # None: not read yet; '': somebody's own key
        self.is_read = False  # whether the read under way covers it
        self.left_at = 0.0

    def wake(self) -> None:
        """Have one of those asleep look."""
        while self.asleep:
            sleeper = self.asleep.popleft()
            if not sleeper.done():
                sleeper.set_result(None)
                return


class Turn:
    """One who waits: looks, and sleeps until there may be something to find."""

    def __init__(self, arrivals: Arrivals, topic: _Topic) -> None:
        self._arrivals, self._topic = arrivals, topic
        self._seen = topic.version

    async def comes(self, timeout_s: float) -> bool:
        """True when it is time to look; False after the timeout, or when we stop."""
        topic = self._topic
        if self._arrivals.closed or timeout_s <= 0:
            return False
        if self._seen == topic.version:
            sleeper = asyncio.get_running_loop().create_future()
            topic.asleep.append(sleeper)
            try:
                await asyncio.wait([sleeper], timeout=timeout_s)
            finally:
                if not sleeper.done():
                    topic.asleep.remove(sleeper)
            if not sleeper.done():
                return False
        # Before the look: what comes from here on is another reason for one.
        self._seen = topic.version
        return not self._arrivals.closed


class Arrivals:
    """The arrivals of one event loop; use it from that loop only."""

    def __init__(self) -> None:
        self.closed = False
        self._topics: dict[str, _Topic] = {}
        self._task: asyncio.Task[None] | None = None
        self._pair = Nudged(_NAME)
        self._ticked_at = 0.0
        self._silent = False  # whether it was said that Redis does not answer
        self._woken = asyncio.Event()

    def close(self) -> None:
        """Let all who wait go at once, with what they have: we stop."""
        self.closed = True
        for topic in self._topics.values():
            while topic.asleep:
                topic.wake()

    @asynccontextmanager
    async def waiting(self, name: str) -> AsyncIterator[Turn]:
        """Wait for tasks of a topic; whoever leaves, whatever for, wakes the next.

        async with arrivals.waiting("demo") as turn:
            while not (found := await look()) and await turn.comes(left_s):
                …
        """
        loop = asyncio.get_running_loop()
        topic = self._topics.setdefault(keys.check_topic(name), _Topic())
        topic.guests += 1
        self._woken.set()
        if self._task is None:
            self._task = loop.create_task(self._run(), name=_NAME)
        try:
            await self._opened(topic)
            yield Turn(self, topic)
        finally:
            topic.guests -= 1
            topic.left_at = loop.time()
            topic.wake()

    async def _opened(self, topic: _Topic) -> None:
        """Wait until the stream is read, from where it ended at that time or before."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _OPEN_S
        while not topic.is_read and loop.time() < until and not self.closed:
            # The reader may be about to block just now: one nudge can be too early.
            await self._pair.nudge()
            await asyncio.sleep(0.01)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._keep(loop.time()):
                try:
                    await self._read()
                    self._silent = False
                except (redis.RedisError, errors.BusError, OSError) as exc:
                    self._say(exc)
                    await self._pair.hang_up()
                    await asyncio.sleep(0.2)
                except Exception:
                    log.exception("arrivals: a mistake of ours; starting over")
                    await self._pair.hang_up()
                    await asyncio.sleep(_TICK_S)
                self._tick(loop.time())
        finally:
            # Before the first await: whoever waits now starts another reader. And
            # nothing may go on holding the loop, by which arrivals are known weakly.
            self._task, self._woken = None, asyncio.Event()
            await self._pair.close()

    def _say(self, exc: Exception) -> None:
        log.log(
            logging.DEBUG if self._silent else logging.WARNING,
            "arrivals: %s; trying again",
            exc,
        )
        self._silent = True

    def _keep(self, now: float) -> bool:
        """Forget topics nobody has waited for lately; whether there are others."""
        for name, topic in list(self._topics.items()):
            if not topic.guests and now - topic.left_at >= _LINGER_S:
                del self._topics[name]
        return bool(self._topics)

    def _tick(self, now: float) -> None:
        if now - self._ticked_at >= _TICK_S:
            self._ticked_at = now
            for topic in self._topics.values():
                topic.wake()

    async def _read(self) -> None:
        """Open what is new, wait for what comes, wake one for each topic it is of."""
        await self._pair.open()
        for name, topic in list(self._topics.items()):
            if topic.cursor is None:
                topic.cursor = await self._end_of(name)
        # Without guests none is read: what comes by the thousand would wake nobody.
        self._woken.clear()
        read = {}
        for name, topic in self._topics.items():
            topic.is_read = topic.cursor is not None and topic.guests > 0
            if topic.is_read and topic.cursor:
                read[keys.task_stream(name)] = (name, topic)
        if not read:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), _TICK_S)
            return
        try:
            reply = await self._pair.wire.execute_command(
                *("XREAD", "COUNT", 1, "BLOCK", self._pair.block_ms, "STREAMS"),
                *read,
                *(topic.cursor for _, topic in read.values()),
            )
        except redis.ResponseError:
            # Somebody put another type under one of the names, which fails them all.
            for name, topic in read.values():
                topic.cursor = await self._end_of(name)
            return
        for key, _ in replies.streams_of(reply):
            name, topic = read[key]
            # The end first: what lies before it is found by a look from here on.
            topic.cursor = await self._end_of(name)
            topic.version += 1
            topic.wake()
        await asyncio.sleep(_GATHER_S)

    async def _end_of(self, name: str) -> str:
        ask = self._pair.asking()
        return str(await scripts.arun("arrived", name, client=ask, retry_s=0))


# Weak by loop; arrivals hold no reference to their loop once their reader has ended.
_of_loops: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Arrivals] = (
    weakref.WeakKeyDictionary()
)


def shared() -> Arrivals:
    """The arrivals of the running loop."""
    loop: Any = asyncio.get_running_loop()
    found = _of_loops.get(loop)
    if found is None:
        found = _of_loops[loop] = Arrivals()
    return found
