"""How a lane gets its tasks: claims, blocking reads, ghosts, suspects."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, Protocol

import redis.asyncio

from .. import connection, deliveries, errors, groups, incoming, keys, records
from ..deliveries import Beat, Delivery, Seat
from . import crowds
from .quiet import Quiet, pauses_s

log = logging.getLogger("bus.agent")

_BLOCK_S: Final = 4.0  # an idle agent wakes the server as rarely
_RAREST: Final = 2.5  # times as long in a crowd
_ALONE_S: Final = 1.0  # for suspects in a row, before other tasks get their turn
_REJOINED_S: Final = 0.05  # after a group was made again, which may have been in vain
_LATE_MS: Final = 500  # an answer this long under way is asked for again
_DRIFT_MS: Final = 1.0  # by which two clocks may part between two answers


class Host(Protocol):
    """What the intake needs to know of its lane."""

    @property
    def held(self) -> dict[str, Any]:
        """Everything in hand, by sid."""

    @property
    def closing(self) -> bool:
        """Whether the lane takes nothing any more."""

    def wanted(self) -> int:
        """How many tasks to take now."""

    def knows(self, item: Delivery) -> bool:
        """Whether it is in hand, or was: the server may not know that yet."""

    def take(self, item: Delivery) -> None:
        """Have it run."""

    async def give_back(self, items: list[Delivery]) -> None:
        """Return what is not to run here; BusError if the server may not know."""

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run beside; a bug in it breaks the lane."""

    async def room(self) -> None:
        """Wait a little for something to be finished."""


