"""Quiet in an agent: a suspect, which killed agents before, is run with nothing beside.

A lane that meets a suspect reserves quiet for itself; the other lanes stop taking
tasks, unstarted ones go back, started ones finish; then the suspect runs alone. If it
kills the process again, no neighbour dies with it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


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
        self._owner: Busy | None = None
        self._free = asyncio.Event()
        self._free.set()

    def reserved_by(self, lane: Busy) -> bool:
        """Whether this lane has the process to itself."""
        return self._owner is lane

    def open_for(self, lane: Busy) -> bool:
        """Whether this lane may take tasks."""
        return self._owner is None or self._owner is lane

    async def may_read(self, lane: Busy) -> None:
        """Wait until no other lane needs quiet."""
        while not self.open_for(lane):
            await self._free.wait()

    async def reserve(self, lane: Busy) -> None:
        """Have the process to oneself, unless another lane was first."""
        if self._owner is not None:
            return
        self._owner = lane
        self._free.clear()
        for each in self.lanes:
            await each.release_unstarted()
        while any(each.held for each in self.lanes) and self._owner is lane:
            await asyncio.sleep(0.002)

    def end(self, lane: Busy) -> None:
        """Give the process back to all lanes."""
        if self._owner is lane:
            self._owner = None
            self._free.set()
