"""streaQ: one process, a hundred coroutines, results kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import harness
from streaq import Worker

worker: Any = Worker(redis_url=harness.URL, concurrency=100)
WAIT_S = 10


@worker.task
async def noop(payload: Any) -> None:
    harness.ran()


class Client:
    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        async with worker:
            yield

    async def send(self, number: int) -> None:
        await noop.enqueue(harness.payload(number))

    async def send_many(self, numbers: Sequence[int]) -> None:
        for some in harness.batches(numbers):
            await worker.enqueue_many(
                [noop.enqueue(harness.payload(number)) for number in some]
            )

    async def trip(self, number: int) -> None:
        sent = await noop.enqueue(harness.payload(number))
        await sent.result(WAIT_S)


if __name__ == "__main__":
    harness.main(Client())
