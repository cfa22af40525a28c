"""Quiet in an agent: a suspect, which killed agents before, is run with nothing beside.

A lane that meets a suspect reserves quiet. From then on no lane keeps what it claims;
unstarted tasks go back, started ones finish. Then that lane claims the suspect and runs
it alone: if it kills the process again, no neighbour dies with it.

Others leave the suspect to this agent meanwhile, but for one that is empty as it is. An
agent whose tasks take too long gives way to them, and bears with its own for longer the
next time: where all have such tasks, one of them gets to the end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Final, Protocol

_PATIENCE_S: Final = 60.0  # at first; as long as an attempt may take by default
_ASK_S: Final = 1.0  # others leave a suspect to us for 5 s
_LOOK_S: Final = 0.002
_LOOK_MOST_S: Final = 0.05


class Busy(Protocol):
    """What quiet needs to know of a lane."""

    @property
    def held(self) -> object:
        """Everything in the lane's hand; falsy when there is nothing."""

    async def release_unstarted(self) -> None:
        """Give back what no slot has started."""


class Quiet:
    """At most one lane at a time has the process to itself."""

    def __init__(self) -> None:
        self.lanes: Sequence[Busy] = ()
        self._free = asyncio.Event()
        self._free.set()
        self._patience_s = _PATIENCE_S
        self._away_until = 0.0  # monotonic s; others are to try until then

    @property
    def reserved(self) -> bool:
        """Whether some lane needs or has quiet: nobody else may take tasks."""
        return not self._free.is_set()

    @property
    def silent(self) -> bool:
        """Whether no lane has anything in hand."""
        return not any(each.held for each in self.lanes)

    @property
    def gives_way(self) -> bool:
        """Whether suspects are left to other agents for now."""
        return time.monotonic() < self._away_until

    async def over(self) -> None:
        """Wait until tasks may be taken."""
        await self._free.wait()

    def reserve(self) -> bool:
        """Ask for quiet; False if another suspect was first."""
        if self.reserved:
            return False
        self._free.clear()
        return True

    async def silence(
        self, wanted: Callable[[], Awaitable[bool]], others: Callable[[], bool]
    ) -> bool:
        """Wait until no lane has anything in hand; needs a reservation.

        False once it is not `wanted` any more, which is asked every second, or has
        taken too long while there are `others` who could be quiet sooner.
        """
        began = asked = time.monotonic()
        pauses = pauses_s()
        while not self.silent:
            for each in self.lanes:
                await each.release_unstarted()
            await asyncio.sleep(next(pauses))
            now = time.monotonic()
            if now - began > self._patience_s and others():
                self._away_until = now + self._patience_s
                self._patience_s *= 2
                return False
            if now - asked > _ASK_S:
                asked = now
                if not await wanted():
                    return False
        self._patience_s = _PATIENCE_S
        return True

    def end(self) -> None:
        """Let all lanes take tasks again."""
        self._free.set()


def pauses_s() -> Iterator[float]:
    """Between two looks for an end that is near, or takes its time."""
    pause_s = _LOOK_S
    while True:
        yield pause_s
        pause_s = min(_LOOK_MOST_S, 1.05 * pause_s)
