"""One attempt in an agent's hand, and what it came to."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from .. import errors, foreign, messages
from ..deliveries import Delivery
from ..handlers import Handler

# Why a run is stopped from outside.
TIMED_OUT: Final = "timed out"
CANCELLED: Final = "cancelled"
FENCED: Final = "fenced"  # the lease is lost: whatever comes of it is not ours to say

# Runs per slot that go on after they were given up on, before no more are started.
STUCK_PER_SLOT: Final = 4


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
        return messages.Task(
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


# Whoever hears of a run that came back from its slot, once.
Finished = Callable[[Run], None]
