"""The live feed: one reader per event loop, fanned out to all who follow or wait.

`shared()` is the feed of the running loop. It starts with its first follower, ends a
few seconds after the last, and holds two connections however many there are.
"""

from __future__ import annotations

import asyncio
import math
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from . import errors, keys
from .conf import conf
from .live import roster, window
from .live.following import Following, Pace
from .live.polls import Poll
from .live.tailer import Tailer
from .live.window import Item, Window

# Events after which a task has ended; acks by hand leave nothing but such an event.
_ENDS: Final = frozenset({"done", "dead", "cancelled", "discarded"})
_ROWS_MOST: Final = 5_000
_BYTES_MOST: Final = 32 * 1024 * 1024

Ended = Callable[[float], Awaitable[bool]]


class Feed:
    """The feed of one event loop; use it from that loop only."""

    def __init__(self) -> None:
        self.window = Window(_ROWS_MOST, _BYTES_MOST)
        self.tailer = Tailer(self._deliver)
        self._waiting: dict[tuple[str, str], set[asyncio.Event]] = {}
        self._roster = roster.Roster(self.tailer)
        self.closing = asyncio.Event()  # set once the process stops

    def close(self) -> None:
        """Let all who wait for an end go at once, with what they know: we stop."""
        self.closing.set()
        for events in self._waiting.values():
            for event in events:
                event.set()

    def subscribe(
        self,
        topics: Iterable[str] | None,
        after: Mapping[str, str] | None = None,
        *,
        may: Callable[[str], bool] = lambda topic: True,
        polls: Mapping[str, Poll] | None = None,
        kinds: Iterable[str] = (window.RESULTS, window.DEAD),
        pace: Pace | None = None,
    ) -> Following:
        """Follow topics (None: all, also those that come later) from cursors on:

            async with feed.subscribe(["demo"], after) as following:
                async for frame in following: …

        `after` maps streams (`bus.result_stream`, `bus.dead_stream`) to the entry ids
        or cursors up to which the follower knows them; what came since is told first.
        Streams it leaves out are told from now on. `may` hides topics, `polls` adds
        snapshots by name, `kinds` leaves out results or dead letters, `pace` is that
        of sockets by default.

        Raises InvalidName, InvalidOption here; BusUnavailable, if Redis does not
        answer, when it is entered and while it tells what came since.
        """
        names = None if topics is None else {keys.check_topic(each) for each in topics}
        if names is not None and len(names) > conf.TOPICS_MAX:
            raise errors.InvalidOption(f"more than {conf.TOPICS_MAX:,} topics")
        only = frozenset(kinds)
        return Following(
            self, names, after or {}, may, polls or {}, only, pace or Pace.of_sockets()
        )

    async def join(self, topics: set[str] | None) -> None:
        """Watch topics, or all of them; BusUnavailable if Redis does not answer."""
        if topics is None:
            await self._roster.join()
        else:
            await self.tailer.attach(topics)

    def part(self, topics: set[str] | None) -> None:
        """The end of `join`."""
        if topics is None:
            self._roster.part()
        else:
            self.tailer.detach(topics)

    @asynccontextmanager
    async def watching(
        self, topic: str, task_id: str, within_s: float = math.inf
    ) -> AsyncIterator[Ended]:
        """Register for the end of a task *before* looking at it, so none is missed:

            async with feed.watching(topic, task_id) as ended:
                task = await bus.aget_task(task_id, topic)
                while not task.ended and await ended(left_s):
                    task = await bus.aget_task(task_id, topic)

        `ended(timeout_s)` is True as soon as a result, a dead letter or an event names
        the task, or results of its topic were trimmed unread; False after the timeout
        or when the process stops. BusUnavailable if Redis does not answer, for
        `within_s` if that is less than the feed's own time.
        """
        key = (keys.check_topic(topic), keys.check_task_id(task_id))
        event = asyncio.Event()

        async def ended(timeout_s: float) -> bool:
            try:
                await asyncio.wait_for(event.wait(), max(0.0, timeout_s))
            except TimeoutError:
                return False
            if self.closing.is_set():
                return False
            # Cleared before the caller looks: what comes after that wakes it again.
            event.clear()
            return True

        self._waiting.setdefault(key, set()).add(event)
        if self.closing.is_set():
            event.set()
        try:
            await self.tailer.attach([topic], within_s=within_s)
            try:
                yield ended
            finally:
                self.tailer.detach([topic])
        finally:
            self._waiting[key].discard(event)
            if not self._waiting[key]:
                del self._waiting[key]

    def _deliver(self, items: list[Item]) -> bool:
        if self._waiting:
            for item in items:
                for event in self._concerned(item):
                    event.set()
        self.window.extend(items)
        return self.window.followed

    def _concerned(self, item: Item) -> Iterable[asyncio.Event]:
        """Of those who wait for an end, whom this entry may bring it."""
        if item.kind == window.GAP:  # what nobody will read names nobody
            return [
                event
                for (topic, _), events in self._waiting.items()
                if topic == item.topic
                for event in events
            ]
        if item.kind == window.EVENTS and item.event not in _ENDS:
            return ()
        return self._waiting.get((item.topic, item.task_id), ())


# Weak by loop; a feed holds no reference to its loop once its reader has ended.
_feeds: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Feed] = (
    weakref.WeakKeyDictionary()
)


def shared() -> Feed:
    """The feed of the running loop."""
    loop: Any = asyncio.get_running_loop()
    feed = _feeds.get(loop)
    if feed is None:
        feed = _feeds[loop] = Feed()
    return feed
