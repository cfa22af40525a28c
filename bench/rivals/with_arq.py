"""arq: one process, a hundred jobs at once, results kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import harness
from arq import create_pool
from arq.connections import RedisSettings

SETTINGS = RedisSettings.from_dsn(harness.URL)
WAIT_S = 10


async def noop(ctx: Any, payload: Any) -> None:
    harness.ran()


class WorkerSettings:
    functions = (noop,)
    redis_settings = SETTINGS
    max_jobs = 100
    poll_delay = 0.005
    keep_result = 600


class Client:
    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        self._pool = await create_pool(SETTINGS)
        yield
        await self._pool.aclose()

    async def send(self, number: int) -> None:
        await self._pool.enqueue_job("noop", harness.payload(number))

    async def send_many(self, numbers: Sequence[int]) -> None:
        await harness.together(self.send, numbers)

    async def trip(self, number: int) -> None:
        job = await self._pool.enqueue_job("noop", harness.payload(number))
        assert job is not None
        await job.result(timeout=WAIT_S, poll_delay=0.001)


if __name__ == "__main__":
    harness.main(Client())
