"""Quiet in an agent: a suspect, which killed agents before, is run with nothing beside.

A lane that meets a suspect reserves quiet. From then on no lane keeps what it claims;
unstarted tasks go back, started ones finish. Then that lane claims the suspect and runs
it alone: if it kills the process again, no neighbour dies with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol


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

    @property
    def reserved(self) -> bool:
        """Whether some lane needs or has quiet: nobody else may take tasks."""
        return not self._free.is_set()

    async def over(self) -> None:
        """Wait until tasks may be taken."""
        await self._free.wait()

    def reserve(self) -> bool:
        """Ask for quiet; False if another suspect was first."""
        if self.reserved:
            return False
        self._free.clear()
        return True

    async def silence(self) -> None:
        """Wait until no lane has anything in hand; needs a reservation."""
        while any(each.held for each in self.lanes):
            for each in self.lanes:
                await each.release_unstarted()
            await asyncio.sleep(0.002)

    def end(self) -> None:
        """Let all lanes take tasks again."""
        self._free.set()
