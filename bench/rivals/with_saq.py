"""SAQ: one process, a hundred jobs at once, results kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import harness
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

# redis-py's own bound of 100 connections stops a worker of a hundred jobs.
queue = RedisQueue(Redis.from_url(harness.URL, max_connections=1000))
WAIT_S = 10


async def noop(ctx: Any, *, payload: Any) -> None:
    harness.ran()


settings = {"queue": queue, "functions": [noop], "concurrency": 100}


class Client:
    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        await queue.connect()
        yield
        await queue.disconnect()

    async def send(self, number: int) -> None:
        await queue.enqueue("noop", payload=harness.payload(number))

    async def send_many(self, numbers: Sequence[int]) -> None:
        await harness.together(self.send, numbers)

    async def trip(self, number: int) -> None:
        # Its `apply` looks once a second only.
        job = await queue.enqueue("noop", payload=harness.payload(number))
        assert job is not None
        await job.refresh(until_complete=WAIT_S)


if __name__ == "__main__":
    harness.main(Client())
