"""A consumer of the agent runtime that makes one call at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import redis

import bus
from bus import (
    connection,
    deliveries,
    endings,
    failures,
    judge,
    keys,
    records,
)
from bus.deliveries import Completion, Delivery, Failure, Seat

T = TypeVar("T")
GROUP = "workers"


class Desk:
    """Claims, ends, gives back; `lose` is what a janitor does once it counts as dead.

    With a `loop` its connection stays open from call to call; close it then.
    """

    def __init__(
        self,
        topic: str,
        consumer: str = "desk#00000001",
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.topic, self.consumer = topic, consumer
        self._loop = loop
        self._client: Any = None
        bus.create_consumer_group(topic, GROUP)

    def claim(self, want: int = 1, *, alone: bool = False) -> list[Delivery]:
        return self._ask(lambda seat: deliveries.claim(seat, want, alone)).deliveries

    def recover(self) -> list[Delivery]:
        """What is this consumer's on the server, whatever it heard of that."""
        return self._ask(lambda seat: deliveries.recover(seat, "")).deliveries

    def one(self) -> Delivery:
        [item] = self.claim()
        return item

    def complete(self, *items: Delivery, result: str = '"ok"') -> list[str]:
        """As the runtime does: one that comes alone goes by `finish`, if it can."""
        done = [Completion(item, self._row(item, result), 1, 2) for item in items]

        async def end(seat: Seat) -> list[str]:
            if len(done) == 1 and await finish(seat, done[0]):
                return [deliveries.OK]
            return await deliveries.complete(seat, done)

        return self._ask(end)

    def fail(self, item: Delivery, **how: Any) -> str:
        [outcome] = self.fail_all(self.failure(item, **how))
        return outcome

    def fail_all(self, *ends: Failure) -> list[str]:
        return self._ask(lambda seat: deliveries.fail(seat, ends))

    def failure(
        self,
        item: Delivery,
        *,
        message: str = "no",
        delay_s: float = 3_600,
        final: bool = False,
        max_attempts: int = 5,
    ) -> Failure:
        error = failures.plain("ValueError", message, "failed")
        line = failures.attempt_line(
            epoch=item.record.epoch,
            attempt=item.record.attempt + 1,
            agent="desk",
            fence=item.fence,
            started_ms=item.received_ms,
            finished_ms=item.received_ms + 5,
            error=error,
        )
        said = json.dumps(error).encode()
        mark = failures.fingerprint(error)
        return Failure(item, line, said, mark, delay_s, final, max_attempts, 3)

    def release(self, *items: Delivery) -> int:
        return self._ask(lambda seat: deliveries.release(seat, items))

    def beat(self, *items: Delivery) -> deliveries.Beat:
        client: Any = connection.writer()
        return deliveries.heartbeat(client, self.topic, GROUP, self.consumer, items)

    def lose(self) -> int:
        return judge.take(self.topic, GROUP, self.consumer, idle_ms=0)

    def close(self) -> None:
        if self._loop is not None and self._client is not None:
            self._loop.run_until_complete(self._client.aclose())

    def _row(self, item: Delivery, result: str) -> bytes:
        return endings.result_row(
            item.id,
            self.topic,
            item.json,
            result.encode(),
            agent="desk",
            attempt=item.record.attempt + 1,
            fence=item.fence,
            enqueued_ms=item.enqueued_ms,
            started_ms=item.received_ms,
            finished_ms=item.received_ms + 5,
            own=records.own(item.record.options),
        )

    def _ask(self, call: Callable[[Seat], Awaitable[T]]) -> T:
        if self._loop is not None:
            return self._loop.run_until_complete(self._asked(call))

        async def once() -> T:
            client = connection.adedicated()
            try:
                return await call(Seat(client, self.topic, GROUP, self.consumer))
            finally:
                await client.aclose()

        return asyncio.run(once())

    async def _asked(self, call: Callable[[Seat], Awaitable[T]]) -> T:
        if self._client is None:
            self._client = connection.adedicated()
        return await call(Seat(self._client, self.topic, GROUP, self.consumer))


async def finish(seat: Seat, item: Completion) -> bool:
    """Whether `finish` has ended it; what kept it from that `complete` will say."""
    await seat.client.execute_command("PING")  # a wire is made by its first command
    answer = deliveries.finish(seat, item)
    with contextlib.suppress(redis.RedisError):
        return answer is not None and bool(await answer)
    return False


def idle_for(topic: str, consumer: str, idle_s: float) -> None:
    """Let an owner have given no sign of the tasks it holds for so long."""
    client, stream = connection.get_redis(), keys.task_stream(topic)
    group = bus.stats(topic)["group"]
    rows: Any = client.xpending_range(stream, group, "-", "+", 100, consumer)
    sids = [row["message_id"] for row in rows]
    idle_ms = int(idle_s * 1000)
    client.xclaim(stream, group, consumer, 0, sids, idle=idle_ms, justid=True)
