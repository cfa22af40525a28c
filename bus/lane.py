"""One topic in an agent: claim, run, finish.

The reader claims what the slots can start soon, the slots run it, and one completion
script at a time carries results away: a completion that finds none in flight goes at
once, those that come meanwhile go together with the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from typing import Any, Final

import redis.asyncio

from . import (
    connection,
    dead,
    deliveries,
    errors,
    failures,
    handlers,
    keys,
    messages,
    slots,
)
from .conf import conf
from .deliveries import Beat, Completion, Delivery
from .handlers import Handler
from .quiet import Quiet
from .runs import CANCELLED, FENCED, TIMED_OUT, Run

log = logging.getLogger("bus.agent")

_BLOCK_S: Final = 2.0
_UNSTARTED_S: Final = 0.05  # of work an agent may hold without having started it
_UNSTARTED_MOST: Final = 300
_UNSENT_MOST: Final = 500  # finished tasks that wait for the server
_SWEEP_S: Final = 0.05


class Lane:
    """The life of one topic in one agent process."""

    def __init__(
        self, handler: Handler, group: str, consumer: str, size: int, quiet: Quiet
    ) -> None:
        self.topic, self.group, self.consumer = handler.topic, group, consumer
        self.handler, self.size, self._quiet = handler, size, quiet
        self._agent = keys.agent_of(consumer)
        self.held: dict[str, Run] = {}  # by sid, from claim until the server knows
        self.done = self.failed = 0
        self.paused = False
        self.last_read = time.time()
        self._unsent: deque[Completion] = deque()
        self._sending = False
        self._work: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._room = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._run_s = 0.01  # moving average of how long a task takes
        self._clock_ms = 0.0  # server ms at monotonic 0
        self._topic_timeout_s: float | None = None
        self._claiming = asyncio.Lock()
        self._slots = slots.make(handler.kind, size, self._finished)
        self._client = connection.adedicated(name=f"mesh:{consumer}")
        self._reader = connection.adedicated(block_s=_BLOCK_S, name=f"mesh:{consumer}")
        self._tasks = [
            self._loop.create_task(self._read()),
            self._loop.create_task(self._sweep()),
        ]

    # --- seen by the beat thread

    def leased(self) -> list[Delivery]:
        """What to renew: everything in hand but attempts that should have ended."""
        now = time.monotonic()
        return [
            run.delivery for run in list(self.held.values()) if now < run.deadline + 5
        ]

    def beaten(self, beat: Beat) -> None:
        """The server's answer to a beat, handed to the loop."""
        with contextlib.suppress(RuntimeError):  # the loop has closed
            self._loop.call_soon_threadsafe(self._on_beat, beat)

    # --- claiming

    def _wanted(self) -> int:
        """How many tasks to take now: free slots and a little to start next."""
        if self._closing or self.paused or self._slots.stuck:
            return 0
        unsent = len(self._unsent)
        if unsent >= _UNSENT_MOST:
            return 0
        ahead = min(_UNSTARTED_MOST, int(_UNSTARTED_S * self.size / self._run_s))
        free = self.size + ahead - (len(self.held) - unsent)
        return max(0, min(free, deliveries.BATCH))

    async def _read(self) -> None:
        pause_s, fresh_start = 0.05, True
        while not self._closing:
            try:
                if fresh_start:
                    await self._recover()
                    fresh_start = False
                await self._read_once()
                pause_s = 0.05
            except (errors.BusError, redis.RedisError, OSError) as exc:
                if deliveries.is_nogroup(exc):
                    await asyncio.to_thread(
                        deliveries.join_group, self.topic, self.group
                    )
                    continue
                log.warning("%s: reading stopped for now: %s", self.topic, exc)
                # The reply may be lost while its tasks are ours: read our own first.
                fresh_start = True
                await self._reader.connection_pool.disconnect()
                await asyncio.sleep(pause_s * (0.5 + random.random()))
                pause_s = min(pause_s * 2, 0.5)

    async def _read_once(self) -> None:
        await self._quiet.may_read(self)
        want = self._wanted()
        if not want:
            self._room.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._room.wait(), 0.25)
            return
        if await self._claim(want):
            return
        # Blocked outside of the script, which cannot block; checked by it afterwards.
        command: list[Any] = ["XREADGROUP", "GROUP", self.group, self.consumer]
        command += ["COUNT", want, "BLOCK", int(_BLOCK_S * 1000)]
        command += ["STREAMS", keys.task_stream(self.topic), ">"]
        reader: Any = self._reader
        reply = await reader.execute_command(*command)
        self.last_read = time.time()
        sids = [sid for sid, _ in messages.flat_entries(reply)]
        if sids:
            await self._claim(len(sids), sids)

    async def _claim(self, want: int, sids: list[str] | None = None) -> bool:
        """Take up to `want` tasks; whether any came. Suspects are run alone."""
        async with self._claiming:
            alone = self._quiet.reserved_by(self)
            claimed = await deliveries.claim(
                self._client, self.topic, self.group, self.consumer, want, alone, sids
            )
            self._seen(claimed.now_ms)
            self._topic_timeout_s = claimed.timeout_s
            self.paused = claimed.paused
            if self._closing or not self._quiet.open_for(self):
                # Something began to drain, or asked for quiet, while we were away.
                await self._release(claimed.deliveries)
                return False
            for item in claimed.deliveries:
                self._take(item)
        if alone:
            await self._alone()
        elif claimed.suspects:
            await self._quiet.reserve(self)
            if self._quiet.reserved_by(self):
                return await self._claim(1)
        return bool(claimed.deliveries)

    async def _alone(self) -> None:
        """Wait until what was claimed in quiet is finished and known to the server."""
        while self.held and not self._closing:
            await asyncio.sleep(0.002)
        self._quiet.end(self)

    def _take(self, item: Delivery) -> None:
        if item.sid in self.held:
            return
        options = messages.parse_options(item.record.options)
        own_s = float(options["t"]) if "t" in options else None
        seconds = handlers.timeout_of(self.handler, own_s, self._topic_timeout_s)
        run = Run(item, self.handler, seconds)
        self.held[item.sid] = run
        self._slots.put(run)

    async def _recover(self) -> None:
        """Take up tasks that are ours on the server but were lost on the way here."""
        after = ""
        while True:
            now_ms, after, items = await deliveries.recover(
                self._client, self.topic, self.group, self.consumer, after
            )
            self._seen(now_ms)
            for item in items:
                self._take(item)
            if not after:
                return

    def _seen(self, now_ms: int) -> None:
        self.last_read = time.time()
        self._clock_ms = now_ms - time.monotonic() * 1000

    # --- finishing

    def _finished(self, run: Run) -> None:
        """A run came back from its slot: on the loop, once per run."""
        held = run.delivery
        took = run.finished - run.started
        self._run_s += (max(took, 1e-5) - self._run_s) * 0.05
        if run.stopped == FENCED:
            self._forget(run)
            return
        stopped = slots.stop_error(run) if run.stopped else None
        error = stopped or run.error
        if error is None:
            try:
                result = messages.encode(
                    run.value, what="result", max_bytes=conf.RESULT_MAX_BYTES
                )
            except errors.InvalidPayload as exc:
                error = exc
        if error is not None:
            self._spawn(self._fail(run, error))
            return
        started_ms = int(self._clock_ms + run.started * 1000)
        row = messages.result_row(
            held.id,
            self.topic,
            held.json,
            result,
            agent=self._agent,
            attempt=held.record.attempt + 1,
            fence=held.fence,
            enqueued_ms=held.enqueued_ms,
            started_ms=started_ms,
            finished_ms=int(self._clock_ms + run.finished * 1000),
        )
        wait = failures.log2_bucket(started_ms - held.enqueued_ms)
        self._unsent.append(
            Completion(held, row, wait, failures.log2_bucket(took * 1000))
        )
        if not self._sending:
            self._sending = True
            self._spawn(self._send())

    async def _send(self) -> None:
        try:
            while self._unsent:
                batch = [
                    self._unsent.popleft()
                    for _ in range(min(len(self._unsent), deliveries.BATCH))
                ]
                outcomes = await self._insist(
                    lambda batch=batch: deliveries.complete(
                        self._client, self.topic, self.group, self.consumer, batch
                    )
                )
                for item, outcome in zip(batch, outcomes, strict=True):
                    self.held.pop(item.delivery.sid, None)
                    if outcome in (deliveries.OK, deliveries.DUPLICATE):
                        self.done += 1
                    else:
                        log.warning("%s: result refused: %s", item.delivery.id, outcome)
                self._room.set()
        finally:
            self._sending = False

    async def _fail(self, run: Run, error: BaseException) -> None:
        held, record = run.delivery, run.delivery.record
        if isinstance(error, errors.DecodeError):
            await self._bury(run)
            return
        facts = failures.describe(error)
        if run.stopped == TIMED_OUT:
            facts |= {"type": "Timeout", "reason": "timeout", "traceback": ""}
        attempt = record.attempt + 1
        base = self.handler.backoff_s or conf.BACKOFF_S
        delay_s = failures.backoff_s(attempt, base, conf.BACKOFF_MAX_S)
        if isinstance(error, errors.Retry) and error.delay_s is not None:
            delay_s = max(0.0, float(error.delay_s))
        line = failures.attempt_line(
            epoch=record.epoch,
            attempt=attempt,
            agent=self._agent,
            fence=held.fence,
            started_ms=int(self._clock_ms + run.started * 1000),
            finished_ms=int(self._clock_ms + run.finished * 1000),
            error=facts,
        )
        failure = deliveries.Failure(
            held,
            line,
            messages.dump(facts),
            failures.fingerprint(facts),
            delay_s,
            isinstance(error, errors.GiveUp),
            self.handler.max_attempts or conf.MAX_ATTEMPTS,
            failures.log2_bucket((run.finished - run.started) * 1000),
        )
        outcome = await self._insist(
            lambda: deliveries.fail(
                self._client, self.topic, self.group, self.consumer, failure
            )
        )
        log.info("%s: attempt %d failed, %s: %s", held.id, attempt, outcome, error)
        self.failed += 1
        self._forget(run)

    async def _bury(self, run: Run) -> None:
        """An entry whose JSON nobody can read: a dead letter with what it held."""
        held = run.delivery
        error = failures.plain("Malformed", str(run.error), "malformed")
        fields = await asyncio.to_thread(deliveries.raw_fields, self.topic, held.sid)
        payload = fields.get("json", fields)
        await self._insist(
            lambda: asyncio.to_thread(dead.bury, self.topic, held.sid, payload, error)
        )
        self.failed += 1
        self._forget(run)

    async def _insist(self, action: Any) -> Any:
        """Repeat until the server answers: a finished task is worth waiting for."""
        while True:
            try:
                return await action()
            except errors.BusUnavailable as exc:
                log.warning("%s: cannot report yet: %s", self.topic, exc)
                await asyncio.sleep(0.2)

    def _forget(self, run: Run) -> None:
        self.held.pop(run.delivery.sid, None)
        self._room.set()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    # --- stopping runs

    def _on_beat(self, beat: Beat) -> None:
        self.paused = beat.paused
        for item in beat.fenced:
            run = self.held.get(item.sid)
            if run is not None and not self._reporting(run):
                log.warning("%s: lost the lease of %s", self.topic, item.id)
                self._stop(run, FENCED)
        for item in beat.cancelled:
            run = self.held.get(item.sid)
            if run is not None:
                self._stop(run, CANCELLED)
        if self.paused and not self._closing:
            self._spawn(self._release_unstarted())
        elif beat.handed_over and self._wanted() and not self._claiming.locked():
            self._spawn(self._claim_handed_over())

    def _reporting(self, run: Run) -> bool:
        """Whether its end is on the way, so that the server may have forgotten it."""
        return run.over

    async def _claim_handed_over(self) -> None:
        """Rows handed over do not wake a reader that blocks in the server."""
        want = self._wanted()
        if want and self._quiet.open_for(self):
            with contextlib.suppress(errors.BusError, redis.RedisError, OSError):
                await self._claim(want)

    def _stop(self, run: Run, why: str) -> None:
        if run.over:
            return
        if run.started:
            self._slots.stop(run, why)
            return
        # Not started: take everything out and put the others back in order.
        for other in self._slots.take_unstarted():
            if other is not run:
                self._slots.put(other)
        run.over, run.stopped = True, why
        run.started = run.finished = time.monotonic()
        self._finished(run)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            now = time.monotonic()
            for run in list(self.held.values()):
                if not run.over and now > run.deadline:
                    self._slots.stop(run, TIMED_OUT)

    # --- ending

    async def _release(self, items: list[Delivery]) -> None:
        if items:
            await deliveries.release(
                self._client, self.topic, self.group, self.consumer, items
            )

    async def _release_unstarted(self) -> None:
        runs = self._slots.take_unstarted()
        for run in runs:
            self.held.pop(run.delivery.sid, None)
        with contextlib.suppress(errors.BusError):
            await self._release([run.delivery for run in runs])

    async def release_unstarted(self) -> None:
        """Give back what no slot has started."""
        await self._release_unstarted()

    async def drain(self, grace_s: float) -> None:
        """Take nothing more, give back the unstarted, let the rest finish and report."""
        self._closing = True
        self._room.set()
        await self._release_unstarted()
        until = time.monotonic() + grace_s
        while (self.held or self._work) and time.monotonic() < until:
            await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        # What is still running is stopped unreported and given back below.
        for run in list(self.held.values()):
            if not run.over:
                self._slots.stop(run, FENCED)
        await self._slots.close()
        for task in list(self._work):
            task.cancel()
        with contextlib.suppress(errors.BusError, redis.RedisError, OSError):
            await self._release_own_rows()
        await self._client.aclose()
        await self._reader.aclose()

    async def _release_own_rows(self) -> None:
        """The last step: whatever the server still counts as ours goes back."""
        while True:
            _, after, items = await deliveries.recover(
                self._client, self.topic, self.group, self.consumer, ""
            )
            await self._release(items)
            if not after:
                return
