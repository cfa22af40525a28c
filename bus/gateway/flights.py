"""Generations on their way: one call for all who wait for the same answer.

A flight belongs to nobody: whoever asked first may leave, those who joined still get
every line. When the last one leaves, the upstream call ends with it. Calls wait for one
of OLLAMA_CONCURRENCY places, at most OLLAMA_QUEUE of them at once.

Places are of one event loop, flights of all processes (`relay`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

import orjson

from .. import errors
from ..conf import conf
from . import relay, reports
from .answers import Answer
from .seats import BYPASS, JOIN, MISS, Flight, Seat

_RETRY_AFTER_S: Final = 2.0  # where no generation has ended yet
_RETRY_LEAST_S: Final = 1.0
_RETRY_MOST_S: Final = 120.0
_NEWEST: Final = 0.2  # what the newest generation weighs in the mean of their durations


@dataclass(frozen=True, slots=True)
class Route:
    """Where an answer comes from: the cache, whoever makes it already, the model.

    Without a digest nobody can join and nothing is kept.
    """

    generate: Callable[[], AsyncGenerator[bytes]]
    recall: Callable[[str], Awaitable[Answer | None]]
    keep: Callable[[str, Sequence[bytes]], Awaitable[None]]
    digest: str = ""
    board: Callable[[str], Awaitable[relay.Boarded]] = relay.alone
    about: reports.About | None = None  # without it nothing is told of it


class Flights:
    """The flights of one event loop."""

    def __init__(self) -> None:
        self._of: dict[str, Flight] = {}
        self._places = asyncio.Semaphore(conf.OLLAMA_CONCURRENCY)
        self._roll = reports.Roll()
        self._queued = 0
        self._mean_s = 0.0  # how long a generation holds its place; 0: none ended yet

    def board(self, route: Route, *, paid: bool = True) -> Seat:
        """A seat on the flight of this route, which is started if there is none.

        Nothing is awaited here: of any number of callers exactly one starts it. The
        model is asked once anybody on it has `paid`. Who has not is to `Seat.pay` or
        `Seat.refuse`: what came of the flight is counted once all have.
        """
        flight = self._of.get(route.digest)
        if flight is not None and not flight.abandoned:
            # Who finds one whose callers were all refused is the first it counts.
            seat = Seat(flight, JOIN if flight.boarded else "")
        else:
            flight = Flight(MISS if route.digest else BYPASS)
            if route.digest:
                self._of[route.digest] = flight
            flight.task = asyncio.create_task(self._fly(flight, route))
            seat = Seat(flight)
        if paid:
            seat.pay()
        return seat

    async def _fly(self, flight: Flight, route: Route) -> None:
        try:
            await self._flown(flight, route)
        finally:
            # Behind the end, so that nobody waits for it.
            await flight.counted()
            if route.about is not None and (flight.boarded or flight.lines):
                await reports.came(flight.id, _what_came(flight))

    async def _flown(self, flight: Flight, route: Route) -> None:
        end: Exception | None = None
        try:
            if route.digest:
                await self._together(flight, route)
            else:
                await self._generate(flight, route)
                flight.complete = True
        except asyncio.CancelledError:
            end = flight.given_up()
            raise
        except Exception as exc:
            # Ours or a bug: those who wait are to hear of it, here nobody listens.
            end = exc
        finally:
            # In this order: who heard the end and asks again finds the answer kept.
            if self._of.get(route.digest) is flight:
                del self._of[route.digest]
            flight.land(end)

    async def _together(self, flight: Flight, route: Route) -> None:
        """Follow whoever makes the answer already, in any process, or lead."""
        while True:
            boarded, may_be_kept = await route.board(route.digest)
            kept = await route.recall(route.digest) if may_be_kept else None
            if isinstance(boarded, relay.Lead):
                flight.how = MISS
                await self._lead(flight, route, boarded, kept)
                return
            flight.led(None)
            if kept is not None:
                _serve(flight, kept)
                return
            flight.how = JOIN
            # A leader goes on for whoever looks at it, so nobody may who has not paid.
            await flight.paid()
            with contextlib.suppress(relay.LeaderLost):
                await _follow(flight, boarded)
                return
            flight.restart()

    async def _lead(
        self, flight: Flight, route: Route, lead: relay.Lead, kept: Answer | None
    ) -> None:
        flight.led(lead)
        signs = asyncio.create_task(lead.accompany(flight.lines, flight.news))
        end: Exception | None = None
        try:
            if kept is None and lead.is_next:
                # Whoever led before kept its answer first and gave up the lead then.
                kept = await route.recall(route.digest)
            if kept is not None:
                _serve(flight, kept)
            else:
                await self._generate(flight, route)
                flight.complete = True
                # Still in the table: who comes before the answer is kept joins.
                await route.keep(route.digest, flight.lines)
        except asyncio.CancelledError:
            end = flight.given_up()
            raise
        except Exception as exc:
            end = exc
            raise
        finally:
            signs.cancel()
            await asyncio.gather(signs, return_exceptions=True)
            await lead.land(flight.lines, end)

    async def _generate(self, flight: Flight, route: Route) -> None:
        await flight.paid()
        late: errors.BusError = errors.UpstreamBusy(
            "the model server stayed busy, please try again",
            retry_after_s=self._wait_s(1) or _RETRY_AFTER_S,
        )
        try:
            async with asyncio.timeout(conf.OLLAMA_TOTAL_S):
                await self._take_place(flight, route)
                late = errors.UpstreamTimeout("the generation took too long")
                self._enter(flight, route, reports.RUNNING)
                began = flight.loop.time()
                try:
                    async with aclosing(route.generate()) as lines:
                        async for line in lines:
                            flight.add(line)
                finally:
                    self._places.release()
                self._note(flight.loop.time() - began)
        except TimeoutError:
            raise late from None
        finally:
            self._roll.leave(flight.id)

    def _enter(self, flight: Flight, route: Route, state: str) -> None:
        about, since = route.about, flight.loop.time()
        if about is None:
            return

        def row() -> dict[str, Any]:
            return {
                **reports.here(),
                "owner": about.owner,
                "model": about.model,
                "size": about.size,
                "lines": len(flight.lines),
                "waiting": flight.seats,
                "state": state,
                "s": round(flight.loop.time() - since, 1),
            }

        self._roll.enter(flight.id, reports.Entry(row, flight.stop))

    async def _take_place(self, flight: Flight, route: Route) -> None:
        if self._places.locked():
            if self._queued >= conf.OLLAMA_QUEUE:
                raise self._full()
            self._enter(flight, route, reports.QUEUED)
        self._queued += 1
        try:
            await self._places.acquire()
        finally:
            self._queued -= 1

    def _full(self) -> errors.UpstreamBusy:
        """The refusal of one more, which says where in the queue it would be."""
        position = self._queued + 1
        said = f"{self._queued} requests are waiting already"
        wait_s = self._wait_s(position)
        if not wait_s:
            said += ", please try again"
            return errors.UpstreamBusy(
                said, retry_after_s=_RETRY_AFTER_S, position=position
            )
        said += f"; number {position} would wait about {wait_s:.0f} s, please try again"
        return errors.UpstreamBusy(
            said,
            retry_after_s=wait_s,
            position=position,
            estimate_ms=round(wait_s * 1000),
        )

    def _wait_s(self, position: int) -> float:
        """About how long whoever is there in the queue waits; 0: nobody can tell."""
        if not self._mean_s:
            return 0.0
        wait_s = self._mean_s * position / conf.OLLAMA_CONCURRENCY
        return min(max(wait_s, _RETRY_LEAST_S), _RETRY_MOST_S)

    def _note(self, took_s: float) -> None:
        weight = _NEWEST if self._mean_s else 1.0
        self._mean_s += (took_s - self._mean_s) * weight


def _what_came(flight: Flight) -> reports.Came:
    """For the figures: how each who boarded was answered, and how long it took."""
    if flight.error is not None or not flight.lines:
        how = "ended" if flight.stopped else "left" if flight.abandoned else "failed"
        return reports.Came({how: flight.boarded})
    if flight.kept_age_s is not None:
        return reports.Came({"hit": flight.boarded})
    counts = {JOIN.lower(): max(0, flight.boarded - 1)}
    if flight.how == JOIN:
        return reports.Came({JOIN.lower(): flight.boarded})
    first_at = flight.first_at or flight.began
    return reports.Came(
        {**counts, flight.how.lower(): 1, **_told(flight.lines[-1])},
        first_at - flight.began,
        flight.loop.time() - flight.began,
    )


def _told(line: bytes) -> dict[str, int]:
    """What the model server says of its own pace, where that makes sense."""
    last = orjson.loads(line)
    tokens, took_ns = last.get("eval_count"), last.get("eval_duration")
    for each in (tokens, took_ns):
        if isinstance(each, bool) or not isinstance(each, int) or each <= 0:
            return {}
    return {"tokens": tokens, "tokens_ms": max(1, took_ns // 1_000_000)}


def _serve(flight: Flight, kept: Answer) -> None:
    """The flight has the kept answer, and nothing else is to come."""
    flight.kept_age_s = kept.age_s
    flight.add(*kept.lines)


async def _follow(flight: Flight, followed: relay.Follow) -> None:
    try:
        async with asyncio.timeout(conf.OLLAMA_TOTAL_S):
            async with aclosing(followed.lines()) as lines:
                async for line in lines:
                    flight.add(line)
    except TimeoutError:
        raise errors.UpstreamTimeout("the generation took too long") from None
