"""Completions kept until they are as durable as the mesh promises.

Where MESH_DURABILITY is waited for, a result that the server took is not safe yet: one
that takes over may lack it, and would have the task run again. So completions are kept
here, beside the work, until the level is reached, and are sent again to a server that
is not the one which took them.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from .. import deliveries, errors, levels, refusals, settled, words
from ..deliveries import Completion

log = logging.getLogger("bus.agent")

# Beyond these the oldest are let go: at worst such a task runs again.
KEPT_MOST: Final = 100_000
KEPT_BYTES_MOST: Final = 64 * 1024 * 1024
_AGAIN_S: Final = 0.5


class Receipts:
    """The unconfirmed completions of one topic; one wait is under way at a time."""

    def __init__(
        self,
        topic: str,
        send: Callable[[list[Completion]], Awaitable[list[str]]],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._topic, self._send, self._spawn = topic, send, spawn
        level = levels.of_mesh()
        self._level = level if level is not None and level.waits else None
        self._kept: deque[Completion] = deque()
        self._fences: set[str] = set()  # of what is kept
        self._bytes = 0
        self._gone = 0  # how many of those under way were let go meanwhile
        self._run_id = ""  # of the server that took what is kept, as last seen
        self._waiting = False
        self.let_go = 0

    def __len__(self) -> int:
        """How many are not known to be durable yet."""
        return len(self._kept)

    def holds(self, fence: str) -> bool:
        """Whether the completion of this delivery is kept."""
        return fence in self._fences

    def keep(self, item: Completion) -> None:
        """Take a completion that a server has just taken."""
        if self._level is None:
            return
        self._kept.append(item)
        self._fences.add(item.delivery.fence)
        self._bytes += len(item.row)
        while len(self._kept) > KEPT_MOST or self._bytes > KEPT_BYTES_MOST:
            self._drop()
            self._gone += 1
            self.let_go += 1
        if not self._waiting:
            self._waiting = True
            self._spawn(self._settle(self._level))

    def _drop(self) -> None:
        item = self._kept.popleft()
        self._bytes -= len(item.row)
        self._fences.discard(item.delivery.fence)

    async def _settle(self, level: levels.Level) -> None:
        try:
            while self._kept:
                try:
                    await self._confirm(level)
                except (errors.BusUnavailable, refusals.DamagedKey) as exc:
                    late = isinstance(exc, errors.LevelNotReached)
                    why = "it takes its time" if late else exc
                    said = "%s: %s not known to be %s: %s"
                    log.warning(said, self._topic, self._counted(), level, why)
                    await asyncio.sleep(_AGAIN_S)
        finally:
            self._waiting = False

    def _counted(self) -> str:
        kept = len(self._kept)
        return f"{words.count(kept, 'result')} {words.are(kept)}"

    async def _confirm(self, level: levels.Level) -> None:
        """Wait for all that is kept now; a BusUnavailable leaves it kept."""
        count, self._gone = len(self._kept), 0
        calls: list[tuple[str, list[Any]]] = [(self._topic, [])]
        [run_id], short = await settled.arun_all("mark", calls, level, bool)
        if isinstance(run_id, errors.BusError):
            raise run_id
        if run_id != self._run_id:
            # Nobody knows which of the two took them, also not of those that came while
            # this was asked; for the one that did a repeat is a duplicate.
            for batch in self._batches():
                await self._send(batch)
            self._run_id = run_id
            return
        if short is not None:
            raise short
        for _ in range(count - self._gone):
            self._drop()

    def _batches(self) -> list[list[Completion]]:
        items, size = list(self._kept), deliveries.BATCH
        return [items[at : at + size] for at in range(0, len(items), size)]
