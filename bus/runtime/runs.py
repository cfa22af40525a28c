"""One attempt in an agent's hand, and what it came to."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .. import errors, foreign, messages
from ..deliveries import Delivery
from ..handlers import Handler

log = logging.getLogger("bus.agent")

# Why a run is stopped from outside.
TIMED_OUT: Final = "timed out"
CANCELLED: Final = "cancelled"
FENCED: Final = "fenced"  # the lease is lost: whatever comes of it is not ours to say

# Runs per slot that go on after they were given up on, before no more are started.
STUCK_PER_SLOT: Final = 4
_MEAN_LEAST: Final = 100  # newest ends that the mean run time is taken over, or
_MEAN_ROUNDS: Final = 10  # as many times the slots: they may end in waves


@dataclass(slots=True, eq=False)
class Run:
    """A delivery with its handler and the clock of its attempt (monotonic s)."""

    delivery: Delivery
    handler: Handler
    timeout_s: float
    taken: float  # when it came
    started: float = 0.0
    finished: float = 0.0
    stopped: str = ""
    task: asyncio.Task[None] | None = None
    value: Any = None
    error: BaseException | None = None
    over: bool = field(default=False)
    again: bool = False  # the task was given to us once more when this was over

    @property
    def deadline(self) -> float:
        """When the sweeper ends it; infinite until it starts."""
        return self.started + self.timeout_s if self.started else float("inf")

    def payload(self) -> Any:
        """The payload's value, or Malformed."""
        held = self.delivery
        return foreign.payload_of(held.id, held.json, held.meta)

    def context(self, payload: Any) -> messages.Task:
        """The task as the handler sees it."""
        held = self.delivery
        record = held.record
        return messages.task(
            id=held.id,
            topic=held.topic,
            payload=payload,
            attempt=record.attempt + 1,
            epoch=record.epoch,
            fence=held.fence,
            timeout_s=self.timeout_s,
            enqueued_at=messages.iso(held.enqueued_ms),
        )

    def stop_error(self) -> BaseException:
        """What it counts as where it was stopped, unless it is `FENCED`."""
        if self.stopped == TIMED_OUT:
            return TimeoutError(f"the attempt took longer than {self.timeout_s:g} s")
        assert self.stopped == CANCELLED
        return errors.GiveUp("cancelled while it ran")


class Mean:
    """What a run takes, over the newest that ended; for those who ask."""

    def __init__(self, slots: int) -> None:
        self._most = max(_MEAN_LEAST, _MEAN_ROUNDS * slots)
        self._ended, self._s = 0, 0.0

    def add(self, took_s: float) -> None:
        """Take note of one that has ended."""
        self._ended = min(self._ended + 1, self._most)
        self._s += (took_s - self._s) / self._ended

    def told(self, held: Sequence[Run]) -> float | None:
        """The mean in s, None before the first end; read from the beat thread.

        What still runs tells too: tasks may have begun to take longer.
        """
        mean_s, ended, now = self._s, self._ended, time.monotonic()
        ran_s = [now - run.started for run in held if run.started and not run.over]
        more_s = sum(max(0.0, each - mean_s) for each in ran_s)
        return round(mean_s + more_s / ended, 6) if ended else None


def tell_stuck(topic: str, before: bool, now: bool) -> bool:
    """Say when a topic's slots get stuck, and when they are free again; the latter."""
    if now and not before:
        log.warning(
            "%s: no task is taken any more: too many runs go on that were given up on; "
            "end this agent, or wait for them",
            topic,
        )
    elif before and not now:
        log.warning("%s: tasks are taken again", topic)
    return now


# Whoever hears of a run that came back from its slot, once.
Finished = Callable[[Run], None]
