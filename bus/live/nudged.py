"""A connection that waits in blocking reads, and one beside it to end such a wait."""

from __future__ import annotations

from typing import Any, Final

import redis

from .. import connection

_BLOCK_MS: Final = 1_000
_BLOCK_BLIND_MS: Final = 100  # where nothing can end a block early


class Nudged:
    """Two connections of one name, made when they are first needed.

    Both belong to the running event loop; `close` lets go of it, and another use makes
    new ones.
    """

    def __init__(self, name: str) -> None:
        self.wire: Any = None  # the one that blocks; None while there is none
        self.block_ms = _BLOCK_MS  # how long a read may wait
        self._name = name
        self._client_id = 0  # of the wire; 0 where there is nothing to nudge
        self._asking: Any = None

    async def open(self) -> None:
        """Have a `wire`; Redis errors where it cannot be connected."""
        if self.wire is not None:
            return
        self.wire = connection.adedicated(block_s=_BLOCK_MS / 1000, name=self._name)
        try:
            self._client_id = int(await self.wire.execute_command("CLIENT", "ID"))
        except redis.ResponseError:
            self.block_ms = _BLOCK_BLIND_MS

    async def ask(self, *command: Any) -> Any:
        """One command that does not block, on the connection beside the wire."""
        return await self.asking().execute_command(*command)

    def asking(self) -> Any:
        """The connection of `ask`, as a client for scripts."""
        if self._asking is None:
            self._asking = connection.adedicated(name=self._name)
        return self._asking

    async def nudge(self) -> None:
        """End the block of the wire, if the server lets us.

        It may be about to block just now: who needs it ended repeats this.
        """
        if not self._client_id or self.block_ms != _BLOCK_MS:
            return
        try:
            await self.ask("CLIENT", "UNBLOCK", self._client_id)
        except redis.ResponseError:
            self.block_ms = _BLOCK_BLIND_MS
        except (redis.RedisError, OSError):
            pass  # the reader notices for itself

    async def hang_up(self) -> None:
        """Drop the wire; the next `open` makes another."""
        wire, self.wire, self._client_id = self.wire, None, 0
        if wire is not None:
            await wire.aclose()

    async def close(self) -> None:
        """Drop both. They are let go before the first await: who comes meanwhile makes
        new ones."""
        asking, self._asking = self._asking, None
        await self.hang_up()
        if asking is not None:
            await asking.aclose()
