"""Generations on their way: one call for all who wait for the same answer.

A flight belongs to nobody: whoever asked first may leave, those who joined still get
every line. When the last one leaves, the upstream call ends with it. Calls wait for one
of OLLAMA_CONCURRENCY places, at most OLLAMA_QUEUE of them at once.

All of this is of one event loop; another process makes its own call.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from .. import errors
from ..conf import conf
from .answers import Answer

HIT: Final = "HIT"  # from the cache
MISS: Final = "MISS"  # generated for this request
JOIN: Final = "JOIN"  # generated for an earlier request, which still ran
BYPASS: Final = "BYPASS"  # generated; such answers are not kept

_RETRY_AFTER_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class Route:
    """Where an answer comes from: the cache if it is there, else the model.

    Without a digest nobody can join and nothing is kept.
    """

    generate: Callable[[], AsyncGenerator[bytes]]
    recall: Callable[[str], Awaitable[Answer | None]]
    keep: Callable[[str, Sequence[bytes]], Awaitable[None]]
    digest: str = ""


class Flights:
    """The flights of one event loop."""

    def __init__(self) -> None:
        self._of: dict[str, _Flight] = {}
        self._places = asyncio.Semaphore(conf.OLLAMA_CONCURRENCY)
        self._queued = 0

    def board(self, route: Route) -> Seat:
        """A seat on the flight of this route, which is started if there is none.

        Nothing is awaited here: of any number of callers exactly one starts it.
        """
        flight = self._of.get(route.digest)
        if flight is not None and not flight.abandoned:
            return Seat(flight, JOIN)
        flight = _Flight()
        if route.digest:
            self._of[route.digest] = flight
        flight.task = asyncio.create_task(self._fly(flight, route))
        return Seat(flight, MISS if route.digest else BYPASS)

    async def _fly(self, flight: _Flight, route: Route) -> None:
        end: Exception | None = errors.UpstreamError("the generation was given up")
        try:
            kept = await route.recall(route.digest) if route.digest else None
            if kept is not None:
                flight.kept_age_s = kept.age_s
                flight.add(*kept.lines)
            else:
                await self._generate(flight, route)
                flight.complete = True
                if route.digest:
                    # Still in the table: who comes before the answer is kept joins.
                    await route.keep(route.digest, flight.lines)
            end = None
        except Exception as exc:
            # Ours or a bug: those who wait are to hear of it, here nobody listens.
            end = exc
        finally:
            # In this order: who heard the end and asks again finds the answer kept.
            if self._of.get(route.digest) is flight:
                del self._of[route.digest]
            flight.land(end)

    async def _generate(self, flight: _Flight, route: Route) -> None:
        late: errors.BusError = errors.UpstreamBusy(
            "the model server stayed busy, please try again",
            retry_after_s=_RETRY_AFTER_S,
        )
        try:
            async with asyncio.timeout(conf.OLLAMA_TOTAL_S):
                await self._take_place()
                late = errors.UpstreamTimeout("the generation took too long")
                try:
                    async with aclosing(route.generate()) as lines:
                        async for line in lines:
                            flight.add(line)
                finally:
                    self._places.release()
        except TimeoutError:
            raise late from None

    async def _take_place(self) -> None:
        if self._places.locked() and self._queued >= conf.OLLAMA_QUEUE:
            raise errors.UpstreamBusy(
                f"{self._queued} requests are waiting already, please try again",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._queued += 1
        try:
            await self._places.acquire()
        finally:
            self._queued -= 1


class _Flight:
    """The lines that came so far, and those who wait for more."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.task: asyncio.Task[None] | None = None
        self.lines: list[bytes] = []
        self.kept_age_s: float | None = None
        self.seats = 0
        self.abandoned = False
        self.complete = False  # generated to the end, perhaps not kept yet
        self._landed = False
        self._error: Exception | None = None
        self._news = asyncio.Event()

    def add(self, *lines: bytes) -> None:
        """More lines have come."""
        self.lines += lines
        self._wake()

    def land(self, error: Exception | None) -> None:
        """No more lines will come; why, unless it was the end."""
        self._landed, self._error = True, error
        self._wake()

    async def line(self, index: int) -> bytes | None:
        """The line, as soon as it is there; None after the last; raises the error."""
        while index >= len(self.lines):
            if self._error is not None:
                raise self._error
            if self._landed:
                return None
            await self._news.wait()
        return self.lines[index]

    def leave(self) -> None:
        """One fewer waits; without any, the call is given up."""
        self.seats -= 1
        if self.seats or self.complete or self._landed:
            return
        if self.task is not None:
            self.abandoned = True
            self.task.cancel()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Seat:
    """One caller's place on a flight: iterate over its lines, then close it."""

    def __init__(self, flight: _Flight, how: str) -> None:
        flight.seats += 1
        self._flight: _Flight | None = flight
        self._how = how
        self._next = 0
        self.age_s: float | None = None  # of a kept answer, once `ready`

    async def ready(self) -> str:
        """HIT, MISS, JOIN or BYPASS once the first line is there; else its error."""
        if self._flight is not None:
            await self._flight.line(0)
            self.age_s = self._flight.kept_age_s
        return self._how if self.age_s is None else HIT

    def __aiter__(self) -> Seat:
        return self

    async def __anext__(self) -> bytes:
        flight = self._flight
        line = None if flight is None else await flight.line(self._next)
        if line is None:
            raise StopAsyncIteration
        self._next += 1
        return line

    def close(self) -> None:
        """Leave; may be called from any thread, and again."""
        flight, self._flight = self._flight, None
        if flight is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, all is over
                flight.loop.call_soon_threadsafe(flight.leave)

    # A response that is dropped before it is sent is closed by nobody else.
    __del__ = close
