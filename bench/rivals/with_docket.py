"""docket: one process, results kept.

Forty coroutines: a hundred want more connections than its pool of redis-py has.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import harness
from docket import Docket


async def noop(payload: Any) -> bool:
    harness.ran()
    return True


tasks = [noop]
NAME = "bench"


class Client:
    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with Docket(name=NAME, url=harness.URL) as self._docket:
            self._docket.register(noop)
            yield

    async def send(self, number: int) -> None:
        await self._docket.add(noop)(harness.payload(number))

    async def send_many(self, numbers: Sequence[int]) -> None:
        await harness.together(self.send, numbers)

    async def trip(self, number: int) -> None:
        execution = await self._docket.add(noop)(harness.payload(number))
        await execution.get_result()


if __name__ == "__main__":
    harness.main(Client())
