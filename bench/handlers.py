"""What the benchmark's agents run: as little as a figure allows."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from bus import GiveUp, handler

SLEEP_S: Final = 0.010
WORK_S: Final = 0.001  # of CPU time


async def noop(payload: Any, task: Any) -> None:
    """A task that is done as soon as it starts."""


async def gives_up(payload: Any, task: Any) -> None:
    """A task that is a dead letter as soon as it starts."""
    raise GiveUp("on purpose")


async def sleeps(payload: Any, task: Any) -> None:
    """A task that waits for something, as for an answer over the network."""
    await asyncio.sleep(SLEEP_S)


def computes(payload: Any, task: Any) -> None:
    """A task that needs the CPU, in a thread of its agent."""
    until = time.thread_time() + WORK_S
    while time.thread_time() < until:
        pass


@handler("bench-aside", cpu=True)
def computes_aside(payload: Any, task: Any) -> None:
    """The same in a process of its own."""
    computes(payload, task)
