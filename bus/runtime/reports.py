"""How runs end on the server: as results, failures, or letters nobody could read."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final, Protocol, TypeVar

from .. import dead, deliveries, endings, errors, failures, keys, messages, records
from ..conf import conf
from ..deliveries import Completion, Failure, Seat
from ..handlers import Handler
from .outbox import Outbox
from .receipts import Receipts
from .runs import FENCED, TIMED_OUT, Run

log = logging.getLogger("bus.agent")

_RETRY_S: Final = 0.2
_JANITOR_S: Final = 1.0  # delays beyond this are theirs
_PROMOTE_PAUSE_S: Final = 0.005  # however many fail at once
_DELAY_MOST_S: Final = 366 * 86_400.0
T = TypeVar("T")


class Clock(Protocol):
    """Who knows the server's time."""

    @property
    def clock_ms(self) -> float:
        """Server ms at monotonic 0."""


class Reports:
    """Reports finished runs of one topic; `ended` hears of each once it is known.

    `held` is all that the lane has in hand, by sid, as it changes.
    """

    def __init__(
        self,
        seat: Seat,
        handler: Handler,
        clock: Clock,
        held: Mapping[str, Run],
        ended: Callable[[Run], None],
        broken: Callable[[BaseException | None], None],
    ) -> None:
        self.done = self.failed = 0
        self._seat, self._handler, self._ended = seat, handler, ended
        self._broken = broken
        self._clock, self._held = clock, held
        self._agent = keys.agent_of(seat.consumer)
        self._results = Outbox(
            self._complete, self._completed, self._spawn, broken, self._finish
        )
        self._failures = Outbox(self._fail, self._failed, self._spawn, broken)
        self._receipts = Receipts(seat.topic, self._complete, self._spawn)
        self._work: set[asyncio.Task[None]] = set()
        self._retries: asyncio.TimerHandle | None = None  # when the next is due

    @property
    def unsent(self) -> int:
        """Finished tasks that wait for the scripts in flight."""
        return len(self._results) + len(self._failures)

    @property
    def busy(self) -> bool:
        """Whether something is on its way."""
        return bool(self._work)

    def keeps(self, fence: str) -> bool:
        """Whether this delivery's result is kept until it is as durable as promised."""
        return self._receipts.holds(fence)

    def report(self, run: Run) -> None:
        """Take a run that came back from its slot."""
        try:
            self._report(run)
        except Exception as exc:  # whatever a handler made up, the attempt has ended
            log.exception("%s: what came of it cannot be told", run.delivery.id)
            said = f"what the attempt came to cannot be told: {type(exc).__name__}"
            self._put_failure(run, RuntimeError(said))

    def _report(self, run: Run) -> None:
        if run.stopped == FENCED:
            self._ended(run)
            return
        error = run.stop_error() if run.stopped else run.error
        if error is None:
            try:
                limit = conf.RESULT_MAX_BYTES
                result = messages.encode_result(run.value, limit)
            except errors.InvalidPayload as exc:
                # Raised by the mesh, about what the handler gave: no line of either.
                error = exc.with_traceback(None)
        if error is None:
            done = self._completion(run, result)
            self._results.put(run, done, len(done.row))
        elif isinstance(error, errors.Malformed):
            self._spawn(self._bury(run, error))
        else:
            self._put_failure(run, error)

    def _put_failure(self, run: Run, error: BaseException) -> None:
        failure = self._failure(run, error, _facts(run, error))
        # Twice what it says, for its history; a letter holds the payload too.
        size = 2 * len(failure.attempt_line) + len(run.delivery.json)
        self._failures.put(run, failure, size)

    async def close(self) -> None:
        """Give up on what could not be reported."""
        self._results.close()
        if self._retries is not None:
            self._retries.cancel()
        for _ in range(5):  # a cancellation can be swallowed by a wait with a timeout
            work = list(self._work)
            for task in work:
                task.cancel()
            if not work:
                return
            await asyncio.wait(work, timeout=0.1)

    def _completion(self, run: Run, result: bytes) -> Completion:
        held = run.delivery
        (started_ms, finished_ms), enqueued_ms = self._span(run), held.enqueued_ms
        row = endings.result_row(
            held.id,
            held.topic,
            held.json,
            result,
            agent=self._agent,
            attempt=held.record.attempt + 1,
            fence=held.fence,
            enqueued_ms=enqueued_ms,
            started_ms=started_ms,
            finished_ms=finished_ms,
            own=records.own(held.record.options),
        )
        return Completion(
            held,
            row,
            failures.log2_bucket(started_ms - enqueued_ms),
            failures.log2_bucket((run.finished - run.started) * 1000),
        )

    def _span(self, run: Run) -> tuple[int, int]:
        """When a run began and ended, server ms; our own clock says nothing.

        The estimate of the server's clock may be off by the time of a round trip: no
        run is told to have begun before its task came.
        """
        came_ms = messages.entry_ms(run.delivery.sid)
        started_ms = max(int(self._clock.clock_ms + run.started * 1000), came_ms)
        return started_ms, started_ms + int((run.finished - run.started) * 1000)

    def _finish(self, item: Completion) -> asyncio.Future[Any] | None:
        # Others in hand may end in this turn of the loop: those go together.
        if len(self._held) > 1:
            return None
        return deliveries.finish(self._seat, item)

    async def _complete(self, items: list[Completion]) -> list[str]:
        send = functools.partial(deliveries.complete, self._seat, items)
        return await self._insist(send)

    def _completed(self, run: Run, item: Completion, outcome: str) -> None:
        if outcome in (deliveries.OK, deliveries.DUPLICATE):
            self.done += 1
            self._receipts.keep(item)
        else:
            log.warning("%s: result refused: %s", run.delivery.id, outcome)
        self._ended(run)

    async def _fail(self, items: list[Failure]) -> list[str]:
        send = functools.partial(deliveries.fail, self._seat, items)
        return await self._insist(send)

    def _failed(self, run: Run, item: Failure, outcome: str) -> None:
        log.info(
            "%s: %s: attempt %d failed (%s), now %s",
            run.delivery.topic,
            run.delivery.id,
            run.delivery.record.attempt + 1,
            item.said,
            outcome,
        )
        if outcome == messages.DELAYED:
            self._promote_in(item.delay_s)
        self.failed += 1
        self._ended(run)

    def _promote_in(self, delay_s: float) -> None:
        """Have a short delay end in time: janitors look every second.

        One timer for all: whoever comes later is promoted by it, or has it set again.
        """
        loop = asyncio.get_running_loop()
        at, timer = loop.time() + delay_s, self._retries
        if delay_s > _JANITOR_S or (timer is not None and timer.when() <= at):
            return
        if timer is not None:
            timer.cancel()
        at = max(at, loop.time() + _PROMOTE_PAUSE_S)
        self._retries = loop.call_at(at, self._promote_now)

    def _promote_now(self) -> None:
        self._retries = None
        self._spawn(self._promote())

    async def _promote(self) -> None:
        try:
            _, next_ms = await self._seat.run("promote", [deliveries.BATCH])
        except errors.BusError as exc:
            log.debug("%s: not promoted: %s", self._seat.topic, exc)
            return  # a janitor will
        if next_ms >= 0:
            self._promote_in(next_ms / 1000)

    def _failure(
        self, run: Run, error: BaseException, facts: dict[str, Any]
    ) -> Failure:
        held, record = run.delivery, run.delivery.record
        attempt = record.attempt + 1
        base_s = self._handler.backoff_s or conf.BACKOFF_S
        delay_s = failures.backoff_s(attempt, base_s, conf.BACKOFF_MAX_S)
        if isinstance(error, errors.Retry) and error.delay_s is not None:
            delay_s = min(max(0.0, float(error.delay_s)), _DELAY_MOST_S)
        started_ms, finished_ms = self._span(run)
        line = failures.attempt_line(
            epoch=record.epoch,
            attempt=attempt,
            agent=self._agent,
            fence=held.fence,
            started_ms=started_ms,
            finished_ms=finished_ms,
            error=facts,
        )
        return Failure(
            held,
            line,
            messages.dump(facts),
            failures.fingerprint(facts),
            delay_s,
            isinstance(error, errors.GiveUp),
            self._handler.max_attempts or conf.MAX_ATTEMPTS,
            failures.log2_bucket((run.finished - run.started) * 1000),
            said=f"{facts['type']}: {facts['message']}",
        )

    async def _bury(self, run: Run, error: errors.Malformed) -> None:
        """An entry whose JSON nobody can read: a dead letter with what it held."""
        held, said = run.delivery, str(error)
        await self._insist(
            lambda: asyncio.to_thread(dead.bury_malformed, held.topic, held.sid, said)
        )
        self.failed += 1
        self._ended(run)

    async def _insist(self, action: Callable[[], Awaitable[T]]) -> T:
        """Repeat until the server answers: a finished task is worth waiting for."""
        while True:
            try:
                return await action()
            except errors.BusError as exc:
                # Also what Redis refuses for a key that somebody tore apart: the audit
                # puts it right within seconds, and an agent that ended would not help.
                log.warning("%s: cannot report yet: %s", self._seat.topic, exc)
                await asyncio.sleep(_RETRY_S)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._work.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled():
            self._broken(task.exception())


def _facts(run: Run, error: BaseException) -> dict[str, Any]:
    """What failed, as attempts and letters keep it."""
    facts = failures.describe(error)
    if run.stopped == TIMED_OUT:
        facts |= {"type": "Timeout", "reason": "timeout", "traceback": ""}
    return facts
