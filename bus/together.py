"""Calls that come at the same time, sent as one.

What finds no call of its kind in flight goes at once, what comes meanwhile goes with
the next. Nothing waits for a timer, and who gives up harms none of the others.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from . import accepting, connection, errors, keys, ratelimit, tasks
from .batches import BATCH, Accepted, Batch
from .conf import conf
from .levels import Level
from .wanted import Item, Wanted, item_of

K = TypeVar("K")
Q = TypeVar("Q")
A = TypeVar("A")

# A script holds up the server: large tasks go in smaller batches.
_BATCH_BYTES: Final = 4 * 1024 * 1024
# With these Redis is away: for who waits behind such a call another try is in vain.
_AWAY: Final = (errors.BusUnavailable.code, errors.OutcomeUnknown.code)


class Together(Generic[K, Q, A]):
    """Items of one kind, sent by the batch with one batch of a kind in flight.

    `send` gets a kind and its items, and answers each of them, or raises for all. What
    it raises goes to each of its batch; where Redis is away, also to all behind it, as
    a BusUnavailable: nothing of those was sent.
    """

    def __init__(self, send: Callable[[K, list[Q]], Awaitable[list[A]]]) -> None:
        self._send = send
        self._lines: dict[K, deque[tuple[Q, int, asyncio.Future[A]]]] = {}
        self._senders: set[asyncio.Task[None]] = set()  # the loop holds them weakly
        self._waiting = 0

    def put(self, kind: K, item: Q, size: int = 0) -> asyncio.Future[A]:
        """What becomes of an item of about `size` bytes; BusUnavailable if too many
        wait already."""
        if self._waiting >= conf.TOGETHER_MAX:
            raise overloaded()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[A] = loop.create_future()
        line = self._lines.get(kind)
        if line is None:
            line = self._lines[kind] = deque()
            sender = loop.create_task(self._empty(kind, line))
            self._senders.add(sender)
            sender.add_done_callback(self._senders.discard)
        line.append((item, size, future))
        self._waiting += 1
        return future

    async def _empty(
        self, kind: K, line: deque[tuple[Q, int, asyncio.Future[A]]]
    ) -> None:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        try:
            while line:
                batch = self._next(line)
                try:
                    answers = await self._send(kind, [item for item, _ in batch])
                except Exception as exc:
                    self._failed(batch, exc)
                    if getattr(exc, "code", "") in _AWAY:
                        behind = [(item, future) for item, _, future in line]
                        self._waiting -= len(line)
                        line.clear()
                        self._failed(behind, errors.BusUnavailable(str(exc)))
                else:
                    for (_, future), answer in zip(batch, answers, strict=True):
                        if not future.done():  # else who asked has gone
                            future.set_result(answer)
        finally:
            # Nobody is left here but where the loop ends under us.
            del self._lines[kind]
            for future in [each[1] for each in batch] + [each[2] for each in line]:
                future.cancel()

    def _next(
        self, line: deque[tuple[Q, int, asyncio.Future[A]]]
    ) -> list[tuple[Q, asyncio.Future[A]]]:
        batch: list[tuple[Q, asyncio.Future[A]]] = []
        left = _BATCH_BYTES
        while line and len(batch) < BATCH and left > 0:
            item, size, future = line.popleft()
            self._waiting -= 1
            batch.append((item, future))
            left -= size
        return batch

    @staticmethod
    def _failed(batch: list[tuple[Q, asyncio.Future[A]]], exc: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(exc)


def overloaded() -> errors.BusUnavailable:
    """The refusal where more wait than may; nothing was written."""
    refusal = errors.BusUnavailable("too many calls wait for Redis in this process")
    refusal.code = "overloaded"
    return refusal


async def aaccept_one(topic: str, wanted: Wanted, level: Level) -> tuple[Accepted, str]:
    """Accept one task, in one script call with others of its topic and level.

    The outcome is one of `tasks.accept`, and beside it the level that a success means;
    InvalidName, InvalidOption and InvalidPayload are raised. `level` is one that
    `levels.agranted` gave.
    """
    item = item_of(keys.check_topic(topic), wanted)
    try:
        return await _here()[0].put((topic, level), item, len(item.json))
    except errors.BusUnavailable as exc:
        return Accepted(item.id, "", False, exc), ""


async def atake_one(key: str, capacity: float, refill_per_s: float) -> float:
    """`ratelimit.atake`, in one script call with others of the same bucket."""
    return await _here()[1].put((key, capacity, refill_per_s), None)


async def _accept(
    kind: tuple[str, Level], items: list[Item]
) -> list[tuple[Accepted, str]]:
    topic, level = kind
    # Asked before anything is sent: no error may follow what is written.
    means = str(level) or await tasks.adurability()
    client = connection.awire()
    [outcomes] = await accepting.asend([Batch(topic, items)], level, client=client)
    error = outcomes[0].error
    # Refused whole by Redis. A level that was not reached is of those accepted only.
    if isinstance(error, errors.BusUnavailable) and not isinstance(
        error, errors.LevelNotReached
    ):
        raise error
    return [(outcome, means) for outcome in outcomes]


async def _take(kind: tuple[str, float, float], takes: list[None]) -> list[float]:
    client = connection.awire()
    return await ratelimit.atake_each(*kind, len(takes), client=client)


_Accepting = Together[tuple[str, Level], Item, tuple[Accepted, str]]
_Taking = Together[tuple[str, float, float], None, float]
# Keyed weakly by loop: futures belong to one.
_all: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, tuple[_Accepting, _Taking]
] = weakref.WeakKeyDictionary()


def _here() -> tuple[_Accepting, _Taking]:
    """Who collects tasks and takes on the running loop."""
    loop = asyncio.get_running_loop()
    found = _all.get(loop)
    if found is None:
        found = _all[loop] = Together(_accept), Together(_take)
    return found
