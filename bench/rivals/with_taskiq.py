"""Taskiq on Redis Streams: one process, a hundred coroutines, results kept."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import harness
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

_results: Any = RedisAsyncResultBackend(harness.URL, result_ex_time=600)
broker = RedisStreamBroker(harness.URL).with_result_backend(_results)
WAIT_S = 10


@broker.task(task_name="noop")
async def noop(payload: Any) -> None:
    harness.ran()


class Client:
    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        await broker.startup()
        yield
        await broker.shutdown()

    async def send(self, number: int) -> None:
        await noop.kiq(harness.payload(number))

    async def send_many(self, numbers: Sequence[int]) -> None:
        await harness.together(self.send, numbers)

    async def trip(self, number: int) -> None:
        sent = await noop.kiq(harness.payload(number))
        await sent.wait_result(check_interval=0.001, timeout=WAIT_S)


if __name__ == "__main__":
    harness.main(Client())