class Intake:
    """Reads one topic for one lane; at most one claim is under way."""

    def __init__(self, seat: Seat, host: Host, quiet: Quiet) -> None:
        self.paused = False
        self.last_read = time.monotonic()
        self._fine_until = time.monotonic()  # reading is in order, or was then
        self.clock_ms = 0.0  # server ms at monotonic 0
        self._clock_most_ms = 0.0  # the same by the answers that were fastest
        self.topic_timeout_s: float | None = None
        self.consumers = 1  # of the group, with us
        self._seat, self._host, self._quiet = seat, host, quiet
        self._claiming = asyncio.Lock()
        self._taking_over = False  # whether rows handed over are being claimed
        self._recover_due = True  # whether tasks of ours may have been lost on the way
        self._more = True  # whether a claim is likely to find something
        self._last_sid = "0-0"  # of what was new when it came
        name = keys.client_name(seat.consumer)
        self._reader = connection.adedicated(block_s=_BLOCK_S, name=name)

    @property
    def unread_s(self) -> float:
        """For how long every read has failed or is overdue, s.

        0 while there is a reason not to read, and while one waits in the server: an
        idle agent hears nothing for seconds without being deaf.
        """
        if self._host.closing or self._quiet.reserved:
            return 0.0
        return max(0.0, time.monotonic() - self._fine_until)

    async def close(self) -> None:
        """Drop the reading connection; once it returns, nothing more is given to it.

        A read that was cancelled here goes on in the server, which would give the next
        task to a consumer that is gone.
        """
        await self._reader.leave()

    async def read(self) -> None:
        """Keep the lane in work until it closes; survives the server going away."""
        pause_s = 0.05
        while not self._host.closing:
            try:
                if self._recover_due:
                    await self._recover()
                    self._recover_due = False
                await self._read_once()
                self._fine_until = time.monotonic()
                pause_s = 0.05
            except (errors.BusError, redis.RedisError, OSError) as exc:
                self._fine_until = min(self._fine_until, time.monotonic())
                # The reply may be lost while its tasks are ours: read our own first.
                self._recover_due = self._more = True
                if groups.is_nogroup(exc):
                    await self._rejoin()
                    continue
                log.warning("%s: reading stopped for now: %s", self._seat.topic, exc)
                await self._reader.disconnect()
                await asyncio.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(pause_s * 2, 0.5)

    def look_for_ours(self) -> None:
        """Before the next read, take up what is ours on the server: reads may have met
        nothing of an outage that made it forget what we did since."""
        self._recover_due = True

    async def _rejoin(self) -> None:
        """Make the group again, which somebody deleted."""
        topic, ours = self._seat.topic, self._seat.group
        try:
            group = await groups.ajoin_group(topic, ours)
        except errors.BusError as exc:
            log.warning("%s: %s", topic, exc)
            await asyncio.sleep(0.5)
            return
        if group != ours:  # a start joins the right one
            raise errors.BusError(f"the working group of {topic!r} is {group!r} now")
        await asyncio.sleep(_REJOINED_S)

    async def _read_once(self) -> None:
        await self._quiet.over()
        want = self._host.wanted()
        if not want:
            await self._host.room()
            return
        if self._more:
            self._more = await self._claim(want) >= want
            return
        # The last claim was not full, and beats tell of tasks handed over: no need to
        # ask for what is not there. A script cannot block: read here, then check.
        more_s = _BLOCK_S * (crowds.stretch(self.consumers, _RAREST) - 1.0)
        self._fine_until = time.monotonic() + _BLOCK_S + more_s
        arrived = await incoming.wait_for_new(
            self._seat, self._reader, want, _BLOCK_S, self._last_sid, more_s
        )
        self.last_read = time.monotonic()
        if arrived is None:
            return
        sids = [sid for sid, _ in arrived.entries]
        self._more = len(sids) >= want
        self._last_sid = sids[-1]
        claimed = None
        # A process that stood still finds in its socket what was true then: its topic
        # may be paused by now, its lease another's.
        if not self._is_late(arrived.now_ms):
            claimed = await incoming.verify(self._seat, arrived)
        if claimed is None:
            await self._claim(len(sids), sids)
            return
        self.set_clock(claimed.now_ms)
        self.topic_timeout_s = claimed.timeout_s
        await self._keep(claimed.deliveries)
        # Asking for more costs a system call: first the handlers, then their results.
        for _ in range(3):
            await asyncio.sleep(0)

    async def _claim(self, want: int, sids: Sequence[str] = ()) -> int:
        """Take up to `want` tasks; how many came."""
        async with self._claiming:
            about = self._about_suspects()
            claimed = await deliveries.claim(self._seat, want, False, sids, about)
            self._seen(claimed.now_ms)
            self.topic_timeout_s = claimed.timeout_s
            self.paused = claimed.paused
            if claimed.deliveries:  # handed-over ones first, new ones behind them
                sid = claimed.deliveries[-1].sid
                if not records.is_upto(sid, self._last_sid):
                    self._last_sid = sid
            await self._keep(claimed.deliveries)
        if claimed.suspects and self._quiet.reserve():
            self._host.spawn(self._run_suspects())
        return len(claimed.deliveries)

    async def _keep(self, items: list[Delivery]) -> None:
        """Start what was claimed, unless something began meanwhile that forbids it."""
        if self._host.closing or self.paused or self._quiet.reserved:
            await self._host.give_back(items)
            return
        for item in items:
            self._host.take(item)

    async def _run_suspects(self) -> None:
        """Run suspects one by one with nothing beside them in this process."""
        try:
            if await self._quiet.silence(self._suspect_waits, self._has_company):
                # Two agents killed one after the other leave all they held as suspects:
                # to make this process empty for each of them would take minutes.
                until = time.monotonic() + _ALONE_S
                while await self._run_suspect() and time.monotonic() < until:
                    pass
            self._more = True  # the next ones need not wait for a beat to tell of them
        except (errors.BusError, redis.RedisError, OSError) as exc:
            log.warning("%s: a suspect has to wait: %s", self._seat.topic, exc)
            self._recover_due = True
        finally:
            self._quiet.end()

    async def _run_suspect(self) -> bool:
        """Run the next suspect to its end; False if there is none for us."""
        async with self._claiming:
            if self._host.closing or self.paused:
                return False
            claimed = await deliveries.claim(self._seat, 1, True)
            for item in claimed.deliveries:
                self._host.take(item)
        pauses = pauses_s()
        while self._host.held and not self._host.closing:
            await asyncio.sleep(next(pauses))
        return bool(claimed.deliveries)

    def _about_suspects(self) -> str:
        """What a claim is to do about suspects."""
        if self._quiet.silent:
            return deliveries.EMPTY
        return deliveries.PASS_BY if self._quiet.gives_way else deliveries.BUSY

    async def _suspect_waits(self) -> bool:
        """Whether one waits for us still; if so others leave it to us for 5 s more."""
        if self._host.closing or self.paused:
            return False
        claimed = await deliveries.claim(self._seat, 0, True)
        return claimed.suspects > 0

    def _has_company(self) -> bool:
        return self.consumers > 2  # one holds what was handed over

    async def _recover(self) -> None:
        """Take up tasks that are ours on the server but were lost on the way here."""
        after = ""
        while True:
            await self._quiet.over()
            found = await deliveries.recover(self._seat, after)
            self._seen(found.now_ms)
            self.paused = found.paused
            await self._keep([x for x in found.deliveries if not self._host.knows(x)])
            after = found.after
            if not after:
                return

    def _seen(self, now_ms: int) -> None:
        self.last_read = time.monotonic()
        self.set_clock(now_ms)

    def heed(self, beat: Beat) -> None:
        """What the server said of the topic and those who take its tasks."""
        self.paused, self.consumers = beat.paused, beat.consumers
        self.set_clock(beat.now_ms)

    def set_clock(self, now_ms: int) -> None:
        """The server's time as of now."""
        self.clock_ms = now_ms - time.monotonic() * 1000
        # A late answer puts it too early, and must not make the others look in time.
        self._clock_most_ms = max(self.clock_ms, self._clock_most_ms - _DRIFT_MS)

    def _is_late(self, now_ms: int) -> bool:
        """Whether what the server said at `now_ms` of its clock is no news any more."""
        age_ms = self._clock_most_ms + time.monotonic() * 1000 - now_ms
        return age_ms > _LATE_MS

    def handed_over(self) -> None:
        """Somebody's tasks wait to be taken over."""
        if self._host.wanted() and not (self._taking_over or self._claiming.locked()):
            self._taking_over = True
            self._host.spawn(self._take_over())

    async def _take_over(self) -> None:
        """Claim until nothing is left: rows handed over wake no reader that blocks in
        the server, and the next beat is a second away.
        """
        try:
            while not (self._host.closing or self._quiet.reserved):
                want = self._host.wanted()
                if want and await self._claim(want) < want:
                    return
                await self._host.room()
        except (errors.BusError, redis.RedisError, OSError):
            self._recover_due = True
        finally:
            self._taking_over = False
