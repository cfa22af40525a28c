"""Dramatiq: one process with its usual eight threads, results kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import dramatiq
import harness
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=harness.URL)
broker.add_middleware(Results(backend=RedisBackend(url=harness.URL)))
dramatiq.set_broker(broker)
WAIT_MS = 10_000


@dramatiq.actor(store_results=True)
def noop(payload: Any) -> bool:
    harness.ran()
    return True


class Client:
    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        yield

    def send(self, number: int) -> None:
        noop.send(harness.payload(number))

    def send_many(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.send(number)

    def trip(self, number: int) -> None:
        message = noop.send(harness.payload(number))
        message.get_result(block=True, timeout=WAIT_MS)


if __name__ == "__main__":
    harness.main(Client())
