"""Celery: one solo worker, results kept, no chatter between workers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import harness
from celery import Celery

app = Celery("with_celery", broker=harness.URL, backend=harness.URL)
app.conf.update(
    worker_prefetch_multiplier=1000,
    worker_enable_remote_control=False,
    broker_connection_retry_on_startup=True,
)
WAIT_S = 10


@app.task(name="noop")
def noop(payload: Any) -> None:
    harness.ran()


class Client:
    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        with app.producer_pool.acquire(block=True) as self._producer:
            yield

    def send(self, number: int) -> None:
        noop.apply_async((harness.payload(number),), producer=self._producer)

    def send_many(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.send(number)

    def trip(self, number: int) -> None:
        noop.delay(harness.payload(number)).get(timeout=WAIT_S)


if __name__ == "__main__":
    harness.main(Client())
