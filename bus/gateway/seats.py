"""One flight: the lines of a generation as they come, and those who wait for them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Final

from .. import errors
from .relay import Lead

HIT: Final = "HIT"  # from the cache
MISS: Final = "MISS"  # generated for this request
JOIN: Final = "JOIN"  # generated for an earlier request, which still ran
BYPASS: Final = "BYPASS"  # generated; such answers are not kept

_AGAIN_S: Final = 0.25  # between looks whether others still follow what nobody reads
_BROKE_OFF: Final = "the generation broke off, please ask again"


class Flight:
    """The lines that came so far, and those who wait for more."""

    def __init__(self, how: str) -> None:
        self.loop = asyncio.get_running_loop()
        self.how = how  # for whoever boards first
        self.task: asyncio.Task[None] | None = None
        # Nobody else can know of it, until it is known who leads.
        self.lead: Lead | None = None if how == MISS else Lead()
        self.lines: list[bytes] = []
        self._starts = 1  # number of the answer that `lines` are of
        self.kept_age_s: float | None = None
        self.seats = 0
        self._midway = 0  # of those who have passed on lines: no other answer is theirs
        self.boarded = 0
        self.id = os.urandom(16).hex()
        self.began = self.loop.time()
        self.first_at: float | None = None  # of the first line
        self.stopped = False
        self.abandoned = False
        self.complete = False  # generated to the end, perhaps not kept yet
        self._landed = False
        self._error: Exception | None = None
        self._news = asyncio.Event()
        self._deserting: asyncio.Task[None] | None = None
        self._paid = asyncio.Event()
        self._undecided = 0  # seats of whom it is not known yet whether they may

    def add(self, *lines: bytes) -> None:
        """More lines have come."""
        if self.first_at is None:
            self.first_at = self.loop.time()
        self.lines += lines
        self._wake()

    def restart(self) -> None:
        """Begin anew: whoever generated is gone, the next answer is another.

        UpstreamError if it would be for nobody. Who is midway hears of it now, and
        counts no more: he may be slow to leave.
        """
        self.seats -= self._midway
        self._midway = 0
        # The list is not emptied but left: a seat may be reading it.
        self.lines = []
        self._starts += 1
        self.lead = None
        self._wake()
        if not self.seats:
            raise errors.UpstreamError(_BROKE_OFF)

    def land(self, error: Exception | None) -> None:
        """No more lines will come; why, unless it was the end."""
        self._landed, self._error = True, error
        self._wake()

    @property
    def error(self) -> Exception | None:
        """Why it ended without an answer, once it has."""
        return self._error

    def stop(self) -> None:
        """End it for all who wait: somebody who may wants it so."""
        self.stopped = True
        if not self.complete:
            self._give_up()

    def given_up(self) -> errors.UpstreamError:
        """What they hear of whom the end was not their own."""
        if self.stopped:
            return errors.UpstreamError("an operator ended the generation")
        return errors.UpstreamError("the generation was given up")

    def news(self) -> asyncio.Event:
        """Set as soon as anything comes from now on."""
        return self._news

    async def line(self, index: int, start: int = 0) -> bytes | None:
        """The line, as soon as it is there; None after the last; raises the error.

        `start` is the number of the answer that the lines before it are of: a part of
        another does not go on this one.
        """
        while True:
            if start and start != self._starts:
                raise errors.UpstreamError(_BROKE_OFF)
            if index < len(self.lines):
                return self.lines[index]
            if self._error is not None:
                raise self._error
            if self._landed:
                return None
            await self._news.wait()

    def passed_on(self) -> int:
        """One more has had its first line; the number of the answer it is of."""
        self._midway += 1
        return self._starts

    async def whole(self) -> list[bytes]:
        """All lines, once the last has come."""
        while not self._landed:
            await self._news.wait()
        if self._error is not None:
            raise self._error
        return self.lines

    def pay(self) -> None:
        """Somebody who waits for it has paid."""
        self._paid.set()

    async def paid(self) -> None:
        """Wait until the call of the model is paid for."""
        await self._paid.wait()

    def asked(self) -> None:
        """Somebody boards, who may be refused: `decided` is to follow."""
        self.seats += 1
        self.boarded += 1
        self._undecided += 1

    def decided(self, may: bool) -> None:
        """Who boarded may, or counts as never having come."""
        self._undecided -= 1
        if may:
            self.pay()
        else:
            self.boarded -= 1
        self._wake()

    async def counted(self) -> None:
        """Wait until `boarded` is final: to a flight that landed nobody comes."""
        # A kept answer may be there before it is known whether its caller may have it.
        while self._undecided:
            await self._news.wait()

    def led(self, lead: Lead | None) -> None:
        """It is known who leads: we do, or (None) somebody whom we follow."""
        self.lead = lead or Lead()
        self._look_whether_wanted()

    def leave(self, start: int) -> None:
        """One fewer waits; without any, here or elsewhere, the call is given up.

        `start` is the number of the answer it has lines of, 0 without any.
        """
        if start and start != self._starts:
            return  # the restart did not count it any more
        self.seats -= 1
        self._midway -= bool(start)
        self._look_whether_wanted()

    def _look_whether_wanted(self) -> None:
        # A lead that was left behind while it is taken would be followed in vain.
        if self._is_wanted() or self.lead is None:
            return
        if self.lead.is_alone:
            self._give_up()
        elif self._deserting is None or self._deserting.done():
            self._deserting = asyncio.create_task(self._desert(self.lead))

    async def _desert(self, lead: Lead) -> None:
        while not self._is_wanted():
            # Once it has ended for the others nobody can begin to follow; who boarded
            # here meanwhile keeps it going for this process alone.
            if await lead.abandon():
                if not self._is_wanted():
                    self._give_up()
                return
            self.pay()  # those who follow have: before, they do not look
            await asyncio.sleep(_AGAIN_S)

    def _is_wanted(self) -> bool:
        return bool(self.seats or self.complete or self._landed)

    def _give_up(self) -> None:
        if self.task is not None:
            self.abandoned = True
            self.task.cancel()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class Seat:
    """One caller's place on a flight: iterate over its lines, then close it."""

    def __init__(self, flight: Flight, how: str = "") -> None:
        flight.asked()
        self._undecided = True
        self._flight: Flight | None = flight
        self._how = how  # empty: what the flight turns out to be
        self._next = 0
        self._start = 0  # number of the answer it has lines of
        self.age_s: float | None = None  # of a kept answer, once `ready`

    async def ready(self) -> str:
        """HIT, MISS, JOIN or BYPASS once the first line is there; else its error."""
        if self._flight is not None:
            await self._flight.line(0)
            self.age_s = self._flight.kept_age_s
            self._how = self._how or self._flight.how
        return self._how if self.age_s is None else HIT

    def __aiter__(self) -> Seat:
        return self

    async def __anext__(self) -> bytes:
        flight = self._flight
        if flight is None:
            raise StopAsyncIteration
        line = await flight.line(self._next, self._start)
        if line is None:
            raise StopAsyncIteration
        if self._flight is not None:  # else it was closed meanwhile
            self._start = self._start or flight.passed_on()
        self._next += 1
        return line

    async def whole(self) -> list[bytes]:
        """All lines at once."""
        return [] if self._flight is None else await self._flight.whole()

    def pay(self) -> None:
        """Whoever has this seat has paid: the model may be asked."""
        self._decide(True)

    def refuse(self) -> None:
        """Whoever has this seat may not: it leaves as if it had never come."""
        self._decide(False)
        self.close()

    def _decide(self, may: bool) -> None:
        if self._flight is not None and self._undecided:
            self._undecided = False
            self._flight.decided(may)

    def close(self) -> None:
        """Leave; may be called from any thread, and again."""
        flight, self._flight = self._flight, None
        if flight is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, all is over
                flight.loop.call_soon_threadsafe(flight.leave, self._start)

    # A response that is dropped before it is sent is closed by nobody else.
    __del__ = close
